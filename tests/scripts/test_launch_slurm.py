"""Runs as jobs: by submitit's local executor, and with programs in place of Slurm's own. A real
Slurm is used by tests/reliability/test_slurm.py."""

import os
import re
import signal
import time
from dataclasses import replace

import pytest
import submitit

from common.errors import UserError
from common.experiment import load_experiment
from scripts import launch_slurm
from scripts.launch_slurm import Job, RunJob, SlurmLauncher, SlurmQueue, slurm_launcher


@pytest.fixture
def configs(tmp_path):
    default = load_experiment("toy_1d").presets["smoke"]
    return [replace(default, seed=seed, run_dir=tmp_path / f"run {seed}") for seed in (1, 2)]


class Interrupted(RunJob):
    """Begun for the first time it goes on for long; then it ends with a record."""

    def __call__(self):
        begun = self.config.directory() / "begun"
        if begun.exists():
            (self.config.directory() / "record.json").write_text("{}")
        else:
            begun.write_text(str(os.getpid()))
            time.sleep(100)


def test_an_interrupted_job_is_requeued_and_continues(configs, tmp_path):
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=5)
    folder = configs[0].directory()
    folder.mkdir()
    job = executor.submit(Interrupted(configs[0]))
    begun = folder / "begun"
    while not (begun.exists() and begun.read_text()):
        time.sleep(0.05)
    os.kill(int(begun.read_text()), signal.SIGUSR2)  # as Slurm does before the time limit
    while not (folder / "record.json").exists():  # submitit looks less often
        time.sleep(0.05)
    job.result()
    assert (folder / "record.json").exists()


def test_a_job_makes_the_run_or_writes_why_not(configs):
    folder, other = (config.directory() for config in configs)
    folder.mkdir()
    RunJob(configs[0])()
    assert (folder / "record.json").exists()
    other.mkdir()
    (other / "record.json").write_text("{")
    with pytest.raises(UserError):
        RunJob(configs[1])()
    assert (other / "run.log").read_text().startswith("error: ")


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


def test_the_runs_of_a_grid_are_one_array_and_are_not_submitted_twice(slurm, configs):
    job = Job(partition="gpu", time=90, gpus=1, mem="8GB")
    executor = slurm_launcher(job, "toy_1d smoke", 1).executor
    launcher = SlurmLauncher(executor, SlurmQueue(seconds=0))
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
    assert launcher.start(configs[1]).job_id == "7_1"  # watched, not submitted again
    assert launcher.start(configs[0]).job_id is None
    assert [run.ended() for run in runs] == [True, False]
    assert runs[0].failure() == "job 7_0 ended before the run began"
    (slurm / "queue").unlink()  # Slurm does not answer: its last answer counts
    assert not runs[1].ended()
    runs[1].stop()
    assert (slurm / "cancelled").read_text() == "--quiet 7_1\n"


def test_refusals_are_one_sentence(slurm, configs, monkeypatch):
    (slurm / "sbatch").write_text("#!/bin/sh\necho sbatch: invalid partition >&2; exit 1\n")
    run = slurm_launcher(Job(), "x", 1).start(configs[0])
    with pytest.raises(UserError, match=r"has refused the jobs: .*invalid partition"):
        run.ended()
    with pytest.raises(UserError, match="--cpus 0 must be at least 1"):
        slurm_launcher(Job(cpus=0), "x", None)
    monkeypatch.setenv("PATH", str(slurm / "nothing"))
    with pytest.raises(UserError, match="needs Slurm: sbatch is not on this machine"):
        slurm_launcher(Job(), "x", None)
