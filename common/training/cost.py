"""What a step costs: median seconds and peak bytes, on a GPU and on a CPU."""

import contextlib
import gc
import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


@dataclass(frozen=True)
class Cost:
    """Cost of one step.

    seconds: median over the timed repeats; seconds_low, seconds_high: their quartiles.
    peak_bytes: most memory in use during a step beyond what was in use before it.
    resident_bytes: what was in use before it (parameters, optimiser state, data).
    On a GPU the bytes are the allocator's; on a CPU those of all live tensors (storage counted
    once, workspaces inside an operator not).
    """

    seconds: float
    seconds_low: float
    seconds_high: float
    repeats: int
    peak_bytes: int
    resident_bytes: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def measure(
    step: Callable[[], object], device: torch.device, repeats: int = 10, warm_up: int = 3
) -> Cost:
    """Runs ``step`` warm_up + repeats times for time and once more for memory (on a CPU)."""
    for _ in range(warm_up):
        step()
    if device.type == "cuda":
        seconds, peak, resident = _on_cuda(step, device, repeats)
    else:
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        resident = live_tensor_bytes()
        with TensorMemory() as memory:
            step()
        peak = memory.peak
    ordered = sorted(seconds)
    low, _, high = statistics.quantiles(ordered, n=4) if repeats > 1 else ordered * 3
    return Cost(statistics.median(ordered), low, high, repeats, peak, resident)


def _on_cuda(
    step: Callable[[], object], device: torch.device, repeats: int
) -> tuple[list[float], int, int]:
    torch.cuda.synchronize(device)
    resident = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    events = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize(device)
    seconds = [start.elapsed_time(end) / 1e3 for start, end in events]
    return seconds, torch.cuda.max_memory_allocated(device) - resident, resident


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of tensor storages that come and go while it is active.

    ``peak`` is the largest sum of storages alive at once that were made inside the context;
    ``current`` the present one. Storages are followed through the operators that make them, in
    forward, backward and forward-mode passes alike, so that the count is exact and the same on
    every run; it works for tensors on any device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        self.peak = 0
        self._alive: dict[int, object] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        before = {_storage_key(t) for t in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._follow(tensor, before)
        return result

    def _follow(self, tensor: Tensor, before: set[int]) -> None:
        key = _storage_key(tensor)
        if key in self._alive or key in before:
            return  # a view, or written in place
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self.current += size
        self.peak = max(self.peak, self.current)
        self._alive[key] = weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        del self._alive[key]
        self.current -= size


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor)]


def _storage_key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def live_tensor_bytes() -> int:
    """Bytes of all storages of tensors in Python and of their gradients, each counted once."""
    sizes = {}
    for item in gc.get_objects():
        if issubclass(type(item), Tensor) and item.layout == torch.strided:
            for tensor in (item, item.grad if item.is_leaf else None):
                if tensor is not None:
                    # A wrapper that a torch.func transform has left behind has no storage.
                    with contextlib.suppress(NotImplementedError):
                        sizes[_storage_key(tensor)] = tensor.untyped_storage().nbytes()
    return sum(sizes.values())
