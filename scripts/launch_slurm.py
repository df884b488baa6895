"""Starts runs as jobs of a Slurm cluster, through the library submitit.

The runs write their metrics, checkpoints and records where they always do, so the cluster's nodes
must see this project's folder under the same path.
"""

import contextlib
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.experiment import load_experiment
from common.run import RECORD
from common.settings import ROOT, RunSettings
from scripts.launch import LOG, last_line

JOB_ID = "slurm-job"
"""File in a run's folder: the job that the run was submitted as."""
QUEUE_SECONDS = 5.0
"""Between two questions to Slurm, which asks for restraint."""


@dataclass(frozen=True)
class Job:
    """What a job asks of the cluster (with --launcher slurm)."""

    partition: str | None = None
    """Default: the cluster's."""
    time: int = 60
    """Minutes; then a job is requeued and continued."""
    gpus: int = 0
    """GPUs per job."""
    cpus: int = 1
    """CPU cores per job."""
    mem: str | None = None
    """Memory per job, such as 8GB; default: the cluster's."""
    account: str | None = None
    """Who is charged; default: the cluster's."""
    qos: str | None = None
    """Quality of service; default: the cluster's."""


@dataclass(frozen=True)
class RunJob:
    """What a job executes: one run. Output goes to run.log in its folder."""

    config: RunSettings

    def __call__(self) -> None:
        folder = self.config.directory()
        with (
            (folder / LOG).open("w") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            try:
                load_experiment(self.config.experiment).run(self.config)
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                raise

    def checkpoint(self) -> Any:
        """Called before a job is requeued; the run continues from its last epoch."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class SlurmQueue:
    """This user's jobs that Slurm has not finished, by their ids; asked for every few seconds."""

    def __init__(self, seconds: float = QUEUE_SECONDS) -> None:
        self.seconds, self._asked, self._jobs = seconds, float("-inf"), frozenset[str]()

    def __contains__(self, job_id: str) -> bool:
        if time.monotonic() - self._asked > self.seconds:
            question = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
            answer = subprocess.run(question, capture_output=True, text=True)
            if answer.returncode == 0:  # else Slurm is busy or restarting: the old answer holds
                self._jobs = frozenset(answer.stdout.split())
                self._asked = time.monotonic()
        return job_id in self._jobs

    def submitted(self, job_ids: list[str]) -> None:
        """Takes in jobs that an older answer would not have."""
        self._jobs |= set(job_ids)
        self._asked = time.monotonic()


@dataclass
class SlurmLauncher:
    """Submits runs by an executor of submitit; those started before the first of them is asked
    whether it has ended become one array.

    A run that an earlier sweep has submitted and that has not ended is not submitted again.
    """

    executor: Any
    queue: SlurmQueue = field(default_factory=SlurmQueue)
    slots: int = sys.maxsize  # the cluster decides
    waiting: "list[SlurmRun]" = field(default_factory=list)

    def start(self, config: RunSettings) -> "SlurmRun":
        directory = config.directory()
        directory.mkdir(parents=True, exist_ok=True)
        run, job_file = SlurmRun(config, directory / LOG, self), directory / JOB_ID
        if job_file.exists() and (job_id := job_file.read_text().strip()) in self.queue:
            run.job_id = job_id
        else:
            self.waiting.append(run)
        return run

    def submit(self) -> None:
        """Submits the runs that were started since the last call."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        runs, self.waiting = self.waiting, []
        if not runs:
            return
        try:
            with self.executor.batch():
                jobs = [self.executor.submit(RunJob(run.config)) for run in runs]
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"Slurm has refused the jobs: {reason}") from None
        self.queue.submitted([job.job_id for job in jobs])
        for run, job in zip(runs, jobs, strict=True):
            run.job_id = job.job_id
            (run.config.directory() / JOB_ID).write_text(f"{job.job_id}\n")


@dataclass
class SlurmRun:
    """A run as a job; it has ended well if it has left its record."""

    config: RunSettings
    log: Path
    launcher: SlurmLauncher
    job_id: str | None = None

    def ended(self) -> bool:
        if self.job_id is None:
            self.launcher.submit()
        return self.job_id not in self.launcher.queue

    def failure(self) -> str | None:
        if (self.config.directory() / RECORD).exists():
            return None
        return last_line(self.log) or f"job {self.job_id} ended before the run began"

    def stop(self) -> None:
        if self.job_id is not None:  # one that has ended already is no mistake
            subprocess.run(["scancel", "--quiet", self.job_id], capture_output=True)


def slurm_launcher(job: Job, name: str, at_once: int | None) -> SlurmLauncher:
    """A launcher of jobs of that name; UserError without Slurm or submitit.

    at_once: how many may run at a time at most.
    """
    for flag, value, least in (("time", job.time, 1), ("cpus", job.cpus, 1), ("gpus", job.gpus, 0)):
        if value < least:
            raise UserError(f"--{flag} {value} must be at least {least}")
    for program in ("sbatch", "squeue", "scancel"):
        if shutil.which(program) is None:
            raise UserError(f"--launcher slurm needs Slurm: {program} is not on this machine")
    try:
        import submitit
    except ImportError:
        raise UserError("--launcher slurm needs submitit: pip install submitit==1.5.4") from None

    # A job may be requeued any number of times: preempted, at its time limit, with a broken node.
    executor = submitit.SlurmExecutor(ROOT / "runs" / ".slurm", max_num_timeout=1_000_000)
    wanted = {
        "job_name": name,
        "time": job.time,
        "partition": job.partition,
        "gpus_per_node": job.gpus or None,
        "cpus_per_task": job.cpus,
        "account": job.account,
        "qos": job.qos,
        "array_parallelism": at_once,
        # So long before the time limit Slurm says that it comes.
        "signal_delay_s": min(90, 15 * job.time),
        "additional_parameters": {"requeue": True, **({"mem": job.mem} if job.mem else {})},
        "setup": [f"export PYTHONPATH={shlex.quote(str(ROOT))}"],
    }
    executor.update_parameters(**{n: v for n, v in wanted.items() if v is not None})
    return SlurmLauncher(executor)
