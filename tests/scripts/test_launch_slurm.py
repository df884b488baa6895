"""Runs as jobs: by submitit's local executor, and with programs in place of Slurm's own."""

import argparse
import os
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import submitit

from common.errors import UserError
from common.experiment import load_experiment
from scripts import launch_slurm
from scripts.launch_slurm import SlurmQueue, SubmititLauncher, add_arguments, slurm_executor
from scripts.slurm_job import RunJob

# Begun for the first time it leaves a checkpoint and goes on for long; then it ends with a record.
RUN = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
if (folder / "checkpoint").exists():
    (folder / "record.json").write_text("{}")
else:
    print("at work", flush=True)
    (folder / "checkpoint").write_text(str(os.getppid()))
    time.sleep(100)
"""


class LocalJobs(dict):
    """Jobs of submitit's local executor that have not ended."""

    def __contains__(self, job_id):
        return super().__contains__(job_id) and not self[job_id].done()

    def add(self, jobs):
        self.update({job.job_id: job for job in jobs})

    def cancel(self, job_id):
        self[job_id].cancel()


@pytest.fixture
def configs(tmp_path):
    default = load_experiment("toy_1d").presets["smoke"]
    return [replace(default, seed=seed, run_dir=tmp_path / f"run {seed}") for seed in (1, 2)]


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def test_an_interrupted_job_is_requeued_and_continues(tmp_path, configs, monkeypatch):
    monkeypatch.setattr(
        launch_slurm,
        "command",
        lambda config, _: [sys.executable, "-c", RUN, str(config.directory())],
    )
    jobs = LocalJobs()
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=5)
    launcher = SubmititLauncher(executor, jobs, configs[0])
    run, cancelled = (launcher.start(config) for config in configs)
    assert not run.ended() and not cancelled.ended()
    job = run.config.directory() / "checkpoint"
    until(lambda: job.exists() and job.read_text())
    until((cancelled.config.directory() / "checkpoint").exists)
    assert launcher.start(run.config).job_id == run.job_id  # not submitted twice
    os.kill(int(job.read_text()), signal.SIGUSR2)  # as Slurm does before the time limit
    cancelled.stop()
    until(cancelled.ended)
    assert cancelled.failure() == "at work"
    until(run.ended)
    assert run.failure() is None
    assert launcher.start(cancelled.config).job_id is None  # to be submitted anew


def test_a_run_that_fails_fails_as_a_job(tmp_path):
    log = tmp_path / "run.log"
    with pytest.raises(RuntimeError, match="exit status 2"):
        RunJob([sys.executable, "-c", "print('a reason'); raise SystemExit(2)"], tmp_path, log)()
    assert log.read_text() == "a reason\n"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with programs in place of Slurm's; ``queue`` in it is what squeue says."""
    programs = {
        "sbatch": f"cat $1 > {tmp_path}/script; echo Submitted batch job 7",
        "squeue": f"cat {tmp_path}/queue",
        "scancel": f"echo $@ >> {tmp_path}/cancelled",
        "srun": "",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(launch_slurm, "ROOT", tmp_path)
    return tmp_path


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_the_runs_of_a_grid_are_one_array(slurm, configs):
    arguments = options("--partition", "gpu", "--time", "90", "--gpus", "1", "--mem", "8GB")
    executor = slurm_executor(arguments, "toy_1d smoke", jobs=1)
    launcher = SubmititLauncher(executor, SlurmQueue(seconds=0), configs[0], ["--threads", "1"])
    (slurm / "queue").write_text("7_0\n7_1\n")
    runs = [launcher.start(config) for config in configs]
    assert [run.ended() for run in runs] == [False, False]
    assert [run.job_id for run in runs] == ["7_0", "7_1"]
    script = (slurm / "script").read_text()
    asked = dict(re.findall(r"#SBATCH --([a-z-]+)=?(.*)", script))
    assert asked["array"] == "0-1%1" and asked["job-name"] == "'toy_1d smoke'"
    assert (asked["partition"], asked["time"], asked["mem"]) == ("gpu", "90", "8GB")
    assert (asked["gpus-per-node"], asked["cpus-per-task"]) == ("1", "1")
    assert asked["signal"] == "USR2@90" and "requeue" in asked and "account" not in asked
    (slurm / "queue").write_text("7_1\n")
    assert [run.ended() for run in runs] == [True, False]
    assert runs[0].failure() == "job 7_0 ended before the run began"
    runs[1].stop()
    assert (slurm / "cancelled").read_text() == "--quiet 7_1\n"


def test_the_queue_keeps_its_last_answer_while_slurm_does_not_answer(slurm):
    (slurm / "queue").write_text("7_0\n")
    queue = SlurmQueue(seconds=0)
    assert "7_0" in queue
    (slurm / "queue").unlink()
    assert "7_0" in queue and "7_1" not in queue


def test_a_refusal_of_slurm_is_one_sentence(slurm, configs):
    (slurm / "sbatch").write_text("#!/bin/sh\necho sbatch: invalid partition >&2; exit 1\n")
    launcher = SubmititLauncher(slurm_executor(options(), "x", 1), SlurmQueue(0), configs[0])
    run = launcher.start(configs[0])
    with pytest.raises(UserError, match=r"has refused the jobs: .*invalid partition"):
        run.ended()


def test_without_slurm_the_launcher_says_so(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs Slurm: sbatch is not on this machine"):
        slurm_executor(options(), "x", None)
    with pytest.raises(UserError, match="--cpus 0 must be at least 1"):
        slurm_executor(options("--cpus", "0"), "x", None)
