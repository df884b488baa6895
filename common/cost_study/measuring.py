"""The costs of a case's rows: measured, or counted on shapes alone, in a process of its own.

Every row is written as soon as it is measured. When the system ends the process for want of memory,
the row under way is recorded as one that does not fit, and a new process goes on.
"""

import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from common.command import PARENT, end_with_parent
from common.cost_study.case import CostCase, CostProblem, Size, Step
from common.cost_study.records import PLAIN, Measurement, Row, named, rows_of
from common.errors import UserError
from common.estimators import ESTIMATORS, ONE_BATCH
from common.hypergrad import Anchor, BatchedCandidates, Estimator
from common.hypergrad.compare import Rounds, in_turns
from common.hypergrad.layer_sampled import layer_of
from common.hypergrad.memory import live_tensor_bytes, peak_memory
from common.hypergrad.problem import BilevelProblem, gradients_by_both, leaves
from common.reporting.records import collect_provenance, load, save
from common.training import choose_device, configure, seed_everything

COUNTED = "counted"
MOST_HYPER = 16
"""The largest number of hyperparameters with which forward mode makes sense."""
BY_VALUES = dict.fromkeys(
    ("reversible", "implicit_cg", "layer_sampled"), "it decides by values, which a count lacks"
) | {"t1t2_higher": "the higher library does not take tensors without values"}
"""Estimators that cannot be counted."""
# What an estimator is given beside a row's options. CG: damped so much that no iteration meets
# negative curvature or ends early, since the network of a cost case is untrained, and an iteration
# costs the same.
_GIVEN: dict[str, dict[str, Any]] = {
    "reversible": {"momentum": 0.9},
    "implicit_cg": {"damping": 1e6, "tolerance": 0.0},
}
_MEMORY_WORDS = (
    "allocate memory", "out of memory", "not enough memory", "bad_alloc",
    "could not create a memory",
)  # fmt: skip


def estimator_of(row: Row, case: CostProblem) -> Estimator:
    """The estimator of a row, for a case."""
    options = dict(row.options)
    if "layers" in options:
        options["layers"] = [layer_of(list(case.params)[-1])]
    given = {"inner_lr": case.inner_lr, "perturb": case.perturb, **_GIVEN.get(row.method, {})}
    return ESTIMATORS[row.method].build(**given | options)


def reason_to_exclude(row: Row, case: CostProblem) -> str | None:
    """Why a row does not apply to a case; None if it does."""
    entries = sum(tensor.numel() for tensor in case.hyper.values())
    if row.method == "forward_mode" and entries > MOST_HYPER:
        return f"one backward for each of {entries:,} hyperparameters"
    return case.excluded.get(row.method)


def step_of(case: CostProblem, row: Row) -> Step:
    """The whole training step of a row."""
    if row.key in case.steps:
        return case.steps[row.key]
    problem, base_step, plain = case.problem, case.base_step, case.plain_step
    if row.how == "compiled":
        problem = compiled_problem(problem)
        base_step, plain = torch.compile(base_step), torch.compile(plain)
    if row.method == PLAIN:
        return plain
    estimator, inner = estimator_of(row, case), case.inner_batch
    if row.method not in ONE_BATCH:
        inner = [inner] * row.options["steps"]
    at = problem, case.params, case.hyper, inner, case.outer_batch, torch.Generator().manual_seed(1)

    def base_gradient() -> Anchor:
        """The base step's backward, which gives dL_T/dlambda along with its own gradient."""
        theta, hyper = leaves(case.params), leaves(case.hyper)
        loss = problem.inner_loss(theta, hyper, inner)
        found, by_hyper = gradients_by_both(loss, theta, hyper)
        for name, parameter in case.params.items():
            parameter.grad = found[name]
        return Anchor(loss.detach(), by_hyper)

    def step() -> None:
        if row.how == "shared":
            estimator(*at, anchor=base_gradient)
            case.optimizer.step()
            case.optimizer.zero_grad()
        else:
            estimator(*at)
            base_step()

    return step


def compiled_problem(problem: BilevelProblem) -> BilevelProblem:
    """The problem with its losses under torch.compile."""
    names = ["inner_loss", "outer_loss"]
    if isinstance(problem, BatchedCandidates):
        names.append("inner_losses")
    return SimpleNamespace(**{name: torch.compile(getattr(problem, name)) for name in names})


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
        if reason := reason_to_exclude(row, self.case):
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
        if reason := reason_to_exclude(row, meter.case) or BY_VALUES.get(row.method):
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


def _to(module: nn.Module, *_: Any, memory_format: Any = None, **__: Any) -> nn.Module:
    """``Module.to`` for fake parameters, which torch cannot exchange in place: the memory format
    alone, since there is one device."""
    for part in module.modules():
        for name, tensor in part._parameters.items():
            if tensor is not None and memory_format is not None and tensor.dim() == 4:
                changed = tensor.detach().to(memory_format=memory_format)
                part._parameters[name] = nn.Parameter(changed, tensor.requires_grad)
    return module


