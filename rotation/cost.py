"""The experiment's bilevel problem at its real shapes on synthetic digits, for the cost study."""

import torch

from common.cost_study.case import SHARED, CostCase, CostProblem, Size, Step
from rotation.config import Config
from rotation.problem import Batch
from rotation.steps import Learner


def cases(size: Size) -> list[CostCase]:
    """The paper's batch; small enough for every size."""
    place = f"batch {Config.batch_size}"
    return [CostCase("LeNet, rotation", place, build, own_steps=tuple(SHARED))]


def build(device: torch.device) -> CostProblem:
    """LeNet on random digits that pass through the rotation layer."""

    # A tiny step: the cost does not depend on the value of theta.
    def learner_of(method: str) -> Learner:
        return Learner(Config(method=method, learning_rate=1e-9), device)

    def shared(name: str) -> Step:
        learner = learner_of(name)
        params = dict(learner.network.named_parameters())
        return lambda: learner.shared_step(params, batch, batch)

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
        inner_lr=Config.learning_rate,
        # Torch computes the tangent of the loss in place, which it cannot differentiate again, and
        # has no forward derivative of grid_sample's backward.
        excluded={
            "T1T2Forward": "the angle stands before the network",
            "T1T2MixedMode": "no forward derivative of grid_sample's backward",
        },
        steps={row: shared(name) for row, name in SHARED.items()},
    )
