"""One case in a process of its own, so that running out of memory ends no more than that.

Every row is written as soon as it is measured. When the system ends the process, the row under way
is recorded as one that does not fit, and a new process goes on.
"""

import contextlib
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
from common.cost_study.measuring import CaseMeter, Rounds
from common.cost_study.methods import METHODS, PLAIN, Method
from common.cost_study.records import (
    Measurement,
    Point,
    Settings,
    measurement_path,
    write_measurement,
)
from common.errors import UserError
from common.reporting import collect_provenance
from common.reporting.records import load
from common.training import choose_device, configure, seed_everything

_MEMORY_WORDS = (
    "allocate memory",
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "could not create a memory",
)
_LOST = {"outcome": "does not fit", "reason": "the system ended the process"}


@dataclass(frozen=True)
class Row:
    """One row of a case's table: a method of METHODS by its name, the plain step, or a step that
    the case brings along."""

    name: str
    compiled: bool = False

    @property
    def method(self) -> Method | None:
        return next((m for m in METHODS if m.name == self.name), None)

    def __str__(self) -> str:
        return f"{self.name}, compiled" if self.compiled else self.name


@dataclass(frozen=True)
class Job:
    """A case and how it is to be measured.

    cases: of an experiment's ``cost.py``, a function that another process can import. words: only
    methods whose names hold one of these; empty for all. compiled: also under torch.compile.
    device: by torch's name.
    """

    point: Point
    cases: Callable[[Size], list[CostCase]]
    settings: Settings
    folder: Path
    device: str
    rounds: Rounds
    words: tuple[str, ...] = ()
    compiled: bool = False

    def case(self) -> CostCase:
        """Found again by figure and x, in whatever process."""
        found = self.cases(self.settings.size)
        return next(c for c in found if (c.figure, c.x) == (self.point.figure, self.point.x))

    def rows(self) -> list[Row]:
        """All rows; which ones is fixed by the size. The case's own step replaces a method of its
        name."""
        case = self.case()
        methods = [
            m for m in METHODS if m.name not in case.own_steps and (m.main or case.all_methods)
        ]
        rows = [Row(name) for name in (PLAIN, *case.own_steps, *(m.name for m in methods))]
        if self.compiled:
            rows.append(Row(PLAIN, compiled=True))
            rows += [Row(m.name, compiled=True) for m in methods if m.compiles]
        wanted = [word.lower() for word in self.words]
        return [
            row
            for row in rows
            if row.name == PLAIN or not wanted or any(w in row.name.lower() for w in wanted)
        ]

    def finished(self, row: Row) -> Measurement | None:
        """The measurement of a row, if it is there and made with these settings."""
        path = measurement_path(self.folder, self.point, row.name, row.compiled)
        found = load(path, Measurement) if path.exists() else None
        same = found and (found.point, found.settings) == (self.point, self.settings)
        return found if same else None

    def pending(self) -> list[Row]:
        """Rows still to be measured."""
        return [row for row in self.rows() if not self.finished(row)]


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
                    report(row, _write(job, row, found, time.monotonic() - began))
            except BrokenProcessPool:
                # Without a plain step nothing can be measured.
                for lost in pending if row.name == PLAIN else [row]:
                    report(lost, _write(job, lost, _LOST, 0.0))
            except RuntimeError as error:
                raise UserError(f"{job.point.figure}, {job.point.x} failed: {error}") from None
            except KeyboardInterrupt:
                for process in multiprocessing.active_children():
                    process.kill()
                raise


def _write(job: Job, row: Row, found: dict[str, Any], seconds: float) -> Measurement:
    measurement = Measurement(
        point=job.point,
        method=row.name,
        compiled=row.compiled,
        settings=job.settings,
        wall_seconds=seconds,
        **{"provenance": collect_provenance()} | found,
    )
    write_measurement(measurement, job.folder)
    return measurement


_state: dict[str, Any] = {}
"""In the measuring process: its job and the meter of its case."""


def _begin(parent: int) -> None:
    os.environ[PARENT] = str(parent)
    end_with_parent()


def _open(job: Job) -> dict[str, Any] | None:
    """Builds the case and measures its plain step; what to record of all rows if that does not
    fit."""
    device = choose_device(job.device)
    configure(job.settings.threads)
    if device.type == "cpu":
        limit_memory()
    seed_everything(1)
    try:
        _state.update(job=job, meter=CaseMeter(job.case().build(device), device))
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise RuntimeError(one_line(error)) from None
        return {"outcome": "does not fit", "reason": one_line(error)}
    return None


def _measure(row: Row) -> dict[str, Any]:
    """What is recorded of a row, with the provenance of the process that measured it."""
    job, meter = _state["job"], _state["meter"]
    try:
        found = meter.measure(row.name, row.method, row.compiled, job.rounds)
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
    """Makes allocations beyond the memory that is free fail, so that they can be caught (where the
    system has such limits)."""
    free = free_memory()
    if free is None:
        return
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + int(0.9 * free), hard))


def free_memory() -> int | None:
    """Bytes that can still be used, as the system and the container have it; None if unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(
            1024 * int(next(li for li in lines if li.startswith("MemAvailable")).split()[1])
        )
        group = Path("/sys/fs/cgroup")
        most = (group / "memory.max").read_text().strip()
        if most != "max":
            found.append(int(most) - int((group / "memory.current").read_text()))
    return min(found) if found else None