@dataclass(frozen=True)
class Job:
    """A case and how it is to be measured.

    cases: an experiment's, a function that another process can import. device: by torch's name, or
    COUNTED. words: only the rows that these stand for; empty for all. compiled: also under
    torch.compile.
    """

    experiment: str
    figure: str
    x: str
    cases: Callable[[Size], list[CostCase]]
    size: Size
    device: str
    threads: int
    folder: Path
    rounds: Rounds
    words: tuple[str, ...] = ()
    compiled: bool = False

    @property
    def place(self) -> str:
        """As it is read, and found by words."""
        return f"{self.figure}, {self.x}"

    @property
    def case(self) -> CostCase:
        """Found again by figure and x, in whatever process."""
        found = self.cases(self.size)
        return next(c for c in found if (c.figure, c.x) == (self.figure, self.x))

    def rows(self) -> list[Row]:
        """The chosen rows."""
        wanted = [word.lower() for word in self.words]
        return [
            row
            for row in rows_of(self.case, self.compiled)
            if row.method == PLAIN or not wanted or any(named(row.key, w) for w in wanted)
        ]

    def measurement(self, row: Row, **found: Any) -> Measurement:
        """What is recorded of a row."""
        return Measurement(
            experiment=self.experiment, figure=self.figure, x=self.x, method=row.method,
            options=dict(row.options), how=row.how, size=self.size,
            device=self.device.split(":")[0], threads=self.threads, **found,
        )  # fmt: skip

    def pending(self) -> list[Row]:
        """Rows still to be measured: without a measurement, or one with other threads."""

        def done(row: Row) -> bool:
            path = self.measurement(row, outcome="refused").path(self.folder)
            return path.exists() and load(path, Measurement).threads == self.threads

        return [row for row in self.rows() if not done(row)]


def measure_case(job: Job) -> Iterator[tuple[Row, Measurement | None]]:
    """Measures and writes what is pending of a case: yields each row when it begins, and with its
    measurement when it is done. UserError if its process fails otherwise than for memory."""

    def written(row: Row, found: dict[str, Any]) -> tuple[Row, Measurement]:
        measurement = job.measurement(row, **found)
        save(measurement, measurement.path(job.folder))
        return row, measurement

    while pending := job.pending():
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn, _begin, (os.getpid(),)) as pool:
            row = Row(PLAIN)
            try:
                unfit = pool.submit(_open, job).result()
                for row in pending:
                    yield row, None
                    began = time.monotonic()
                    found = unfit or pool.submit(_measure, row).result()
                    yield written(row, found | {"wall_seconds": time.monotonic() - began})
            except BrokenProcessPool:
                reason = "the system ended the process"
                lost = {"outcome": "does not fit", "reason": reason}
                # Without a plain step nothing can be measured.
                for unmeasured in pending if row == Row(PLAIN) else [row]:
                    yield written(unmeasured, lost | {"provenance": collect_provenance()})
            except RuntimeError as error:
                raise UserError(f"{job.place} failed: {error}") from None
            except KeyboardInterrupt:
                for process in multiprocessing.active_children():
                    process.kill()
                raise


_state: dict[str, Callable[[Row], dict[str, Any]]] = {}
"""In the measuring process: how a row is measured."""


def _begin(parent: int) -> None:
    os.environ[PARENT] = str(parent)
    end_with_parent()


def _open(job: Job) -> dict[str, Any] | None:
    """Builds the case and measures its plain step; what to record of all rows if that does not
    fit."""
    configure(job.threads)
    if job.device == COUNTED:
        _state["measure"] = FakeCase(job.case).count
        return None
    device = choose_device(job.device)
    if device.type == "cpu":
        limit_memory()
    seed_everything(1)
    try:
        meter = CaseMeter(job.case.build(device), device)
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise RuntimeError(_failure(error)["reason"]) from None
        return _failure(error)
    _state["measure"] = lambda row: meter.measure(row, job.rounds)
    return None


def _measure(row: Row) -> dict[str, Any]:
    """What is recorded of a row, with the provenance of the process that measured it."""
    try:
        found = _state["measure"](row)
    except Exception as error:  # torch and the estimators refuse with many kinds of errors
        found = _failure(error)
    return found | {"provenance": collect_provenance()}


def _failure(error: Exception) -> dict[str, Any]:
    """What is recorded of an error: its first line, at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    outcome = "does not fit" if is_memory_error(error) else "refused"
    return {"outcome": outcome, "reason": lines[0][:200], "provenance": collect_provenance()}


def is_memory_error(error: BaseException) -> bool:
    """Whether memory was short, in the words of Python, torch, its allocators or oneDNN."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error).lower() for words in _MEMORY_WORDS)


def limit_memory() -> None:
    """Makes allocations beyond nine tenths of the memory that is free fail, so that they can be
    caught (where the system has such limits)."""
    known = Path("/proc/meminfo")
    if not known.exists():
        return
    import resource

    fields = dict(line.split(":") for line in known.read_text().splitlines())
    free = 1024 * int(fields["MemAvailable"].split()[0])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + int(0.9 * free), hard))
