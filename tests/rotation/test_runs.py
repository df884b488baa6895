"""Whole runs as a user starts them: command line, kill and resume, errors, report."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.datasets import load_mnist
from common.errors import UserError
from common.reporting import RunRecord, load
from rotation.config import EXPERIMENT, PRESETS
from rotation.report import section

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--preset", "smoke", "--train-size", "1280", "--meta-size", "300", "--test-size", "200",
         "--threads", "1", "--log-every", "1"]  # fmt: skip


def rotation(*words, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rotation", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **kwargs)


@pytest.fixture(scope="module", autouse=True)
def mnist():
    try:
        return load_mnist()
    except UserError as error:
        pytest.skip(f"MNIST cannot be had: {error}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted EvoGrad run."""
    folder = tmp_path_factory.mktemp("whole")
    result = rotation(*SMALL, "--run-dir", folder)
    assert result.returncode == 0, result.stderr
    return folder


def killed_at(iteration: int, folder: Path) -> None:
    """Starts the run and kills it (SIGKILL) once that iteration is logged."""
    command = [sys.executable, "-m", "rotation", *SMALL, "--run-dir", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    log = folder / "metrics.jsonl"
    needle = f'"iteration": {iteration}, "epoch"'
    while not (log.exists() and needle in log.read_text()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "record.json").exists()


def test_killed_and_started_again_it_ends_with_the_same_numbers(tmp_path, whole):
    """Killed (SIGKILL) in the second epoch of ten iterations."""
    killed_at(13, tmp_path)
    assert rotation(*SMALL, "--run-dir", tmp_path).returncode == 0
    resumed, uninterrupted = (load(f / "record.json", RunRecord) for f in (tmp_path, whole))
    assert resumed.epochs == uninterrupted.epochs
    assert resumed.traces == uninterrupted.traces
    assert resumed.final == uninterrupted.final


def test_a_finished_run_is_not_run_twice_unless_asked(tmp_path, whole):
    before = (whole / "record.json").read_bytes()
    result = rotation(*SMALL, "--run-dir", whole)
    assert result.returncode == 0 and "finished already" in result.stderr
    assert (whole / "record.json").read_bytes() == before


def test_the_record_says_where_its_numbers_come_from(whole):
    record = load(whole / "record.json", RunRecord)
    assert record.config["train_size"] == 1280 and record.config["estimator"]["sigma"] == 0.001
    assert record.data["meta images rotated by 30 degrees"]
    assert {"torch", "python", "git_commit", "wall_seconds"} <= _keys(record.provenance)
    assert record.cost["peak_bytes"] > 0 and record.cost["seconds_per_epoch"] > 0
    assert len(record.traces["angle_degrees"]) == 20


def _keys(value) -> set[str]:
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(_keys(item) for item in value.values()))


def test_presets_are_the_papers_settings_or_smaller():
    paper = PRESETS["paper"]
    assert (paper.epochs, paper.batch_size, paper.train_size) == (5, 128, 40_000)
    assert (paper.learning_rate, paper.meta_learning_rate) == (1e-3, 1e-2)
    assert (paper.estimator.num_candidates, paper.estimator.sigma) == (2, 1e-3)
    runs = EXPERIMENT.planned("paper")
    assert {r.seed for r in runs} == {1, 23, 345, 4567, 56789}
    assert len([r for r in runs if not r.differences()]) == 30 and len(runs) == 41


def test_the_report_shows_what_is_there(tmp_path, whole):
    record = load(whole / "record.json", RunRecord)
    record = record.model_copy(update={"config": PRESETS["smoke"].result_settings()})
    part = section([record], "smoke", tmp_path)
    assert part.runs == 1 and part.planned_runs == 6
    table = (tmp_path / "accuracy.md").read_text()
    assert f"{record.final['rotated']:.2f}" in table and "98.11" in table
    assert "not judged" in table and "agrees" not in table  # smoke is not the paper's size
    assert {"angles.png", "digits.png", "cost.tex"} <= {p.name for p in tmp_path.iterdir()}
