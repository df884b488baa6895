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
    random_pairs,
    stages,
    trained,
)
from rotation.config import PRESETS, Config
from rotation.problem import RotationProblem
from rotation.train import RotationTask

TITLE = "Rotation"
TEST_SIZE = 1_000
"""Test images of the training; accuracy is not studied here."""
PARTS = {
    "linear layers": lambda name: name.startswith("fc"),
    "last layer": lambda name: name.startswith("fc3."),
}


def snapshots(
    preset: str, device: torch.device, pairs: int, directory: Path
) -> list[PlannedSnapshot]:
    """A run with EvoGrad before its first epoch, half-way and after its last."""
    config = replace(PRESETS[preset], method="evograd", seed=1, test_size=TEST_SIZE)
    return stages(config, partial(_snapshot, device, pairs), directory)


def _snapshot(
    device: torch.device, pairs: int, config: Config, epochs: int, directory: Path
) -> Snapshot:
    task = trained(RotationTask, config, device, epochs, directory)
    learner = task.learner

    def present() -> tuple[dict, dict]:
        return copied(dict(learner.network.named_parameters())), copied({"angle": learner.angle})

    params, hyper = present()
    return Snapshot(
        problem=lambda dtype: RotationProblem(
            copy.deepcopy(learner.network).to(dtype), config.rotate
        ),
        params=params,
        hyper=hyper,
        readings={"": random_pairs(task, config, pairs)},
        inner_lr=config.learning_rate,
        noise_prediction="",
        parts=PARTS,
        later=parameters_later(task, epochs + 1, present),
    )
