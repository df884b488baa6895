"""What the cost and the fidelity study look at: the problem at its real shapes, and in training."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from common.cost_study.case import CostCase, CostProblem, Size
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
from rotation.data import Batch
from rotation.train import Learner, RotationProblem, RotationTask

TITLE = "Rotation"
TEST_SIZE = 1_000
"""Test images of the trainings that are studied; accuracy is not."""
PARTS = {
    "linear layers": lambda name: name.startswith("fc"),
    "last layer": lambda name: name.startswith("fc3."),
}


def cases(size: Size) -> list[CostCase]:
    """The paper's batch; small enough for every size."""
    return [CostCase("LeNet, rotation", f"batch {Config.batch_size}", build, shared=True)]


def build(device: torch.device) -> CostProblem:
    """LeNet on random digits that pass through the rotation layer."""

    # A tiny step: the cost does not depend on the value of theta.
    def learner_of(method: str) -> Learner:
        return Learner(Config(method=method, learning_rate=1e-9), device)

    plain, learner = learner_of("baseline"), learner_of("evograd")
    pixels = torch.rand(Config.batch_size, 1, 28, 28, device=device)
    batch = Batch(pixels, torch.arange(Config.batch_size, device=device) % 10)
    return CostProblem(
        problem=learner.meta.problem,
        params=dict(learner.network.named_parameters()),
        hyper=learner.meta.hyper,
        inner_batch=batch,
        outer_batch=Batch(pixels.flip(0), batch.labels.flip(0)),
        plain_step=lambda: plain.base_step(batch),
        base_step=lambda: learner.base_step(batch),
        optimizer=learner.optimizer,
        inner_lr=Config.learning_rate,
        # Torch computes the tangent of the loss in place, which it cannot differentiate again, and
        # has no forward derivative of grid_sample's backward.
        excluded={
            "t1t2_forward": "the angle stands before the network",
            "t1t2_mixed": "no forward derivative of grid_sample's backward",
        },
    )


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
