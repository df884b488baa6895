"""One seed for everything: independent named streams, and the global states in a checkpoint."""

import hashlib
import random
from typing import Any

import numpy as np
import torch


def derived_seed(seed: int, name: str) -> int:
    """A seed for the stream ``name`` of run ``seed``: SHA-256, so the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 2


def new_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator for the stream ``name`` (shuffling, noise, perturbations) of run ``seed``."""
    return torch.Generator().manual_seed(derived_seed(seed, name))


def seed_everything(seed: int) -> None:
    """Seeds the global generators of torch (all devices), numpy and ``random``."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - other people's code may draw from it
    random.seed(seed)


def random_states() -> dict[str, Any]:
    """The states of all global generators, as tensors and plain numbers (safe to load)."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
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
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    numpy_state = states["numpy"]
    key = numpy_state["key"].numpy().astype(np.uint32)
    np.random.set_state(  # noqa: NPY002
        ("MT19937", key, numpy_state["pos"], numpy_state["has_gauss"], numpy_state["gauss"])
    )
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
