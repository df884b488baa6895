"""What a checkpoint holds: the parts of a training by name, and the global random states."""

import copy
import random
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Stateful(Protocol):
    """Modules, optimisers, schedulers, batch streams."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


Part = Stateful | torch.Generator | Tensor | Mapping[str, Any]
"""One part of a training's state; a mapping holds parts by name."""


def state_of(part: Part) -> Any:
    """The present state as tensors and plain values, to be written to a file at once.

    As with ``state_dict``, the tensors are those that training goes on to change.
    """
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, Tensor):
        return part.detach()
    if isinstance(part, Mapping):
        return {name: state_of(inner) for name, inner in part.items()}
    return part.state_dict()


def restore(part: Part, saved: Any) -> None:
    """Puts back what ``state_of`` took; ValueError if it was taken of something else."""
    if isinstance(part, torch.Generator):
        part.set_state(saved)
    elif isinstance(part, Tensor):
        if part.shape != saved.shape:
            raise ValueError(f"a tensor of shape {tuple(saved.shape)}, not {tuple(part.shape)}")
        part.detach().copy_(saved)
    elif isinstance(part, Mapping):
        if part.keys() != saved.keys():
            raise ValueError(f"parts {sorted(saved)}, not {sorted(part)}")
        for name, inner in part.items():
            restore(inner, saved[name])
    else:
        part.load_state_dict(saved)


def random_states() -> dict[str, Any]:
    """The states of all global generators, as tensors and plain numbers (safe to load)."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        # Of torch.cuda or another accelerator; where there is none, an empty list.
        "devices": getattr(torch.get_device_module(), "get_rng_state_all", list)(),
        "numpy": {
            "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "python": random.getstate(),
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Puts back what ``random_states`` took."""
    torch.set_rng_state(states["torch"])
    module = torch.get_device_module()
    there = len(getattr(module, "get_rng_state_all", list)())
    if kept := states["devices"][:there]:  # others may be gone
        module.set_rng_state_all(kept)
    numpy_state = states["numpy"]
    key = numpy_state["key"].numpy().astype(np.uint32)
    np.random.set_state(  # noqa: NPY002
        ("MT19937", key, numpy_state["pos"], numpy_state["has_gauss"], numpy_state["gauss"])
    )
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


class Best:
    """The greatest value so far and what belongs to it; the first of equals is kept."""

    def __init__(self) -> None:
        self.value, self.kept = float("-inf"), None

    def offer(self, value: float, belonging: Any) -> Any:
        """Takes note of a value with what belongs to it (copied); what belongs to the best."""
        if value > self.value:
            self.value, self.kept = value, copy.deepcopy(belonging)
        return self.kept

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.kept = state["value"], state["kept"]
