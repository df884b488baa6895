"""What scripts/slurm_test.sh does once its Slurm is running.

    python -m scripts.slurm_test FOLDER

The folder gets two copies of the project with their runs, one for each launcher. Given the folder
of an earlier test, it goes on with what is finished there.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.command import PARENT, run_command
from common.errors import UserError
from common.files import write_atomic
from common.settings import ROOT
from common.training import metrics_lines

EXPERIMENTS = ("rotation", "metaweightnet")
METHODS = ("evograd", "t1t2", "along_gradient")
COMPARED = ("config", "epochs", "traces", "final", "best", "curves", "data")
"""Parts of a record that two launchers must agree on; the others are times and memory."""
JOB_MINUTES = 60
"""A job's time limit: an epoch must be shorter, however crowded the machine is."""
STALLED = 900.0
"""Seconds after which a sweep is given up if none of its runs has written anything."""
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "runs", "results", "__pycache__", ".*_cache")


def main() -> None:
    local, slurm = (Path(sys.argv[1]) / launcher for launcher in ("local", "slurm"))
    for copy in (local, slurm):
        if not copy.exists():
            shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    if (status := sweep(local, "--launcher", "local")) != 0:
        raise UserError(f"the sweep on this machine ended with status {status}")
    words = ("--launcher", "slurm", "--partition", "test", "--time", str(JOB_MINUTES))
    interrupted = interrupted_sweep(slurm, words)
    if (status := sweep(slurm, *words)) != 0:
        raise UserError(f"the same command again ended with status {status}")
    compare(local, slurm)
    for name, run in interrupted.items():
        resumed = next(metrics_lines(slurm / "runs" / run / "metrics.jsonl"))["iteration"]
        say(f"{name}: {run}, continued from iteration {resumed}")
        if resumed == 0:
            raise UserError(f"{run} was begun anew, not continued")


def interrupted_sweep(folder: Path, words: Sequence[str]) -> dict[str, str]:
    """A sweep in which three jobs are interrupted; which ones, by kind of interruption.

    One that was cut off itself is begun anew, one that is finished is not repeated.
    """
    finished = folder / "interrupted.json"
    if not finished.exists():
        shutil.rmtree(folder / "runs", ignore_errors=True)
        interruptions = Interruptions(folder)
        with interruptions.going_on():
            status = sweep(folder, *words)
        say(f"the sweep with a cancelled job ended with status {status}")
        if len(interruptions.done) < len(Interruptions.KINDS):
            raise UserError(f"only {', '.join(interruptions.done) or 'nothing'} took place")
        if status != 2:
            raise UserError("a cancelled job must end the sweep with status 2")
        write_atomic(finished, json.dumps(interruptions.done))
    return json.loads(finished.read_text())


def say(text: str) -> None:
    print(text, flush=True)


def sweep(folder: Path, *words: str) -> int:
    """The sweep of both experiments from a copy of the project; its exit status.

    UserError if no run makes progress for ``STALLED`` seconds.
    """
    options = ["--preset", "smoke", "--device", "cpu", "--threads", "1", "--jobs", "2"]
    options += ["--no-report", "--methods", *METHODS]
    command = ["python", "-m", "scripts.sweep", *EXPERIMENTS, *options, *words]
    say(f"$ {' '.join(command)}")
    began = time.time()
    environment = os.environ | {PARENT: str(os.getpid())}
    with subprocess.Popen([sys.executable, *command[1:]], cwd=folder, env=environment) as process:
        try:
            while process.poll() is None:
                time.sleep(1)
                if time.time() - max(began, last_written(folder / "runs")) > STALLED:
                    raise UserError(f"no run has written anything for {STALLED / 60:.0f} minutes")
        finally:
            process.terminate()
    say(f"status {process.returncode} after {time.time() - began:.0f} s")
    return process.returncode


def last_written(runs: Path) -> float:
    """When a run last wrote a file (seconds since 1970); 0 without runs."""
    times = [0.0]
    for path in runs.glob("*/smoke/*/*"):
        with contextlib.suppress(FileNotFoundError):  # a temporary file
            times.append(path.stat().st_mtime)
    return max(times)


class Interruptions:
    """Meets three running jobs, each after its first checkpoint, with what a cluster does to jobs.

    requeued: back into the queue, as by preemption. time limit: Slurm's signal that the time limit
    is near; a job then requeues itself. cancelled: ended for good; only a sweep begins it
    again.
    """

    KINDS = ("requeued", "time limit", "cancelled")

    def __init__(self, folder: Path) -> None:
        self.runs, self.done = folder / "runs", dict[str, str]()

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        end = threading.Event()
        thread = threading.Thread(target=self._watch, args=(end,))
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _watch(self, end: threading.Event) -> None:
        while not end.wait(0.02):
            open_kinds = [kind for kind in self.KINDS if kind not in self.done]
            for job in self.runs.glob("*/smoke/*/slurm-job") if open_kinds else ():
                run = str(job.parent.relative_to(self.runs))
                if run not in self.done.values() and between_epochs(job.parent):
                    say(f"{open_kinds[0]}: {run}")
                    self._interrupt(open_kinds[0], job.read_text().strip())
                    self.done[open_kinds[0]] = run
                    break
            without_delay()

    def _interrupt(self, kind: str, job_id: str) -> None:
        command = {
            "requeued": ["scontrol", "requeue", job_id],
            "time limit": ["scancel", "--signal=USR2", job_id],
            "cancelled": ["scancel", job_id],
        }[kind]
        # scancel also counts as an error that a job was gone when all its processes had the signal;
        # that the job was interrupted shows in its metrics.
        subprocess.run(command, capture_output=True)


def between_epochs(run: Path) -> bool:
    """Whether a run has left a checkpoint and no record yet."""
    return (run / "checkpoint.pt").exists() and not (run / "record.json").exists()


def without_delay() -> None:
    """Lets requeued jobs start at once; Slurm makes them wait for two minutes."""
    answer = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i %r"], capture_output=True, text=True
    )
    for line in answer.stdout.splitlines():
        job_id, reason = line.split(maxsplit=1)
        if reason == "BeginTime":
            subprocess.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"])


def compare(local: Path, slurm: Path) -> None:
    """UserError unless both folders have the same records, times and memory apart."""
    names = [
        sorted(str(p.relative_to(f)) for p in (f / "runs").glob("*/smoke/*/record.json"))
        for f in (local, slurm)
    ]
    if names[0] != names[1] or not names[0]:
        raise UserError(f"different records: {names[0]}, {names[1]}")
    for name in names[0]:
        ours, theirs = (json.loads((folder / name).read_text()) for folder in (local, slurm))
        for part in COMPARED:
            if ours[part] != theirs[part]:
                raise UserError(f"{name} differs in {part}")
    say(f"{len(names[0])} records are equal bit for bit: {', '.join(COMPARED)}")


if __name__ == "__main__":
    run_command(main)
