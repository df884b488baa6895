"""Starts runs in processes of their own on this machine.

``launch_slurm`` has a launcher and runs with the same methods, for a cluster.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from common.command import PARENT
from common.files import INHERITED_LOCK, try_lock
from common.runs import finished_record
from common.settings import ROOT, RunSettings

LOG = "run.log"


def command(config: RunSettings, default: RunSettings) -> list[str]:
    """The command line of a run: what differs from the preset's defaults."""
    words = [sys.executable, "-m", config.experiment, "--preset", config.preset]
    for field in fields(config):
        value = getattr(config, field.name)
        if value == getattr(default, field.name):
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{flag}", *map(str, values)]
    return words


@dataclass(frozen=True)
class LocalLauncher:
    """Processes on this machine that end with this one, however it ends.

    default: the preset's settings. slots: runs at a time. extra: words for every run's command
    line.
    """

    default: RunSettings
    slots: int
    extra: Sequence[str] = ()

    def start(self, config: RunSettings) -> "LocalRun | None":
        """Starts a run; None if another process works on it, or has just finished it."""
        directory = config.directory()
        lock = try_lock(directory)
        if lock is None:
            return None
        try:
            if finished_record(config) is not None:
                return None
            # The lock goes to the run, so that nobody else writes its log file either.
            environment = {
                INHERITED_LOCK: str(lock),
                PARENT: str(os.getpid()),
                "PYTHONPATH": os.pathsep.join(
                    filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
                ),
                "PYTHONSAFEPATH": "1",  # the caller's folder may hold a "common" of its own
            }
            log = directory / LOG
            with log.open("w") as output:
                process = subprocess.Popen(
                    [*command(config, self.default), *self.extra],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=os.environ | environment,
                    pass_fds=[lock],
                )
        finally:
            os.close(lock)
        return LocalRun(config, log, process)


@dataclass(frozen=True)
class LocalRun:
    """A run that has been started in a process of its own; its output goes to ``log``."""

    config: RunSettings
    log: Path
    process: subprocess.Popen

    def ended(self) -> bool:
        return self.process.poll() is not None

    def failure(self) -> str | None:
        """Of a run that has ended: None if it ended well, else the reason in a line."""
        if self.process.returncode == 0:
            return None
        return last_line(self.log) or f"exit status {self.process.returncode}"

    def stop(self) -> None:
        """Asks it to end in order."""
        self.process.terminate()


def last_line(log: Path) -> str | None:
    """What a run said last, for its failure; None if it said nothing."""
    try:
        text = log.read_text(errors="replace").replace("\r", "\n")
    except OSError:
        return None
    return next((line for line in reversed(text.split("\n")) if line.strip()), None)
