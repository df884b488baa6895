"""What a training step costs: median seconds and peak bytes, for run records."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from common.hypergrad.memory import TensorMemory, live_tensor_bytes, peak_memory

__all__ = ["Cost", "TensorMemory", "live_tensor_bytes", "measure"]


@dataclass(frozen=True)
class Cost:
    """Cost of one step.

    seconds: median over the timed repeats; seconds_low, seconds_high: their quartiles.
    peak_bytes: most memory in use during a step beyond what was in use before it.
    resident_bytes: what was in use before it (parameters, optimiser state, data).
    """

    seconds: float
    seconds_low: float
    seconds_high: float
    repeats: int
    peak_bytes: int
    resident_bytes: int


def measure(
    step: Callable[[], object], device: torch.device, repeats: int = 10, warm_up: int = 3
) -> Cost:
    """Runs ``step`` warm_up + repeats times for time and once more for memory."""
    synchronize = partial(torch.cuda.synchronize, device) if device.type == "cuda" else int
    for _ in range(warm_up):
        step()
    seconds = []
    for _ in range(repeats):
        synchronize()
        start = time.perf_counter()
        step()
        synchronize()
        seconds.append(time.perf_counter() - start)
    low, _, high = statistics.quantiles(seconds, n=4) if repeats > 1 else seconds * 3
    peak, resident = peak_memory(step, device)
    return Cost(statistics.median(seconds), low, high, repeats, peak, resident)
