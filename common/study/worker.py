"""One case in a process of its own, so that running out of memory ends no more than that.

The child measures row after row and writes each as soon as it is done. When the system kills it
for its memory, the row under way is recorded as one that does not fit, and a new child goes on.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.reporting import collect_provenance
from common.study.estimators import PLAIN
from common.study.measuring import CaseMeter, OutOfTimeError
from common.study.plan import Job, Row
from common.study.records import Measurement, write_measurement
from common.training import choose_device, configure, seed_everything

# What a process dies of when memory is short: the system's choice, an allocation that failed.
_MEMORY_SIGNALS = {signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS}
_MEMORY_WORDS = (
    "allocate memory",
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "could not create a memory",
)


@dataclass(frozen=True)
class Event:
    """What the child tells: kind "rows" (with their number), "begin", "progress" (with the part
    done), "done" (with the outcome and reason), "left out" of a row (without its method), "end", or
    "error" (with its text)."""

    kind: str
    row: Row | None = None
    value: Any = None


def measure_case(job: Job, allowance: float, tell: Callable[[Event], None]) -> None:
    """Measures what is pending of a case; ``allowance``: seconds after which methods that can be
    left out are. Raises UserError if the child fails otherwise than for memory."""
    while job.pending():
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(job, allowance, sender), daemon=True)
        started = time.monotonic()
        child.start()
        sender.close()
        row, ended = None, False
        try:
            with contextlib.suppress(EOFError):
                while not ended:
                    event: Event = receiver.recv()
                    row = event.row or row
                    ended = event.kind in ("end", "error")
                    if event.kind != "end":
                        tell(event)
            child.join()
        finally:
            child.kill()
            child.join()
            receiver.close()
        if ended:
            if event.kind == "error":
                raise UserError(f"{job.point.figure}, {job.point.x} failed: {event.value}")
            return
        if -(child.exitcode or 0) not in _MEMORY_SIGNALS:
            raise UserError(
                f"{job.point.figure}, {job.point.x}: the measuring process ended with status "
                f"{child.exitcode}; the same command goes on"
            )
        reason = "the system ended the process"
        # If building the case or the plain step does not fit, nothing does.
        rows = job.pending() if row is None or row.name == PLAIN else [row]
        for lost in rows:
            seconds = time.monotonic() - started
            _write(job, lost, {"outcome": "does not fit", "reason": reason}, seconds)
            tell(Event("done", lost, ("does not fit", reason)))
        allowance = max(0.0, allowance - (time.monotonic() - started))


def _child(job: Job, allowance: float, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the child
    try:
        _measure_rows(job, time.monotonic() + allowance, sender)
        sender.send(Event("end"))
    except BrokenPipeError:
        pass  # the parent is gone
    except Exception as error:
        sender.send(Event("error", value=one_line(error)))


def _measure_rows(job: Job, deadline: float, sender: Connection) -> None:
    device = choose_device(job.device)
    configure(job.settings.threads, job.settings.tf32)
    if device.type == "cpu":
        limit_memory()
    seed_everything(1)
    try:
        case = job.case().build(device)
        meter = CaseMeter(case, device)
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        found = {"outcome": "does not fit", "reason": one_line(error)}
        for row in job.pending():
            _write(job, row, found, 0.0)
            bare = replace(row, method=None)
            sender.send(Event("done", bare, (found["outcome"], found["reason"])))
        return
    rows = [row for row in job.rows(list(case.steps)) if not job.finished(row)]
    sender.send(Event("rows", value=len(rows)))
    for row in rows:
        bare = replace(row, method=None)  # methods do not travel between processes
        sender.send(Event("begin", bare))
        began = time.monotonic()
        try:
            found = meter.measure(
                row.name,
                row.method,
                row.compiled,
                job.rounds,
                lambda part, bare=bare: sender.send(Event("progress", bare, part)),
                math.inf if row.always else deadline,
            )
        except OutOfTimeError:
            sender.send(Event("left out", bare))
            continue
        except BrokenPipeError:
            raise
        except Exception as error:
            # Torch and the estimators refuse what they cannot do with many kinds of errors.
            outcome = "does not fit" if is_memory_error(error) else "refused"
            found = {"outcome": outcome, "reason": one_line(error)}
        if row == Row(PLAIN):
            found |= {"own_steps": list(case.steps)}
        _write(job, row, found, time.monotonic() - began)
        sender.send(Event("done", bare, (found["outcome"], found.get("reason", ""))))


def _write(job: Job, row: Row, found: dict[str, Any], wall_seconds: float) -> None:
    measurement = Measurement(
        point=job.point,
        method=row.name,
        compiled=row.compiled,
        settings=job.settings,
        wall_seconds=wall_seconds,
        provenance=collect_provenance(),
        **found,
    )
    write_measurement(measurement, job.folder)


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
