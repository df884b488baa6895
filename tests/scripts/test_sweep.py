"""Sweeps: which runs, several at a time, two sweeps at once, and how they end."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.errors import UserError
from common.files import locked, try_lock
from rotation.config import EXPERIMENT, PRESETS, Config
from scripts import launch
from scripts.launch import LocalLauncher, command, last_line
from scripts.sweep import main, parse, sweep

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("scripts.sweep.POLL_SECONDS", 0.01)


def test_a_run_is_started_by_what_differs_from_its_preset():
    run = EXPERIMENT.runs("quick", {"method": ["t1t2"], "seed": [7], "shuffle": [False]})[0]
    assert command(run, PRESETS["quick"])[1:] == [
        "-m", "rotation", "--preset", "quick", "--method", "t1t2", "--seed", "7", "--no-shuffle",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("rotation --methods nonsense", "--method nonsense is unknown"),
        ("rotation --seeds -1", "--seed -1 must lie between"),
        ("rotation --jobs -1", "--jobs -1 must lie between"),
        ("rotation --rotate sideways", "--rotate sideways is unknown"),
        ("rotation --device cpu:9", "--device cpu:9 is not there"),
        ("--preset huge", "--preset huge is unknown"),
        ("nonsense", "nonsense is no experiment"),
        ("toy_1d --rotate pixels", "unrecognized arguments"),
    ],
)
def test_mistakes_are_named_before_anything_runs(words, message):
    with pytest.raises(UserError, match=message):
        main(words.split())


def test_axes_are_flags_of_the_experiment_named():
    arguments, (experiment,) = parse(["rotation", "--shuffle", "no", "--rotate", "pixels"])
    assert (arguments.shuffle, arguments.rotate) == ([False], ["pixels"])
    assert experiment is EXPERIMENT


@dataclass
class Ended:
    """A run that has ended already."""

    config: Config
    log: Path
    reason: str | None

    def ended(self):
        return True

    def failure(self):
        return self.reason


@dataclass
class Failing:
    """A launcher whose runs fail; ``reasons`` by seed."""

    reasons: dict
    slots: int = 1
    started: list = field(default_factory=list)

    def start(self, config):
        self.started.append(config.seed)
        return Ended(config, Path("run.log"), self.reasons.get(config.seed, "error: no data"))


@pytest.mark.parametrize(
    ("reasons", "started", "failures"),
    [({}, 3, 3), ({n: f"error: {n}" for n in range(6)}, 6, 6), ({0: None}, 6, 5)],
)
def test_a_sweep_stops_when_the_first_runs_fail_for_one_reason(
    reasons, started, failures, tmp_path
):
    launcher = Failing(reasons)
    configs = [Config(seed=seed, run_dir=tmp_path / str(seed)) for seed in range(6)]
    with pytest.raises(UserError, match=f"{failures} of 6 runs failed"):
        sweep(configs, launcher, "test")
    assert len(launcher.started) == started


def test_a_damaged_record_is_one_failure_among_the_runs(tmp_path):
    configs = [Config(seed=seed, run_dir=tmp_path / str(seed)) for seed in range(4)]
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "record.json").write_text("{")
    launcher = Failing(dict.fromkeys(range(4)))
    with pytest.raises(UserError, match=f"1 of 4 runs failed: see {tmp_path / '1'}"):
        sweep(configs, launcher, "test")
    assert launcher.started == [0, 2, 3]


# Stands for a run: takes its lock, says so, and leaves a mark after a while.
RUN = """
import sys, time
from pathlib import Path
from common.command import run_command
from common.files import locked
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
def main():
    with locked(folder, patience=0):
        print("began", flush=True)
        time.sleep(seconds)
        with (folder / "marks").open("a") as file:
            file.write("x")
run_command(main)
"""


def short_run(config: Config, default: Config, seconds: float = 0.3) -> list[str]:
    return [sys.executable, "-c", RUN, str(config.directory()), str(seconds)]


@pytest.fixture
def short_runs(monkeypatch):
    """Runs that end soon, and count as finished when they have left their mark."""

    def finished(config):
        return (config.directory() / "marks").exists() or None

    monkeypatch.setattr(launch, "command", short_run)
    monkeypatch.setattr("scripts.sweep.finished_record", finished)
    monkeypatch.setattr(launch, "finished_record", finished)


def test_a_run_of_another_process_is_left_to_it_and_its_record_counts(short_runs, tmp_path):
    configs = [Config(seed=seed, run_dir=tmp_path / str(seed)) for seed in range(4)]
    other = LocalLauncher(Config(), 1).start(configs[2])
    sweep(configs, LocalLauncher(Config(), 2), "test")
    assert other.process.wait(10) == 0
    assert [(tmp_path / str(n) / "marks").read_text() for n in range(4)] == ["x"] * 4
    assert other.log.read_text() == "began\n"  # of one process


def test_a_run_whose_process_dies_is_taken_over(short_runs, tmp_path):
    config = Config(run_dir=tmp_path)
    lock = try_lock(tmp_path)
    holder = subprocess.Popen(["sleep", "1"], pass_fds=[lock])
    os.close(lock)
    assert LocalLauncher(Config(), 1).start(config) is None
    sweep([config], LocalLauncher(Config(), 1), "test")
    assert holder.wait() == 0 and (tmp_path / "marks").read_text() == "x"


SWEEP = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from common.command import run_command
from rotation.config import Config
from scripts import launch
from scripts.sweep import sweep
from tests.scripts.test_sweep import short_run
launch.command = lambda config, default: short_run(config, default, 60)
config = Config(run_dir=Path(sys.argv[1]))
run_command(lambda: sweep([config], launch.LocalLauncher(Config(), 1), "test"))
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_runs_end_with_their_sweep(how, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SWEEP, str(tmp_path)], stderr=subprocess.PIPE)
    log = tmp_path / "run.log"
    while not (log.exists() and "began" in log.read_text()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(how)
    status = process.wait(20)
    assert status == (-9 if how == signal.SIGKILL else 128 + how)
    assert b"Traceback" not in process.stderr.read()
    with locked(tmp_path, patience=10):  # the run has let go
        pass
    assert "interrupted" in last_line(log)
    assert not (tmp_path / "marks").exists()
