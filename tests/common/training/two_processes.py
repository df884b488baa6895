"""What tests/common/training/test_processes.py starts as two processes: hypergradients and a base
step of small bilevel problems in float64; a small run of rotation.

    python -m tests.common.training.two_processes sums FILE
    python -m tests.common.training.two_processes run FOLDER LAST-STEP
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from common.command import run_command
from common.estimators import ESTIMATORS
from common.training import Cost, loop, processes
from common.training.distributed import over_processes
from metaweightnet.models import VNet, build_network
from metaweightnet.problem import Batch as ImageBatch
from metaweightnet.problem import MetaWeightProblem
from rotation import train
from rotation.config import EXPERIMENT
from rotation.data import Split, Splits
from rotation.models import LeNet
from rotation.problem import Batch, RotationProblem
from rotation.train import RotationTask
from tests.common.hypergrad.problems import inner_batch_for, small

SAMPLES = 7
"""In a batch: two processes have unequal parts."""


class WithDirectTerm(RotationProblem):
    """The angle also in the outer loss."""

    def outer_loss(self, params, hyper, batch):
        return super().outer_loss(params, hyper, batch) + hyper["angle"].square()


def rotation(direct: bool):
    torch.manual_seed(0)
    network = LeNet().double()
    batches = [
        Batch(torch.rand(SAMPLES, 1, 28, 28).double(), torch.randint(10, (SAMPLES,)))
        for _ in range(2)
    ]
    kind = WithDirectTerm if direct else RotationProblem
    return kind(network, "normalised"), network, {"angle": torch.tensor(0.3).double()}, batches


def metaweightnet():
    torch.manual_seed(0)
    network = build_network("resnet", 8, 1, 10).double()
    vnet = VNet(5).double()
    batches = [
        ImageBatch(torch.randn(SAMPLES, 3, 8, 8).double(), torch.randint(10, (SAMPLES,)))
        for _ in range(2)
    ]
    return MetaWeightProblem(network, vnet), network, dict(vnet.named_parameters()), batches


PROBLEMS = {
    "rotation": lambda: rotation(direct=False),
    "with a direct term": lambda: rotation(direct=True),
    "metaweightnet": metaweightnet,
}
CASES = [("metaweightnet", name) for name in ESTIMATORS]
CASES += [("rotation", name) for name in ("evograd", "anchored", "differences", "t1t2", "neumann")]
CASES += [("with a direct term", name) for name in ("evograd", "t1t2")]


def hypergradient(problem: str, name: str) -> dict:
    """What an estimator finds and what was exchanged for it."""
    losses, network, hyper, (inner, outer) = PROBLEMS[problem]()
    estimator = small(ESTIMATORS[name])
    inner = inner_batch_for(estimator, inner)
    spread, losses = over_processes(estimator, losses)
    params = dict(network.named_parameters())
    for _ in range(2):  # the first call examines the problem
        before = processes.TRAFFIC.bytes
        generator = torch.Generator().manual_seed(5)
        found = spread(losses, params, hyper, inner, outer, generator=generator)
    return {
        "grads": found.grads,
        "outer_loss": found.outer_loss,
        "bytes": processes.TRAFFIC.bytes - before,
        "theta": sum(p.numel() for p in params.values()),
        "lambda": sum(h.numel() for h in hyper.values()),
    }


def base_step() -> dict:
    """Gradients and batch norm's running statistics after a step on a shared batch."""
    _, network, _, (batch, _) = metaweightnet()
    before = processes.TRAFFIC.bytes
    with processes.sharing(batch) as (part, _):
        losses = F.cross_entropy(network(part.images), part.labels, reduction="none")
        loss = processes.shared_backward(losses.mean(), network.parameters())
        exchanged = processes.TRAFFIC.bytes - before
        all_losses = processes.gathered(losses.detach())
    return {
        "bytes": exchanged,
        "loss": loss,
        "all_losses": all_losses,
        "grads": {n: p.grad for n, p in network.named_parameters()},
        "buffers": dict(network.named_buffers()),
    }


def compare_sums(file: str) -> None:
    with processes.together(torch.device("cpu"), shared=RotationTask):
        found = {case: hypergradient(*case) for case in CASES} | {"base step": base_step()}
        if processes.is_first():
            torch.save(found, file)


def small_run(folder: str, last_step: int) -> None:
    """Rotation on random images; process 1 is killed after ``last_step`` steps, if that many."""

    def splits(config, device):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (120, 28, 28), generator=generator).byte()
        split = Split(images, torch.randint(10, (120,), generator=generator))
        return Splits(split, split, split, {"images": "0" * 64})

    class Bar(loop.tqdm):
        def update(self, n: float = 1) -> None:
            steps.append(n)
            if len(steps) == last_step and not processes.is_first():
                os.kill(os.getpid(), signal.SIGKILL)
            super().update(n)

    steps: list[float] = []
    loop.tqdm, train.load_splits = Bar, splits
    train.measure = lambda *_, **__: Cost(1, 1, 1, 1, 1, 1)
    smoke = EXPERIMENT.presets["smoke"]
    sizes = {"train_size": 120, "meta_size": 120, "test_size": 120, "batch_size": 50, "epochs": 3}
    train.run(replace(smoke, run_dir=Path(folder), device="cpu", threads=1, **sizes))


def main() -> None:
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["sums", file]:
            compare_sums(file)
        case ["run", folder, last_step]:
            small_run(folder, int(last_step))


if __name__ == "__main__":
    run_command(main)
