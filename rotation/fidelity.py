"""The rotation problem at the start, middle and end of training, for the fidelity study."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from common.fidelity_study.snapshots import (
    PlannedSnapshot,
    Snapshot,
    copied,
    parameters_later,
    train_until,
)
from common.training import new_generator, seed_everything
from rotation.config import PRESETS, Config
from rotation.problem import RotationProblem
from rotation.train import RotationTask

TITLE = "Rotation"
TEST_SIZE = 1_000
"""Test images that the training is watched on; accuracy is not studied here."""
PARTS = {
    "linear layers": lambda name: name.startswith("fc"),
    "last layer": lambda name: name.startswith("fc3."),
}


def snapshots(
    preset: str, device: torch.device, pairs: int, directory: Path
) -> list[PlannedSnapshot]:
    """A run with EvoGrad, looked at before its first epoch, half-way and after its last."""
    config = replace(PRESETS[preset], method="evograd", seed=1, test_size=TEST_SIZE)
    stages = {"start": 0, "middle": config.epochs // 2, "end": config.epochs}
    return [
        PlannedSnapshot(
            "rotation", "stage", stage, partial(_snapshot, config, device, epochs, pairs, folder)
        )
        for stage, epochs in stages.items()
        for folder in [directory / "rotation"]
    ]


def _snapshot(
    config: Config, device: torch.device, epochs: int, pairs: int, directory: Path
) -> Snapshot:
    seed_everything(config.seed)
    task = RotationTask(config, device)
    train_until(task, epochs, directory, config)

    def problem(dtype: torch.dtype) -> RotationProblem:
        return RotationProblem(copy.deepcopy(task.learner.network).to(dtype), config.rotate)

    def present() -> tuple[dict, dict]:
        learner = task.learner
        return copied(dict(learner.network.named_parameters())), copied({"angle": learner.angle})

    generator = new_generator(config.seed, "batches of the fidelity study")

    def batch(split):
        index = torch.randperm(len(split.labels), generator=generator)[: config.batch_size]
        return split.batch(index.to(device))

    params, hyper = present()
    return Snapshot(
        problem=problem,
        params=params,
        hyper=hyper,
        readings={"": [(batch(task.train), batch(task.meta)) for _ in range(pairs)]},
        inner_lr=config.learning_rate,
        noise_prediction="",
        parts=PARTS,
        later=parameters_later(task, epochs + 1, present),
    )
