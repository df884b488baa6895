"""Starts runs as jobs of a Slurm cluster, through the library submitit.

The runs write their metrics, checkpoints and records where they always do, so the cluster's nodes
must see this project's folder under the same path.
"""

import argparse
import shlex
import shutil
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.bounds import Bounds
from common.errors import UserError
from common.runs import RECORD, finished_record
from common.settings import ROOT, RunSettings
from scripts.launch import LOG, command, last_line
from scripts.slurm_job import RunJob

JOB_ID = "slurm-job"
"""File in a run's folder: the job that the run was submitted as."""
QUEUE_SECONDS = 5.0
"""Between two questions to Slurm, which asks for restraint."""


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

    def add(self, jobs: Collection[Any]) -> None:
        """Takes in jobs, as submitit gives them, that were just submitted."""
        self._jobs |= {job.job_id for job in jobs}
        self._asked = time.monotonic()  # an older answer would not have them

    def cancel(self, job_id: str) -> None:
        """Ends a job; one that has ended already is no mistake."""
        subprocess.run(["scancel", "--quiet", job_id], capture_output=True)


@dataclass
class SubmititLauncher:
    """Submits runs by an executor of submitit; those started before the first of them is asked
    whether it has ended become one array.

    A run that an earlier sweep has submitted and that has not ended is not submitted again.
    default: the preset's settings. extra: words for every run's command line.
    """

    executor: Any
    jobs: SlurmQueue
    default: RunSettings
    extra: Sequence[str] = ()
    slots: int = 1_000_000  # the cluster decides
    _waiting: "list[SubmittedRun]" = field(default_factory=list)

    def start(self, config: RunSettings) -> "SubmittedRun | None":
        if finished_record(config) is not None:
            return None
        directory = config.directory()
        directory.mkdir(parents=True, exist_ok=True)
        run = SubmittedRun(config, directory / LOG, self)
        if run.job_file.exists() and (job_id := run.job_file.read_text().strip()) in self.jobs:
            run.job_id = job_id
        else:
            self._waiting.append(run)
        return run

    def submit(self) -> None:
        """Submits the runs that were started since the last call."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        if not self._waiting:
            return
        runs, self._waiting = self._waiting, []
        try:
            with self.executor.batch():
                submitted = [
                    self.executor.submit(
                        RunJob([*command(run.config, self.default), *self.extra], ROOT, run.log)
                    )
                    for run in runs
                ]
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"Slurm has refused the jobs: {reason}") from None
        self.jobs.add(submitted)
        for run, job in zip(runs, submitted, strict=True):
            run.job_id = job.job_id
            run.job_file.write_text(f"{job.job_id}\n")


@dataclass
class SubmittedRun:
    """A run as a job; it has ended well if it has left its record."""

    config: RunSettings
    log: Path
    launcher: SubmititLauncher
    job_id: str | None = None

    @property
    def job_file(self) -> Path:
        return self.config.directory() / JOB_ID

    def ended(self) -> bool:
        if self.job_id is None:
            self.launcher.submit()
        return self.job_id not in self.launcher.jobs

    def failure(self) -> str | None:
        if (self.config.directory() / RECORD).exists():
            return None
        return last_line(self.log) or f"job {self.job_id} ended before the run began"

    def stop(self) -> None:
        if self.job_id is not None:
            self.launcher.jobs.cancel(self.job_id)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What a job asks of the cluster."""
    group = parser.add_argument_group("with --launcher slurm")
    group.add_argument("--partition", help="default: the cluster's")
    group.add_argument(
        "--time", type=int, default=60, help="minutes; then a job is requeued and continued (60)"
    )
    group.add_argument("--gpus", type=int, default=0, help="GPUs per job (0)")
    group.add_argument("--cpus", type=int, default=1, help="CPU cores per job (1)")
    group.add_argument("--mem", help="memory per job, such as 8GB; default: the cluster's")
    group.add_argument("--account", help="who is charged; default: the cluster's")
    group.add_argument("--qos", help="quality of service; default: the cluster's")


def slurm_executor(arguments: argparse.Namespace, name: str, jobs: int | None) -> Any:
    """submitit's executor for ``add_arguments``; UserError without Slurm or submitit.

    name: of the jobs. jobs: how many may run at a time at most.
    """
    for flag, least in (("time", 1), ("cpus", 1), ("gpus", 0)):
        Bounds(least=least).check(f"--{flag}", getattr(arguments, flag))
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
        "time": arguments.time,
        "partition": arguments.partition,
        "gpus_per_node": arguments.gpus or None,
        "cpus_per_task": arguments.cpus,
        "account": arguments.account,
        "qos": arguments.qos,
        "array_parallelism": jobs,
        # So long before the time limit Slurm says that it comes.
        "signal_delay_s": min(90, 15 * arguments.time),
        "additional_parameters": {
            "requeue": True,
            **({"mem": arguments.mem} if arguments.mem else {}),
        },
        "setup": [f"export PYTHONPATH={shlex.quote(str(ROOT))}"],
    }
    executor.update_parameters(**{n: v for n, v in wanted.items() if v is not None})
    return executor
