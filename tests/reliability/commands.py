"""Runs to be disturbed: a tiny few-shot run, pre-training included, and how it ends."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.command import run_command
from common.experiment import load_experiment
from common.reporting.records import RunRecord, load
from common.run import RECORD

EXPERIMENT = load_experiment("cross_domain_fewshot")
TINY = (
    "--preset", "smoke", "--method", "lft_evograd", "--device", "cpu", "--epochs", "3",
    "--episodes", "3", "--val-episodes", "2", "--test-episodes", "4", "--pretrain-epochs", "2",
)  # fmt: skip


def words(folder: Path) -> list[str]:
    """The options of the run in a folder."""
    return [*TINY, "--run-dir", str(folder), "--pretrained-dir", str(folder / "pretrained")]


def numbers(folder: Path) -> list[object]:
    """What a run has measured, times and memory apart."""
    record = load(folder / RECORD, RunRecord)
    return [record.epochs, record.traces, record.final, record.best, record.curves]


@dataclass
class Ended:
    """How a command has ended: exit status (negative: by a signal) and what it has printed."""

    status: int
    text: str

    def check(self, *, refused: bool = False) -> None:
        """Asserts that it ended well, or (refused) in one sentence."""
        assert "Traceback" not in self.text, self.text
        last = [line for line in self.text.replace("\r", "\n").split("\n") if line.strip()][-1:]
        if refused:
            assert self.status == 2 and last[0].startswith("error: "), self
        else:
            assert self.status == 0, self


class Command:
    """A command in a process forked from this one, which has imported everything already."""

    def __init__(self, main: Callable[[], object], before: Callable[[], object] | None = None):
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by wait
        self.process = os.fork()
        if self.process == 0:
            status = 1
            try:
                for number in (1, 2):
                    os.dup2(self.output.fileno(), number)
                sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
                if before:
                    before()
                run_command(main)
                status = 0
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 0
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(OSError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(status)

    def kill(self, number: int, after: float = 0.0) -> None:
        """Sends a signal after so many seconds, unless the command has ended before."""
        due, flags = time.monotonic() + after, os.WEXITED | os.WNOHANG | os.WNOWAIT
        while (running := os.waitid(os.P_PID, self.process, flags) is None) and (
            time.monotonic() < due
        ):
            time.sleep(0.002)
        if running:
            os.kill(self.process, number)

    def wait(self) -> Ended:
        _, status = os.waitpid(self.process, 0)
        self.output.seek(0)
        text = self.output.read().decode(errors="replace")
        self.output.close()
        return Ended(os.waitstatus_to_exitcode(status), text)


def start(folder: Path, before: Callable[[], object] | None = None) -> Command:
    return Command(lambda: EXPERIMENT.main(words(folder)), before)


def run(folder: Path, before: Callable[[], object] | None = None) -> Ended:
    return start(folder, before).wait()


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Makes ``folder`` a tmpfs of so many bytes; False where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def limit_files(size: int) -> None:
    """No file of this process may become larger."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
