"""Several processes on one run compute what one process computes, bit for bit."""

import os
import socket
import subprocess
import sys
import time

import pytest
import torch

from common.errors import UserError
from common.hypergrad import T1T2
from common.settings import ROOT
from common.training import processes
from tests.common.training.two_processes import CASES, estimate
from tests.experiments import DECLARED


def start(*words: object) -> list[subprocess.Popen]:
    """Two processes as torchrun would start them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"TORCHELASTIC_RUN_ID": "none"}
    command = [sys.executable, "-m", *map(str, words)]
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | shared | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def end(started: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit status and last line of each; they must not hang."""
    try:
        errors = [process.communicate(timeout=240)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    lines = [error.replace("\r", "\n").strip().split("\n") for error in errors]
    return [(process.returncode, text[-1]) for process, text in zip(started, lines, strict=True)]


def test_estimates_are_those_of_one_process(tmp_path):
    ended = end(start("tests.common.training.two_processes", tmp_path / "found"))
    assert [status for status, _ in ended] == [0, 0], ended
    for rank in range(2):
        found = torch.load(tmp_path / f"found.{rank}")
        for case in CASES:
            torch.testing.assert_close(found[case], estimate(case), rtol=0, atol=0)


def test_a_killed_process_ends_the_run_and_one_process_continues_it_with_the_same_numbers(
    tmp_path, monkeypatch
):
    few = ["--preset", "smoke", "--method", "lft_evograd", "--device", "cpu", "--epochs", "8",
           "--episodes", "3", "--val-episodes", "2", "--test-episodes", "4", "--width", "4",
           "--pretrain-epochs", "1", "--pretrained-dir", f"{tmp_path}/pretrained"]  # fmt: skip
    broken = start("cross_domain_fewshot", *few, "--run-dir", tmp_path / "cut")
    while not (tmp_path / "cut" / "checkpoint.pt").exists() and broken[0].poll() is None:
        time.sleep(0.01)
    broken[1].kill()
    (status, said), (other, _) = end(broken)
    assert (status, other) == (2, -9)
    assert said.startswith("error: another process of this run has ended")
    assert not (tmp_path / "cut" / "record.json").exists()
    # What torchrun's variables say without torchrun makes a process no part of several.
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}.items():
        monkeypatch.setenv(name, value)
    experiment = DECLARED["cross_domain_fewshot"]
    first, second = (
        experiment.run(experiment.parse([*few, "--run-dir", f"{tmp_path}/{name}"]))
        for name in ("alone", "cut")
    )
    for part in ("config", "epochs", "traces", "final", "best", "data"):
        assert getattr(first, part) == getattr(second, part), part


def test_an_estimator_without_candidates_is_refused(monkeypatch):
    estimator = T1T2(0.1)
    assert processes.over_processes(estimator) is estimator
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(UserError, match="without torchrun"):
        processes.over_processes(estimator)
