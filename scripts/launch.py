"""Starts runs in processes of their own on this machine.

``launch_slurm`` has a launcher and runs with the same methods, for a cluster.
"""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from common.command import PARENT
from common.errors import UserError
from common.experiment import load_experiment
from common.files import locked
from common.run import RECORD
from common.settings import ROOT, RunSettings

LOG = "run.log"


class Busy(Exception):
    """Another process works on the run."""


def command(config: RunSettings) -> list[str]:
    """The command line of a run: what differs from its preset."""
    preset = load_experiment(config.experiment).presets[config.preset]
    words = [sys.executable, "-m", config.experiment, "--preset", config.preset]
    pairs: list[tuple[Any, Any, str, str]]
    pairs = [(config, preset, f.name, "--") for f in fields(config) if f.name != "estimator"]
    inner = "--estimator."
    pairs += [(config.estimator, preset.estimator, f.name, inner) for f in fields(config.estimator)]
    for settings, default, name, prefix in pairs:
        value, flag = getattr(settings, name), name.replace("_", "-")
        if value == getattr(default, name):
            continue
        if isinstance(value, bool):
            words.append(f"{prefix}{flag}" if value else f"{prefix}no-{flag}")
        else:
            words += [prefix + flag, *map(str, value if isinstance(value, tuple) else [value])]
    return words


@dataclass(frozen=True)
class LocalLauncher:
    """Processes on this machine that end with this one, however it ends. slots: at a time."""

    slots: int

    def start(self, config: RunSettings) -> "LocalRun":
        """Starts a run; raises Busy if another process works on it."""
        directory = config.directory()
        directory.mkdir(parents=True, exist_ok=True)
        # Until it ends: no other sweep starts the run too, or writes its log.
        lock = FileLock(directory / ".sweep.lock", fallback_to_soft=False)
        try:
            with contextlib.suppress(NotImplementedError):  # a file system without locks
                lock.acquire(blocking=False)
            with locked(directory, patience=0):  # by the run, while it is made
                pass
        except (Timeout, UserError):
            lock.release()
            raise Busy from None
        environment = {
            PARENT: str(os.getpid()),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "PYTHONSAFEPATH": "1",  # the caller's folder may hold a "common" of its own
        }
        log, null = directory / LOG, subprocess.DEVNULL
        with contextlib.ExitStack() as stack:
            output: TextIO | int = null
            with contextlib.suppress(OSError):  # no reason to stop a run
                output = stack.enter_context(log.open("w"))
            process = subprocess.Popen(
                command(config), stdin=null, stdout=output, stderr=output,
                env=os.environ | environment,
            )  # fmt: skip
        return LocalRun(config, log, process, lock)


@dataclass(frozen=True)
class LocalRun:
    """A run that has been started in a process of its own; its output goes to ``log``."""

    config: RunSettings
    log: Path
    process: subprocess.Popen
    lock: FileLock

    def ended(self) -> bool:
        if self.process.poll() is not None:
            self.lock.release()
        elif _stopped(self.process.pid):
            where, on = self.log.parent, f"kill -CONT {self.process.pid}"
            print(f"the run in {where} was stopped (SIGSTOP); it goes on by {on}", file=sys.stderr)
        return self.process.returncode is not None

    def failure(self) -> str | None:
        """Of a run that has ended: None if it has left its record, else the reason in a line."""
        if self.process.returncode == 0:
            there = (self.config.directory() / RECORD).exists()
            return None if there else "it ended without a record"
        return last_line(self.log) or f"exit status {self.process.returncode}"

    def stop(self) -> None:
        """Asks it to end in order, also if it is stopped (SIGSTOP)."""
        self.process.terminate()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)


def _stopped(process: int) -> bool:
    """Whether a child has been stopped since this was last asked."""
    with contextlib.suppress(AttributeError, ChildProcessError):  # macOS; it has just ended
        return os.waitid(os.P_PID, process, os.WSTOPPED | os.WNOHANG) is not None
    return False


def last_line(log: Path) -> str | None:
    """What a run said last, for its failure; None if it said nothing."""
    try:
        text = log.read_text(errors="replace").replace("\r", "\n")
    except OSError:
        return None
    return next((line for line in reversed(text.split("\n")) if line.strip()), None)
