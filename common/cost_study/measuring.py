"""Measures the methods of one case: time in turns with the plain step, memory once."""

import gc
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from common.cost_study.case import CostProblem, Step
from common.cost_study.methods import PLAIN, Method, reason_to_exclude
from common.hypergrad import BatchedCandidates, BilevelProblem
from common.training import TensorMemory, live_tensor_bytes, measure

TURN_SECONDS = 0.02  # a turn repeats steps that are shorter


@dataclass(frozen=True)
class Rounds:
    """How often a method and the plain step take turns: as often as fit into ``seconds``, within
    ``least`` and ``most``."""

    seconds: float = 3.0
    least: int = 3
    most: int = 30

    def number(self, round_seconds: float) -> int:
        return max(self.least, min(self.most, int(self.seconds / round_seconds)))


class CaseMeter:
    """A case with its plain step measured, ready for method after method."""

    def __init__(self, case: CostProblem, device: torch.device) -> None:
        self.case, self.device = case, device
        self.start = {n: t.detach().clone() for n, t in case.params.items()}
        case.base_step()  # optimisers make their states in the first step
        case.plain_step()
        self.plain_peak, self.resident = peak_memory(case.plain_step, device)

    def measure(
        self, name: str, method: Method | None, compiled: bool, rounds: Rounds
    ) -> dict[str, Any]:
        """What a Measurement says of a method (None: of one of the case's own steps, by name, or of
        the plain step)."""
        sizes = {
            "parameters": sum(t.numel() for t in self.case.params.values()),
            "hyperparameters": sum(t.numel() for t in self.case.hyper.values()),
        }
        reason = reason_to_exclude(method, self.case) if method else None
        if reason is not None:
            return sizes | {"outcome": "does not apply", "reason": reason}
        with self._same_start():
            found = self._costs(self._step(name, method, compiled), compiled, rounds)
        return sizes | {"outcome": "measured", **found}

    def _step(self, name: str, method: Method | None, compiled: bool) -> Step:
        if name == PLAIN:
            return torch.compile(self.case.plain_step) if compiled else self.case.plain_step
        if name in self.case.steps:
            return self.case.steps[name]
        return method_step(self.case, method, compiled)

    def _costs(self, step: Step, compiled: bool, rounds: Rounds) -> dict[str, Any]:
        # On a CPU operators are counted one by one, which compiled code passes by; the allocator of
        # a GPU sees all.
        peak, began = None, time.monotonic()
        if self.device.type == "cuda" or not compiled:
            peak, _ = peak_memory(step, self.device)
        else:
            step()
        once = time.monotonic() - began
        if self.device.type == "cuda" or compiled:  # the first step made ready much besides
            once = timed(step, self.device, 1)
        plain_once = timed(self.case.plain_step, self.device, 1)
        repeats, plain_repeats = (math.ceil(TURN_SECONDS / s) for s in (once, plain_once))
        seconds, plain_seconds = [], []
        for _ in range(rounds.number(once + plain_once)):
            plain_seconds.append(timed(self.case.plain_step, self.device, plain_repeats))
            seconds.append(timed(step, self.device, repeats))
        return {
            "seconds": seconds,
            "plain_seconds": plain_seconds,
            "peak_bytes": peak,
            "plain_peak_bytes": self.plain_peak,
            "resident_bytes": self.resident,
        }

    @contextmanager
    def _same_start(self) -> Iterator[None]:
        """Every method begins at the same theta, however the steps before have moved it."""
        with torch.no_grad():
            for name, tensor in self.case.params.items():
                tensor.copy_(self.start[name])
        try:
            yield
        finally:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def method_step(case: CostProblem, method: Method, compiled: bool) -> Step:
    """A method's hypergradient, then the base step."""
    estimator = method.make(case)
    inner = [case.inner_batch] * method.inner_steps if method.inner_steps else case.inner_batch
    problem, base_step = case.problem, case.base_step
    if compiled:
        problem, base_step = compiled_problem(problem), torch.compile(base_step)
    generator = torch.Generator().manual_seed(1)

    def step() -> None:
        estimator(problem, case.params, case.hyper, inner, case.outer_batch, generator)
        base_step()

    return step


def compiled_problem(problem: BilevelProblem) -> BilevelProblem:
    """The problem with its losses under torch.compile."""
    names = ["inner_loss", "outer_loss"]
    if isinstance(problem, BatchedCandidates):
        names.append("inner_losses")
    return SimpleNamespace(**{name: torch.compile(getattr(problem, name)) for name in names})


def timed(step: Step, device: torch.device, repeats: int) -> float:
    """Mean wall seconds of one of ``repeats`` steps, the device's work included."""
    _wait_for(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    _wait_for(device)
    return (time.perf_counter() - start) / repeats


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(step: Step, device: torch.device) -> tuple[int, int]:
    """(most bytes in use during a step beyond those before it, those before it); see Cost."""
    if device.type == "cuda":
        cost = measure(step, device, repeats=1, warm_up=1)
        return cost.peak_bytes, cost.resident_bytes
    resident = live_tensor_bytes()
    with TensorMemory() as memory:
        step()
    return memory.peak, resident
