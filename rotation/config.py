"""Settings, presets and planned runs of the rotation experiment."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from common.experiment import Experiment, Method, estimator_methods
from common.settings import STRICT, PositiveFloat, PositiveInt, RunSettings

METHODS = {
    "baseline": Method("Baseline (no rotation layer)", published="baseline"),
    "random_rotation": Method("Random rotations (±45°)"),
}
METHODS |= estimator_methods(
    labels={
        "t1t2": "T1-T2 (double backward)",
        "t1t2_higher": "T1-T2 (through higher)",
        "finite_difference": "Finite difference",
        "along_gradient": "EvoGrad along the gradient",
    },
    published={"evograd": "evograd"},
    # The angle acts before the network, where torch lacks the derivatives that these need.
    excluded=("t1t2_forward", "t1t2_mixed"),
)
_COMPARED = ("baseline", "random_rotation", "evograd", "t1t2", "t1t2_higher", "finite_difference")


@dataclass(frozen=True, config=STRICT)
class Config(RunSettings):
    """One run: LeNet on upright MNIST, validated on rotated MNIST. Defaults: the paper's."""

    experiment: ClassVar[str] = "rotation"
    methods: ClassVar[Mapping[str, Method]] = METHODS

    epochs: PositiveInt = 5
    """Passes over the training images."""
    batch_size: PositiveInt = 128
    """Images per batch, for training and for meta-validation."""
    learning_rate: PositiveFloat = 1e-3
    """Adam on the network; also T1-T2's inner step size."""
    meta_learning_rate: PositiveFloat = 1e-2
    """Adam on the angle (radians)."""
    rotate: Literal["normalised", "pixels"] = "normalised"
    """What the rotation layer turns: normalised images, which gives mean-grey corners, or pixels,
    which gives black corners like the validation images'."""
    shuffle: bool = True
    """Training images in a new order every epoch, else in MNIST's."""
    degrees: float = 30.0
    """Rotation of the meta-validation and test images, counter-clockwise."""
    train_size: Annotated[int, Field(ge=1, le=50_000)] = 40_000
    """Training images: the first ones of MNIST's training set, at most 50,000."""
    meta_size: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    """Meta-validation images: from number 50,000 of MNIST's training set on."""
    test_size: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    """Test images: the first ones of MNIST's test set."""


_PAPER = Config()
PRESETS = {
    "quick": replace(_PAPER, preset="quick", epochs=2),
    "smoke": replace(
        _PAPER, preset="smoke", epochs=2, train_size=2_560, meta_size=1_000, test_size=1_000
    ),
    "paper": _PAPER,
}

_PLAN = {
    "smoke": ((1,), _COMPARED),
    "quick": ((1, 23), ("baseline", "random_rotation", "evograd", "t1t2")),
    "paper": ((1, 23, 345, 4567, 56789), _COMPARED),
}
"""Seeds and methods by preset."""


class RotationExperiment(Experiment):
    name = "rotation"
    title = "Rotation"
    description = (
        "Learns to rotate MNIST's training images so that they fit a rotated validation set."
    )
    config = Config
    methods = METHODS
    presets = PRESETS
    metric = best_metric = "rotated"
    words: Mapping[str, str] = {"standard": "upright"}
    baseline = "baseline"

    def planned(self, preset: str) -> list[Config]:
        seeds, methods = _PLAN[preset]
        plan: list[dict[str, Any]] = [{"seed": s, "method": m} for s in seeds for m in methods]
        if preset == "paper":
            # Choices that the paper leaves open, measured: the order of the images, the corners.
            plan += [{"seed": s, "method": "baseline", "shuffle": False} for s in seeds]
            pixels = {"rotate": "pixels"}
            plan += [{"seed": s, "method": m, **pixels} for s in seeds[:3] for m in methods[2:4]]
        return [PRESETS[preset].changed(changes) for changes in plan]

    def datasets(self, preset: str) -> tuple[str, ...]:
        return ("mnist",)

    def task(self, config: Config, device: torch.device) -> Any:
        from rotation.train import RotationTask

        return RotationTask(config, device)


EXPERIMENT = RotationExperiment()
