"""--launcher slurm on a real Slurm of one node, on this machine alone (loopback).

    .venv/bin/python -m pytest -m slow tests/reliability/test_slurm.py

Needs Debian's slurm-wlm and munge, installed but not running, and root. Takes a few minutes.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest

from common.run import CHECKPOINT, METRICS, RECORD
from scripts import launch, sweep
from scripts.launch_slurm import JOB_ID, Job, slurm_launcher
from tests.reliability.commands import EXPERIMENT, Command, numbers, words

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CONFIGURATION = """
ClusterName=scratch
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2
PartitionName=test Nodes=localhost Default=YES MaxTime=60 State=UP
"""


def asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def until(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Slurm with a key, sockets, ports and folders of its own."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    programs = ("munged", "slurmctld", "slurmd", "sbatch")
    if os.geteuid() != 0 or not all(map(shutil.which, programs)):
        pytest.skip("needs root, slurm-wlm and munge")
    folder = tmp_path / "slurm"
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o711)
    for parent in (folder, *folder.parents[:4]):  # munge wants a path that others can search
        parent.chmod(0o755)
    (folder / "munge" / "key").touch(0o600)
    (folder / "munge" / "key").write_bytes(os.urandom(128))
    with ExitStack() as held:
        servers = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [server.getsockname()[1] for server in servers]
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, ports=ports))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    munge = [f"--{n}={folder}/munge/{n.split('-')[0]}" for n in ("key-file", "socket", "pid-file",
             "seed-file", "log-file")]  # fmt: skip
    daemons = []
    try:
        for command in (["munged", "--foreground", "--force", *munge],
                        ["slurmctld", "-D"], ["slurmd", "-D", "-N", "localhost"]):  # fmt: skip
            with (folder / f"{command[0]}.log").open("w") as log:
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
            until((folder / "munge" / "socket").exists, 20)
        until(lambda: asked("sinfo", "--noheader", "--states=idle"), 60)
        yield
    finally:
        asked("scancel", "--full", "--signal=KILL", "--user=root")
        time.sleep(1)  # jobs outlive the daemons
        for daemon in daemons:
            daemon.terminate()
            daemon.wait()


INTERRUPTIONS = {
    "requeued, as by preemption": ["scontrol", "requeue"],
    "warned of its time limit": ["scancel", "--signal=USR2"],
    "cancelled": ["scancel"],
}


def test_interrupted_jobs_continue_and_end_with_the_same_numbers(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.launch_slurm.QUEUE_SECONDS", 0.2)
    one = EXPERIMENT.parse([*words(tmp_path), "--epochs", "40"])
    here, there = (
        [replace(one, seed=n, run_dir=tmp_path / where / str(n)) for n in range(3)]
        for where in ("here", "there")
    )

    def swept() -> Command:
        launcher = slurm_launcher(Job(partition="test"), "test", None)
        return Command(lambda: sweep.sweep(there, launcher, "slurm"))

    Command(lambda: sweep.sweep(here, launch.LocalLauncher(2), "local")).wait().check()
    first = swept()
    for config, interruption in zip(there, INTERRUPTIONS.values(), strict=True):
        folder = config.directory()
        until((folder / CHECKPOINT).exists)
        assert not (folder / RECORD).exists()
        asked(*interruption, (folder / JOB_ID).read_text().strip())

    def requeued() -> bool:
        """Lets requeued jobs start at once; Slurm makes them wait for two minutes."""
        for line in asked("squeue", "--noheader", "--array", "--format=%i %r").splitlines():
            job_id, reason = line.split(maxsplit=1)
            if reason == "BeginTime":
                asked("scontrol", "update", f"JobId={job_id}", "StartTime=now")
        return all((c.directory() / RECORD).exists() for c in there[:2])

    until(requeued)
    ended = first.wait()
    ended.check(refused=True)  # one was cancelled
    swept().wait().check()
    for ours, theirs in zip(here, there, strict=True):
        assert numbers(ours.directory()) == numbers(theirs.directory())
        begun = json.loads((theirs.directory() / METRICS).read_text().split("\n")[0])
        assert begun["iteration"] > 0, "begun anew, not continued"
