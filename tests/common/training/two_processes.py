"""What test_processes.py starts as two processes.

python -m tests.common.training.two_processes estimates FILE
python -m tests.common.training.two_processes run FOLDER LAST-STEP
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from common import run as loop
from common.command import run_command
from common.hypergrad import AnchoredEvoGrad, EvoGrad
from common.training import Cost, processes
from metaweightnet.data import Batch
from metaweightnet.models import ResNet, VNet
from metaweightnet.train import MetaWeightProblem
from rotation import train
from rotation.config import EXPERIMENT
from rotation.data import Split, Splits

CASES = {
    "K = 2": EvoGrad(2),
    "K = 5": EvoGrad(5),
    "anchored, K = 3": AnchoredEvoGrad(3),
}


class WithDirectTerm(MetaWeightProblem):
    """lambda also in the outer loss."""

    def outer_loss(self, params, hyper, batch):
        return super().outer_loss(params, hyper, batch) + sum(
            h.square().sum() for h in hyper.values()
        )


def estimate(case: str) -> dict:
    """What an estimator finds. Process 1 begins with other parameters."""
    torch.manual_seed(processes.rank())
    network, vnet = ResNet(8, 1, 10), VNet(5)
    generator = torch.Generator().manual_seed(0)
    inner, outer = (
        Batch(
            torch.randn(7, 3, 8, 8, generator=generator),
            torch.randint(10, (7,), generator=generator),
        )
        for _ in range(2)
    )
    found = processes.over_processes(CASES[case])(
        WithDirectTerm(network, vnet),
        dict(network.named_parameters()),
        dict(vnet.named_parameters()),
        inner,
        outer,
        generator=generator,
    )
    return {"grads": found.grads, "outer_loss": found.outer_loss, **found.diagnostics}


def estimates(file: str) -> None:
    with processes.together(torch.device("cpu")):
        found = {case: estimate(case) for case in CASES}
        torch.save(found, f"{file}.{processes.rank()}")


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
    EXPERIMENT.run(replace(smoke, run_dir=Path(folder), device="cpu", threads=1, **sizes))


def main() -> None:
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["estimates", file]:
            estimates(file)
        case ["run", folder, last_step]:
            small_run(folder, int(last_step))


if __name__ == "__main__":
    run_command(main)
