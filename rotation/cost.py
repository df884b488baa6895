"""The experiment's bilevel problem at its real shapes on synthetic digits, for the cost study."""

import torch

from common.study.case import Built, CostCase, Size
from rotation.config import Config
from rotation.problem import Batch
from rotation.steps import Learner


def cases(size: Size) -> list[CostCase]:
    """The paper's batch; small enough for every size."""
    return [CostCase("LeNet, rotation", f"batch {Config.batch_size}", build)]


def build(device: torch.device) -> Built:
    """LeNet on random digits that pass through the rotation layer."""
    # Hardly a step: the cost does not depend on where theta is.
    plain, learner = (
        Learner(Config(method=method, learning_rate=1e-9), device)
        for method in ("baseline", "evograd")
    )
    pixels = torch.rand(Config.batch_size, 1, 28, 28, device=device)
    batch = Batch(pixels, torch.arange(Config.batch_size, device=device) % 10)
    return Built(
        problem=learner.meta.problem,
        params=dict(learner.network.named_parameters()),
        hyper=learner.meta.hyper,
        inner_batch=batch,
        outer_batch=Batch(pixels.flip(0), batch.labels.flip(0)),
        plain_step=lambda: plain.base_step(batch),
        base_step=lambda: learner.base_step(batch),
        inner_lr=Config.learning_rate,
        # Torch computes the tangent of the loss in place, and cannot differentiate that again.
        excluded={"T1T2Forward": "the angle stands before the network"},
    )
