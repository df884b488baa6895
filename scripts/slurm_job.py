"""What a job of the cluster executes: one run, in a process of its own.

A module without heavy imports: every job reads it before its run begins.
"""

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.command import PARENT

ENDED_FROM_OUTSIDE = (-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)


@dataclass
class RunJob:
    """Carries out ``command`` in ``folder``, with its output in ``log``."""

    command: list[str]
    folder: Path
    log: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def __call__(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as log:
            process = self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=os.environ | {PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            status = process.wait()
        except BaseException:  # this process is interrupted
            process.terminate()
            raise
        if status in ENDED_FROM_OUTSIDE:
            # Slurm sends SIGTERM to all processes of a job that it ends: for good (scancel) or to
            # requeue it (preemption). If this one ended by itself, the job would count as failed
            # and not be requeued; so it waits for what was decided.
            time.sleep(600)
        if status:
            raise RuntimeError(f"exit status {status}: see {self.log}")

    def checkpoint(self) -> Any:
        """Called before a job is requeued: ends the run, which continues from its last epoch."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            # Popen.wait would wait for itself: the call that this handler interrupts holds it.
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        self.process = None
        return DelayedSubmission(self)
