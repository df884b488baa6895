"""The experiment's bilevel problem at its real shapes on synthetic digits, for the cost study."""

import torch
from torch.nn import functional as F

from common.study.case import Built, CostCase, Size
from rotation.config import Config
from rotation.models import LeNet, normalise, rotation_layer
from rotation.problem import RotationProblem


def cases(size: Size) -> list[CostCase]:
    """The paper's batch; small enough for every size."""
    return [CostCase("LeNet, rotation", f"batch {Config.batch_size}", build)]


def build(device: torch.device) -> Built:
    """LeNet on random digits that pass through the rotation layer."""
    config = Config()
    network = LeNet().to(device, memory_format=torch.channels_last)
    # Hardly a step: the cost does not depend on where theta is.
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-9)
    angle = torch.zeros((), device=device)
    pixels = torch.rand(config.batch_size, 1, 28, 28, device=device)
    labels = torch.arange(config.batch_size, device=device) % 10

    def train_on(images: torch.Tensor) -> None:
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Built(
        problem=RotationProblem(network, config.rotate),
        params=dict(network.named_parameters()),
        hyper={"angle": angle},
        inner_batch=(pixels, labels),
        outer_batch=(pixels.flip(0), labels.flip(0)),
        plain_step=lambda: train_on(normalise(pixels)),
        base_step=lambda: train_on(rotation_layer(pixels, angle, config.rotate)),
        inner_lr=config.learning_rate,
        # Torch computes the tangent of the loss in place, and cannot differentiate that again.
        excluded={"T1T2Forward": "the angle stands before the network"},
    )
