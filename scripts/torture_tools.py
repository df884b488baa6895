"""What the trials of scripts/torture.py are made of: forked commands, counts, small disks."""

import contextlib
import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from common.command import run_command
from common.errors import UserError
from common.experiment import load_experiment
from common.files import write_atomic
from scripts.experiments import EXPERIMENTS


@dataclass
class Tally:
    """What became of one kind of trial."""

    name: str
    survived: int = 0
    refused: int = 0
    lost: int = 0
    accepted: int = 0
    tracebacks: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        return self.survived + self.refused + self.lost + self.accepted + self.tracebacks

    @property
    def clean(self) -> bool:
        return self.lost == self.accepted == self.tracebacks == 0


@dataclass
class Ended:
    """How a command has ended: exit status (negative: by a signal) and what it has printed."""

    status: int
    text: str

    @property
    def refusal(self) -> bool:
        """One sentence after whatever the progress bars printed."""
        last = [line for line in self.text.replace("\r", "\n").split("\n") if line.strip()][-1:]
        return self.status == 2 and bool(last) and last[0].startswith("error: ")

    @property
    def traceback(self) -> bool:
        return "Traceback" in self.text


class Command:
    """A command in a process forked from this one, which has imported everything already."""

    def __init__(self, main: Callable[[], object], before: Callable[[], None] | None = None):
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by wait
        self.process = os.fork()
        if self.process == 0:
            status = 1
            try:
                os.dup2(self.output.fileno(), 1)
                os.dup2(self.output.fileno(), 2)
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

    def running(self) -> bool:
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process, flags) is None

    def kill(self, number: int, after: float = 0.0) -> None:
        """Sends a signal after so many seconds, unless the command has ended before."""
        due = time.monotonic() + after
        while self.running() and time.monotonic() < due:
            time.sleep(0.002)
        if self.running():
            os.kill(self.process, number)

    def wait(self) -> Ended:
        _, status = os.waitpid(self.process, 0)
        self.output.seek(0)
        text = self.output.read().decode(errors="replace")
        self.output.close()
        return Ended(os.waitstatus_to_exitcode(status), text)


def wrong_values() -> Tally:
    """For every numeric setting of every experiment, values that make no sense."""
    tally = Tally("setting that is out of range, not finite or no number")
    for name in EXPERIMENTS:
        experiment = load_experiment(name)
        default = next(iter(experiment.presets.values()))
        for entry in fields(default):
            value = getattr(default, entry.name)
            flag = f"--{entry.name.replace('_', '-')}"
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            words = ("nan", "inf", "-inf") if isinstance(value, float) else ("-1", str(2**32))
            for word in (*words, "many"):
                try:
                    with contextlib.redirect_stderr(io.StringIO()):
                        experiment.parse([flag, word])
                    tally.accepted += 1
                    tally.notes.append(f"{name} {flag} {word}: accepted")
                except UserError:
                    tally.refused += 1
                except SystemExit as ended:
                    tally.refused += ended.code == 2
                except Exception as error:
                    tally.tracebacks += 1
                    tally.notes.append(f"{name} {flag} {word}: {type(error).__name__} {error}")
    return tally


def can_mount(folder: Path) -> bool:
    with contextlib.suppress(OSError, subprocess.CalledProcessError), small_disk(folder, 10**6):
        return True
    return False


@contextlib.contextmanager
def small_disk(folder: Path, size: int | None) -> Iterator[Path]:
    """A folder on a tmpfs of so many bytes; None: an ordinary folder."""
    disk = Path(tempfile.mkdtemp(dir=folder))
    if size is None:
        yield disk
        return
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def table(tallies: Sequence[Tally]) -> str:
    """Markdown."""
    head = ("trial", "tried", "survived", "refused", "lost", "accepted though damaged",
            "tracebacks")  # fmt: skip
    rows: list[tuple] = [
        (t.name, t.tried, t.survived, t.refused, t.lost, t.accepted, t.tracebacks) for t in tallies
    ]
    rows.append(("all", *(sum(row[n] for row in rows) for n in range(1, len(head)))))
    lines = [head, ("---", *("---:" for _ in head[1:])), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def write_table(path: Path, text: str) -> None:
    """Writes the table; into a document that has the markers, between them."""
    begin, end = "<!-- torture -->\n", "<!-- end torture -->"
    document = path.read_text(encoding="utf-8") if path.exists() else ""
    if begin in document and end in document:
        before, _, rest = document.partition(begin)
        text = f"{before}{begin}{text}{end}{rest.partition(end)[2]}"
    write_atomic(path, text)
