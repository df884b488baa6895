"""Two processes on one run compute what one process computes, up to rounding in float64."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from common.errors import UserError
from common.reporting import read_record
from common.settings import ROOT
from common.training import processes
from tests.common.training.two_processes import CASES, SAMPLES, base_step, hypergradient

CHANNELS = 16 + 2 * 16 + 2 * 32 + 2 * 64
"""Of all batch norms of ResNet-8."""


def start(*words: object) -> list[subprocess.Popen]:
    """Two processes as torchrun would start them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.common.training.two_processes", *map(str, words)]
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
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


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What two processes have computed, by case."""
    file = tmp_path_factory.mktemp("sums") / "found.pt"
    assert [status for status, _ in end(start("sums", file))] == [0, 0]
    return torch.load(file)


def assert_equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("problem", "name"), CASES)
def test_hypergradients_are_those_of_one_process(problem, name, of_two):
    found, alone = of_two[problem, name], hypergradient(problem, name)
    scale = max(grad.abs().max() for grad in alone["grads"].values())
    for n, grad in alone["grads"].items():
        assert (found["grads"][n] - grad).abs().max() < 1e-9 * scale
    assert_equal(found["outer_loss"], alone["outer_loss"])
    assert alone["bytes"] == 0


def test_gradients_and_running_statistics_of_the_base_step_are_those_of_one_process(of_two):
    found, alone = of_two["base step"], base_step()
    assert len(found["all_losses"]) == SAMPLES
    theta = of_two["metaweightnet", "evograd"]["theta"]
    assert found.pop("bytes") == 8 * (theta + 1 + 4 * CHANNELS) and alone.pop("bytes") == 0
    assert_equal(found, alone)


def test_evograd_exchanges_losses_slopes_and_one_vector_of_lambdas_size(of_two):
    count = 3
    found = of_two["rotation", "evograd"]
    assert found["bytes"] == 8 * (count + (count + 1) + found["lambda"])
    # Batch norm of the shared outer batch: two vectors forward, two backward.
    found = of_two["metaweightnet", "evograd"]
    assert found["bytes"] == 8 * (count + (count + 1) + found["lambda"] + 4 * CHANNELS)


def test_t1t2_exchanges_two_vectors_of_thetas_size(of_two):
    found = of_two["rotation", "t1t2"]
    assert found["bytes"] == 8 * (2 * found["theta"] + found["lambda"] + 2)


def test_a_killed_process_ends_the_run_which_continues_with_the_same_numbers(tmp_path):
    whole, cut = start("run", tmp_path / "whole", 0), start("run", tmp_path / "cut", 5)
    status, said = end(cut)[0]
    assert (status, cut[1].returncode) == (2, -9)
    assert said.startswith("error: another process of this run has ended")
    assert not (tmp_path / "cut" / "record.json").exists()
    assert (tmp_path / "cut" / "checkpoint.pt").exists()
    again = start("run", tmp_path / "cut", 0)
    assert [status for status, _ in end(again) + end(whole)] == [0] * 4
    first, second = (read_record(tmp_path / name / "record.json") for name in ("whole", "cut"))
    assert first.provenance["processes"] == 2
    for part in ("epochs", "traces", "final", "best", "data"):
        assert getattr(first, part) == getattr(second, part), part


def test_an_experiment_that_cannot_be_shared_says_so(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(UserError, match="toy_1d runs in one process"),
        processes.together(torch.device("cpu"), "toy_1d"),
    ):
        pass


def test_one_process_shares_nothing():
    batch = torch.randn(4, 3)
    layer = torch.nn.Linear(3, 1)
    with processes.sharing(batch) as (part, share):
        assert part is batch and share == 1
        assert processes.share_of_sum(batch) is batch and processes.gathered(batch) is batch
        loss = layer(part).square().mean()
        value = processes.shared_backward(loss, layer.parameters())
    assert torch.equal(value, loss)
    expected = torch.autograd.grad(layer(batch).square().mean(), layer.weight)[0]
    assert torch.equal(layer.weight.grad, expected)
    ours, theirs = processes.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    images = torch.randn(4, 3, 2, 2)
    assert torch.equal(ours(images), theirs(images))
    assert torch.equal(ours.running_var, theirs.running_var)
