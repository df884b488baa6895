"""Tries to break runs: kills, flipped bits, full disks, damaged records, wrong values, two at once.

    python -m scripts.torture --kills 20 --flips 20

Every trial is done to real runs of the few-shot experiment at a tiny size. Afterwards the same
command must end with the numbers of an undisturbed run, or refuse in one sentence. Prints a table
and writes it to --output; the exit status is 1 if anything was lost, accepted though damaged, or
ended in a traceback.
"""

import contextlib
import itertools
import json
import math
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from common.bounds import Bounds
from common.command import Parser, run_command
from common.errors import UserError
from common.experiment import load_experiment
from common.reporting import RunRecord, load
from common.runs import RECORD
from common.settings import ROOT
from common.training import CHECKPOINT, METRICS, load_checkpoint, save_checkpoint
from scripts.torture_tools import (
    Command,
    Ended,
    Tally,
    can_mount,
    limit_files,
    small_disk,
    table,
    write_table,
    wrong_values,
)

EXPERIMENT = load_experiment("cross_domain_fewshot")
TINY = (
    "--preset", "smoke", "--method", "lft_evograd", "--device", "cpu", "--epochs", "3",
    "--episodes", "3", "--val-episodes", "2", "--test-episodes", "4", "--pretrain-epochs", "2",
)  # fmt: skip


def put(values: dict[str, Any], name: str, value: Any) -> None:
    """Puts a value there; "missing" takes away the one that is."""
    values[name] = value
    if value == "missing":
        del values[name]


