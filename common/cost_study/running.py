"""One case in a process of its own, so that running out of memory ends no more than that.

Every row is written as soon as it is measured. When the system ends the process, the row under way
is recorded as one that does not fit, and a new process goes on.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.command import PARENT, end_with_parent
from common.cost_study.case import CostCase, Size
from common.cost_study.measuring import CaseMeter, FakeCase
from common.cost_study.records import Measurement, write_measurement
from common.cost_study.rows import PLAIN, Row, named, rows_of
from common.errors import UserError
from common.hypergrad.compare import Rounds
from common.reporting import collect_provenance
from common.reporting.records import load
from common.training import choose_device, configure, seed_everything

COUNTED = "counted"
_MEMORY_WORDS = (
    "allocate memory", "out of memory", "not enough memory", "bad_alloc",
    "could not create a memory",
)  # fmt: skip
_LOST = {"outcome": "does not fit", "reason": "the system ended the process"}


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
            device=self.device.split(":")[0], threads=self.threads,
            **{"outcome": "refused", "provenance": collect_provenance()} | found,
        )  # fmt: skip

    def pending(self) -> list[Row]:
        """Rows still to be measured: without a measurement, or one with other threads."""

        def done(row: Row) -> bool:
            path = self.measurement(row, provenance={}).path(self.folder)
            return path.exists() and load(path, Measurement).threads == self.threads

        return [row for row in self.rows() if not done(row)]


Report = Callable[[Row, Measurement | None], None]
"""Called when a row begins (None) and when it is done."""


def measure_case(job: Job, report: Report) -> None:
    """Measures and writes what is pending of a case. UserError if its process fails otherwise than
    for memory."""
    while pending := job.pending():
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn, _begin, (os.getpid(),)) as pool:
            row = Row(PLAIN)
            try:
                unfit = pool.submit(_open, job).result()
                for row in pending:
                    report(row, None)
                    began = time.monotonic()
                    found = unfit or pool.submit(_measure, row).result()
                    _write(job, row, found | {"wall_seconds": time.monotonic() - began}, report)
            except BrokenProcessPool:
                # Without a plain step nothing can be measured.
                for lost in pending if row == Row(PLAIN) else [row]:
                    _write(job, lost, _LOST, report)
            except RuntimeError as error:
                raise UserError(f"{job.figure}, {job.x} failed: {error}") from None
            except KeyboardInterrupt:
                for process in multiprocessing.active_children():
                    process.kill()
                raise


def _write(job: Job, row: Row, found: dict[str, Any], report: Report) -> None:
    measurement = job.measurement(row, **found)
    write_measurement(measurement, job.folder)
    report(row, measurement)


_state: dict[str, Any] = {}
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
            raise RuntimeError(one_line(error)) from None
        return {"outcome": "does not fit", "reason": one_line(error)}
    _state["measure"] = lambda row: meter.measure(row, job.rounds)
    return None


def _measure(row: Row) -> dict[str, Any]:
    """What is recorded of a row, with the provenance of the process that measured it."""
    try:
        found = _state["measure"](row)
    except Exception as error:
        # Torch and the estimators refuse what they cannot do with many kinds of errors.
        outcome = "does not fit" if is_memory_error(error) else "refused"
        found = {"outcome": outcome, "reason": one_line(error)}
    return found | {"provenance": collect_provenance()}


def is_memory_error(error: BaseException) -> bool:
    """Whether memory was short, in the words of Python, torch, its allocators or oneDNN."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error).lower() for words in _MEMORY_WORDS)


def one_line(error: BaseException) -> str:
    """An error's first line, at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


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
