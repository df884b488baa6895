"""Sweeps: which runs, several at a time, two sweeps at once, and how they end."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import UserError
from common.files import locked
from common.settings import ROOT
from rotation.config import EXPERIMENT, Config
from scripts import launch
from scripts.launch import Busy, LocalLauncher, command, last_line
from scripts.sweep import chosen_runs, main, sweep


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("scripts.sweep.POLL_SECONDS", 0.01)


def test_settings_with_several_values_are_combined_and_named():
    chosen = {"method": ["evograd", "baseline"], "seed": [1, 2]}
    words = ["estimator.sigma=0.001,0.01", "epochs=3", "rotate=pixels", "shuffle=false"]
    runs = chosen_runs(EXPERIMENT, "smoke", chosen, words)
    names = {run.run_name() for run in runs}
    rest = "epochs=3-rotate=pixels-shuffle=False"
    # sigma changes nothing in the baseline
    expected = (f"{m}-seed{s}-{rest}" for m in chosen["method"] for s in (1, 2))
    assert names == {*expected, *(f"evograd-seed{s}-estimator.sigma=0.01-{rest}" for s in (1, 2))}
    for run in runs:  # each is started by what differs from its preset
        interpreter, *options = command(run)
        assert interpreter == sys.executable and options[:2] == ["-m", "rotation"]
        assert EXPERIMENT.parse(options[2:]) == run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("rotation --methods nonsense", "--method nonsense is unknown"),
        ("rotation --seeds -1", "--seed -1"),
        ("rotation --set rotate=sideways", "--set rotate=sideways"),
        ("rotation --set sigma=1", "--set sigma=1: write setting=value"),
        ("rotation --device cpu:9", "--device cpu:9 is not there"),
        ("--preset huge", "--preset huge is unknown"),
    ],
)
def test_mistakes_are_named_before_anything_runs(words, message):
    with pytest.raises(UserError, match=message):
        main(words.split())


class Failing:
    """A launcher whose runs have failed when they are asked; reasons: by seed."""

    slots, log = 1, Path("run.log")

    def __init__(self, reasons):
        self.reasons, self.started = reasons, []

    def start(self, config):
        self.started.append(config.seed)
        reason = self.reasons.get(config.seed, "error: no data")
        return SimpleNamespace(
            config=config, log=self.log, ended=lambda: True, failure=lambda: reason
        )


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
    # A damaged record is one failure among the runs.
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "record.json").write_text("{")
    launcher = Failing(dict.fromkeys(range(4)))
    with pytest.raises(UserError, match=f"1 of 4 runs failed: see {tmp_path / '1'}"):
        sweep(configs[:4], launcher, "test")
    assert launcher.started == [0, 2, 3]


# Stands for a run: takes its lock, says so, and leaves a record after a while.
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
        if not (folder / "record.json").exists():  # as execute does
            (folder / "record.json").write_text("x")
run_command(main)
"""


def short_run(config: Config, seconds: float = 0.3) -> list[str]:
    return [sys.executable, "-c", RUN, str(config.directory()), str(seconds)]


@pytest.fixture
def short_runs(monkeypatch):
    """Runs that end soon, and are finished when they have left a record of any content."""

    def finished(config):
        return (config.directory() / "record.json").exists() or None

    monkeypatch.setattr(launch, "command", short_run)
    monkeypatch.setattr("scripts.sweep.finished_record", finished)


def test_a_run_of_another_process_is_left_to_it_and_its_record_counts(short_runs, tmp_path):
    configs = [Config(seed=seed, run_dir=tmp_path / str(seed)) for seed in range(4)]
    other = LocalLauncher(1).start(configs[2])  # of another sweep
    direct = subprocess.Popen(short_run(configs[3], 2), cwd=ROOT, stdout=subprocess.PIPE)
    assert direct.stdout.readline() == b"began\n"
    sweep(configs, LocalLauncher(2), "test")
    assert other.process.wait(10) == direct.wait(10) == 0
    assert [(tmp_path / str(n) / "record.json").read_text() for n in range(4)] == ["x"] * 4
    assert other.log.read_text() == "began\n"  # of one process


def test_a_run_that_is_stopped_goes_on_and_one_whose_process_dies_is_taken_over(
    short_runs, tmp_path, capsys
):
    run = LocalLauncher(1).start(Config(run_dir=tmp_path))
    run.process.send_signal(signal.SIGSTOP)
    said = ""
    while not said:
        assert not run.ended()
        said = capsys.readouterr().err
    assert str(tmp_path) in said and f"kill -CONT {run.process.pid}" in said
    with pytest.raises(Busy):
        LocalLauncher(1).start(run.config)
    run.process.send_signal(signal.SIGCONT)
    run.process.kill()
    assert run.process.wait() == -9 and run.ended()
    sweep([run.config], LocalLauncher(1), "test")
    assert (tmp_path / "record.json").read_text() == "x"


SWEEP = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from common.command import run_command
from rotation.config import Config
from scripts import launch
from scripts.sweep import sweep
from tests.scripts.test_sweep import short_run
launch.command = lambda config: short_run(config, 60)
config = Config(run_dir=Path(sys.argv[1]))
run_command(lambda: sweep([config], launch.LocalLauncher(1), "test"))
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_runs_end_with_their_sweep(how, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SWEEP, str(tmp_path)], stderr=subprocess.PIPE)
    log = tmp_path / "run.log"
    while not (log.exists() and "began" in log.read_text()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(how)
    status = process.wait(20)
    assert status == (-9 if how == signal.SIGKILL else 128 + how)
    said = process.stderr.read()
    assert b"Traceback" not in said and b"\r" not in said
    with locked(tmp_path, patience=10):  # the run has let go
        pass
    assert "interrupted" in last_line(log)
    assert not (tmp_path / "record.json").exists()