class Torture:
    """The trials. folder: everything they write."""

    def __init__(self, folder: Path, kills: int, flips: int) -> None:
        import cross_domain_fewshot.train  # noqa: F401 - imported before any process is forked

        self.folder, self.kills, self.flips = folder, kills, flips
        self.random = random.Random(20211206)
        self.whole = folder / "whole"
        ended = self.run(self.whole)
        if ended.status != 0:
            raise UserError(f"the undisturbed run has failed: {ended.text[-300:]}")
        self.cut = self.make_cut()

    def main(self, directory: Path) -> Callable[[], object]:
        words = [*TINY, "--run-dir", str(directory)]
        words += ["--pretrained-dir", str(directory / "pretrained")]
        return lambda: EXPERIMENT.main(words)

    def run(self, directory: Path, before: Callable[[], None] | None = None) -> Ended:
        began = time.monotonic()
        ended = Command(self.main(directory), before).wait()
        self.seconds = time.monotonic() - began  # as busy as the machine is now
        return ended

    def make_cut(self) -> Path:
        """A run killed after its first epoch."""
        cut = self.folder / "cut"
        command = Command(self.main(cut))
        while not (cut / CHECKPOINT).exists():
            time.sleep(0.005)
        command.kill(signal.SIGKILL)
        command.wait()
        if (cut / RECORD).exists():
            raise UserError("the run has ended before it could be cut off")
        return cut

    @contextlib.contextmanager
    def trial(self, tally: Tally, source: Path, damaged: bool, what: str) -> Iterator[Path]:
        """A copy of a run, to be changed in the block; then the same command is judged."""
        directory = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copytree(source, directory, dirs_exist_ok=True)
        yield directory
        self.judge(tally, self.run(directory), directory, damaged, what)
        shutil.rmtree(directory)

    def same(self, directory: Path) -> bool:
        """Whether a run has the numbers of the undisturbed one."""
        with contextlib.suppress(UserError):
            runs = [load(folder / RECORD, RunRecord) for folder in (directory, self.whole)]
            ours, theirs = ([r.epochs, r.traces, r.final, r.best, r.curves] for r in runs)
            return ours == theirs
        return False

    def judge(self, tally: Tally, ended: Ended, directory: Path, damaged: bool, what: str) -> None:
        """Counts a trial. damaged: the run should have refused; what: the trial, for notes."""
        if ended.traceback:
            tally.tracebacks += 1
        elif ended.refusal:
            tally.refused += 1
            return
        elif ended.status == 0 and self.same(directory):
            tally.survived += 1
            return
        elif damaged and ended.status == 0:
            tally.accepted += 1
        else:
            tally.lost += 1
        tally.notes.append(f"{tally.name}, {what}: status {ended.status}: {ended.text[-300:]}")

    def killed(self, number: signal.Signals) -> Tally:
        """Kills at random moments, two per run, pre-training included; the same command again."""
        tally = Tally(f"{number.name} at a random moment, then the same command")
        while tally.tried < self.kills:
            directory = Path(tempfile.mkdtemp(dir=self.folder))
            for _ in range(2):
                command = Command(self.main(directory))
                command.kill(number, after=self.random.uniform(0, self.seconds))
                interrupted = command.wait()
            if interrupted.traceback:
                self.judge(tally, interrupted, directory, False, "killed")
                continue
            self.judge(tally, self.run(directory), directory, False, "again")
            shutil.rmtree(directory)
        return tally

    def flipped(self, name: str, source: Path, pattern: str) -> Tally:
        """One bit flipped in a file of a run, then the same command."""
        tally = Tally(f"one bit flipped in {name}")
        for _ in range(self.flips):
            position = self.random.random()
            with self.trial(tally, source, True, f"at {position:.4%}") as directory:
                (path,) = directory.glob(pattern)
                content = bytearray(path.read_bytes())
                bit = int(8 * len(content) * position)
                content[bit // 8] ^= 1 << bit % 8
                path.write_bytes(content)
        return tally

    def mutated_checkpoints(self) -> Tally:
        """Parts missing, too long or of another form, in a file that is sealed again."""
        tally = Tally("checkpoint with a part missing, too long or wrong")
        settings = load(self.whole / RECORD, RunRecord).config
        state = load_checkpoint(self.cut / CHECKPOINT, settings)
        assert state is not None
        places = [(name,) for name in state] + [("task", name) for name in state["task"]]
        for place, value in itertools.product(places, ("missing", None, [], {"more": 1})):
            with self.trial(tally, self.cut, True, f"{'.'.join(place)} {value}") as directory:
                changed = load_checkpoint(directory / CHECKPOINT, settings)
                put(changed if len(place) == 1 else changed["task"], place[-1], value)
                save_checkpoint(directory / CHECKPOINT, changed, settings)
        return tally

    def mutated_records(self) -> Tally:
        """Every field of a record missing or of another form."""
        tally = Tally("finished record with a field missing or changed")
        record = json.loads((self.whole / RECORD).read_text())
        values: tuple[Any, ...] = ("missing", None, {}, [], "text", -1, [{"epoch": 1}])
        for name, value in itertools.product(record, values):
            if value == record[name] or (name == "sha256" and value == "missing"):
                continue
            changed = dict(record)
            put(changed, name, value)
            with self.trial(tally, self.whole, True, f"{name} {value}") as directory:
                (directory / RECORD).write_text(json.dumps(changed))
        return tally

    def by_products(self) -> Tally:
        """Damaged files that nothing is computed from, and leftovers of killed processes."""
        tally = Tally("metrics.jsonl, run.log or leftovers damaged")
        line = b'{"kind": "start", "iteration": 0, "total": '
        contents = [b"", b"\xff\xfe", b"[]", b"null\n", b"{" * 999]
        for content in [*contents, line + b"0}\n", line + b'"x"}\n']:
            with self.trial(tally, self.cut, False, repr(content)) as directory:
                (directory / METRICS).write_bytes(content)
                (directory / f".{CHECKPOINT}.1.tmp").write_bytes(content)
        with self.trial(tally, self.cut, False, "a folder") as directory:
            (directory / METRICS).unlink()
            (directory / METRICS).mkdir()
        return tally

    def full_disks(self) -> Tally:
        """A disk that fills up at several moments; with room again, the same command."""
        size = sum(path.stat().st_size for path in self.whole.rglob("*") if path.is_file())
        largest = max(path.stat().st_size for path in self.whole.rglob("*") if path.is_file())
        mounts = can_mount(self.folder)
        tally = Tally(f"disk full ({'a small tmpfs' if mounts else 'a limit on file sizes'})")
        for part in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
            with small_disk(self.folder, int(part * size) if mounts else None) as disk:
                limit = None if mounts else lambda part=part: limit_files(int(part * largest))
                ended = self.run(disk / "run", limit)
                self.judge(tally, ended, disk / "run", False, f"{part:.0%} of the room")
                if mounts:
                    subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
                self.judge(tally, self.run(disk / "run"), disk / "run", False, "with room again")
        return tally

    def refused_places(self) -> Tally:
        """Folders that cannot be written."""
        tally = Tally("folder that cannot be made or written")
        (self.folder / "file").touch()
        places = [self.folder / "file" / "run", self.folder / ("x" * 300), Path("/proc/run")]
        for place in places:
            self.judge(tally, self.run(place), place, True, str(place)[-20:])
        return tally

    def two_at_once(self) -> Tally:
        """The same run started twice at the same moment."""
        tally = Tally("the same run started twice at once")
        for _ in range(4):
            directory = Path(tempfile.mkdtemp(dir=self.folder))
            for command in [Command(self.main(directory)) for _ in range(2)]:
                self.judge(tally, command.wait(), directory, False, "twice")
        return tally

    def two_sweeps(self) -> Tally:
        """Two sweeps at once, one of them killed (SIGKILL) in the middle, and begun again."""
        tally = Tally("two sweeps at once, one of them killed and begun again")
        from scripts import launch, sweep

        runs = self.folder / "sweep"
        first = EXPERIMENT.parse([*TINY, "--run-dir", str(self.whole)])
        # The same run twice under two names: both must end with the known numbers.
        own: dict[str, Any] = {"pretrained_dir": runs / "pretrained"}
        configs = [replace(first, run_dir=runs / str(n), **own) for n in range(2)]
        default = EXPERIMENT.presets["smoke"]

        def swept() -> Command:
            launcher = launch.LocalLauncher(default, 1)
            return Command(lambda: sweep.sweep(configs, launcher, "sweep"))

        commands = [swept(), swept()]
        while not any((runs / str(n) / launch.LOG).exists() for n in range(2)):
            time.sleep(0.1)
        time.sleep(self.seconds / 2)
        commands[0].kill(signal.SIGKILL)
        commands[0].wait()
        for command in (swept(), commands[1]):
            ended = command.wait()
            for config in configs:
                self.judge(tally, ended, config.directory(), False, "sweep")
        return tally


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m scripts.torture", description=__doc__)
    times = Bounds(least=1, most=10_000)
    parser.add_number("--kills", int, times, default=10, help="of each of three signals")
    parser.add_number("--flips", int, times, default=20, help="in each of three files")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "runs" / "torture.md",
        help="file for the table, such as docs/reliability.md",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    tallies: list[Tally] = []
    kills = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        began = time.monotonic()
        torture = Torture(Path(folder), arguments.kills, arguments.flips)
        trials: list[Callable[[], Tally]] = [
            *(partial(torture.killed, number) for number in kills),
            partial(torture.flipped, "a checkpoint", torture.cut, CHECKPOINT),
            partial(torture.flipped, "a pre-trained network", torture.cut, "pretrained/*/*.pt"),
            partial(torture.flipped, "a finished record", torture.whole, RECORD),
            torture.mutated_checkpoints,
            torture.mutated_records,
            torture.by_products,
            torture.full_disks,
            torture.refused_places,
            torture.two_at_once,
            torture.two_sweeps,
            wrong_values,
        ]
        for trial in trials:
            tallies.append(trial())
            print(table(tallies[-1:]).splitlines()[2], flush=True)
        minutes = math.ceil((time.monotonic() - began) / 60)
    write_table(arguments.output, table(tallies))
    print(f"\n{table(tallies)}\n{minutes} minutes; written to {arguments.output}")
    for note in (note for tally in tallies for note in tally.notes):
        print(note)
    raise SystemExit(0 if all(tally.clean for tally in tallies) else 1)


if __name__ == "__main__":
    run_command(main)
