"""Bytes of tensors, counted one by one: exact, the same on every run, on any device."""

import contextlib
import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of tensor storages that come and go while it is active.

    ``peak`` is the largest sum of storages alive at once that were made inside the context;
    ``current`` the present one. Storages are followed through the operators that make them, in
    forward, backward and forward-mode passes alike, so that the count is exact and the same on
    every run; it works for tensors on any device, and for fake ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._alive: dict[int, object] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        tensors = (t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor))
        before = {t.untyped_storage()._cdata for t in tensors}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._alive or key in before:
                continue  # a view, or written in place
            self.current += size
            self.peak = max(self.peak, self.current)
            self._alive[key] = weakref.finalize(storage, self._release, key, size)
        return result

    def _release(self, key: int, size: int) -> None:
        del self._alive[key]
        self.current -= size


def live_tensor_bytes(kind: type[Tensor] = Tensor) -> int:
    """Bytes of all storages of tensors (of a kind) in Python and of their gradients, each counted
    once."""
    sizes = {}
    for item in gc.get_objects():
        if issubclass(type(item), kind) and item.layout == torch.strided:
            for tensor in (item, item.grad if item.is_leaf else None):
                if tensor is not None:
                    # A wrapper that a torch.func transform has left behind has no storage.
                    with contextlib.suppress(NotImplementedError):
                        storage = tensor.untyped_storage()
                        sizes[storage._cdata] = storage.nbytes()
    return sum(sizes.values())


def peak_memory(
    step: Callable[[], object], device: torch.device, kind: type[Tensor] = Tensor
) -> tuple[int, int]:
    """(most bytes in use during a step beyond those before it, those before it).

    On a GPU the allocator's; elsewhere those of all live tensors (a storage counted once,
    workspaces inside an operator not). kind: of the tensors that were there before.
    """
    if device.type != "cuda":
        resident = live_tensor_bytes(kind)
        with TensorMemory() as memory:
            step()
        return memory.peak, resident
    torch.cuda.synchronize(device)
    resident = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - resident, resident
