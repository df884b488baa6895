"""The cost of one row of a case: measured, or counted on shapes alone."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from common.cost_study.case import CostCase, CostProblem, Step
from common.cost_study.rows import PLAIN, Row, estimator_of, reason_to_exclude
from common.estimators import ONE_BATCH
from common.hypergrad import Anchor, BatchedCandidates
from common.hypergrad.compare import Rounds, in_turns
from common.hypergrad.memory import live_tensor_bytes, peak_memory
from common.hypergrad.problem import BilevelProblem, gradients_by_both, leaves
from common.training import seed_everything


class CaseMeter:
    """A case with its plain step measured, ready for row after row."""

    def __init__(
        self, case: CostProblem, device: torch.device, kind: type[Tensor] = Tensor
    ) -> None:
        self.case, self.device = case, device
        self.start = {n: t.detach().clone() for n, t in case.params.items()}
        case.base_step()  # optimisers make their states in the first step
        case.plain_step()
        self.plain_peak, self.resident = peak_memory(case.plain_step, device, kind)
        self.sizes = {
            "parameters": sum(t.numel() for t in case.params.values()),
            "hyperparameters": sum(t.numel() for t in case.hyper.values()),
        }

    def measure(self, row: Row, rounds: Rounds) -> dict[str, Any]:
        """What a Measurement says of a row."""
        reason = reason_to_exclude(row, self.case)
        if reason is not None:
            return self.sizes | {"outcome": "does not apply", "reason": reason}
        with self._same_start():
            step = step_of(self.case, row)
            step()  # estimators examine a problem in the first
            # On a CPU operators are counted one by one, which compiled code passes by; the
            # allocator of a GPU sees all.
            counted = self.device.type == "cuda" or row.how != "compiled"
            peak = peak_memory(step, self.device)[0] if counted else None
            plain_seconds, seconds = in_turns((self.case.plain_step, step), self.device, rounds)
        return self.sizes | {
            "outcome": "measured",
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


def step_of(case: CostProblem, row: Row) -> Step:
    """The whole training step of a row."""
    if row.key in case.steps:
        return case.steps[row.key]
    if row.how == "shared":
        return shared_step(case, row)
    problem, base_step, plain = case.problem, case.base_step, case.plain_step
    if row.how == "compiled":
        problem = compiled_problem(problem)
        base_step, plain = torch.compile(base_step), torch.compile(plain)
    if row.method == PLAIN:
        return plain
    estimator, inner = estimator_of(row, case), case.inner_batch
    if row.method not in ONE_BATCH:
        inner = [inner] * row.options["steps"]
    generator = torch.Generator().manual_seed(1)

    def step() -> None:
        estimator(problem, case.params, case.hyper, inner, case.outer_batch, generator)
        base_step()

    return step


def shared_step(case: CostProblem, row: Row) -> Step:
    """A base step whose backward gives dL_T/dlambda along with its own gradient, for an estimator
    that takes both (``Anchor``)."""
    estimator, generator = estimator_of(row, case), torch.Generator().manual_seed(1)
    assert case.optimizer is not None

    def step() -> None:
        def base_gradient() -> Anchor:
            theta, hyper = leaves(case.params), leaves(case.hyper)
            loss = case.problem.inner_loss(theta, hyper, case.inner_batch)
            found, by_hyper = gradients_by_both(loss, theta, hyper)
            for name, parameter in case.params.items():
                parameter.grad = found[name]
            return Anchor(loss.detach(), by_hyper)

        at = case.problem, case.params, case.hyper, case.inner_batch, case.outer_batch, generator
        estimator(*at, anchor=base_gradient)
        case.optimizer.step()
        case.optimizer.zero_grad()

    return step


def compiled_problem(problem: BilevelProblem) -> BilevelProblem:
    """The problem with its losses under torch.compile."""
    names = ["inner_loss", "outer_loss"]
    if isinstance(problem, BatchedCandidates):
        names.append("inner_losses")
    return SimpleNamespace(**{name: torch.compile(getattr(problem, name)) for name in names})


class FakeCase:
    """A case on shapes alone: no values, so it takes seconds and no memory, at any size."""

    def __init__(self, case: CostCase) -> None:
        self.mode = FakeTensorMode()
        with self.mode, patch.object(nn.Module, "to", _to):
            seed_everything(1)
            cpu = torch.device("cpu")
            self.meter = CaseMeter(case.build(cpu), cpu, FakeTensor)
            with FlopCounterMode(display=False) as plain:
                self.meter.case.plain_step()
        self.plain = plain.get_total_flops()

    def count(self, row: Row) -> dict[str, Any]:
        """What a Measurement says of a row: bytes, and the floating-point operations of matrix
        products and convolutions."""
        meter = self.meter
        reason = reason_to_exclude(row, meter.case) or BY_VALUES.get(row.method)
        if reason is not None:
            return meter.sizes | {"outcome": "does not apply", "reason": reason}
        with self.mode:
            step = step_of(meter.case, row)
            before = live_tensor_bytes(FakeTensor) if row.key in meter.case.steps else None
            # In a step of its own: the counter of operations keeps tensors alive.
            with FlopCounterMode(display=False) as operations:
                step()
            gc.collect()
            peak, after = peak_memory(step, meter.device, FakeTensor)
        return meter.sizes | {
            "outcome": "counted",
            "operations": operations.get_total_flops(),
            "plain_operations": self.plain,
            "peak_bytes": peak,
            "plain_peak_bytes": meter.plain_peak,
            "resident_bytes": meter.resident + (0 if before is None else after - before),
        }


BY_VALUES = dict.fromkeys(
    ("reversible", "implicit_cg", "layer_sampled"), "it decides by values, which a count lacks"
) | {"t1t2_higher": "the higher library does not take tensors without values"}
"""Estimators that cannot be counted."""


def _to(module: nn.Module, *_: Any, memory_format: Any = None, **__: Any) -> nn.Module:
    """``Module.to`` for fake parameters, which torch cannot exchange in place: the memory format
    alone, since there is one device."""
    for part in module.modules():
        for name, tensor in part._parameters.items():
            if tensor is not None and memory_format is not None and tensor.dim() == 4:
                changed = tensor.detach().to(memory_format=memory_format)
                part._parameters[name] = nn.Parameter(changed, tensor.requires_grad)
    return module
