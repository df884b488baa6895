"""The training steps: LeNet's base step and the angle's meta step, with their optimisers."""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.training import MetaStep, Part, new_generator
from rotation.config import Config
from rotation.models import LeNet, normalise, rotation_layer
from rotation.problem import Batch, RotationProblem


class Learner:
    """What is trained. The baseline has no rotation layer and no meta step."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.turned = config.rotate
        # Channels last: on a CPU the first convolution's gradient to its input, which the angle
        # needs, takes half the time.
        self.network = LeNet().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.network.parameters(), config.learning_rate)
        self.angle = torch.zeros((), device=device)
        self.meta = None
        self.state: dict[str, Part] = {"network": self.network, "optimizer": self.optimizer}
        estimator = config.make_estimator(config.learning_rate)
        if estimator is not None:
            self.meta = MetaStep(
                estimator,
                RotationProblem(self.network, config.rotate),
                {"angle": self.angle},
                torch.optim.Adam([self.angle], config.meta_learning_rate),
                new_generator(config.seed, "perturbations"),
                config.every,
            )
            self.state["meta"] = self.meta.state

    def step(self, batch: Batch, meta_batch: Batch | None) -> dict[str, Tensor]:
        """A base step, then a meta step at the new weights; their metrics."""
        metrics = {"train_loss": self.base_step(batch)}
        if self.meta is None:
            return metrics
        if self.meta.due():
            metrics |= self.meta(dict(self.network.named_parameters()), batch, meta_batch)
        return metrics | {"angle_degrees": torch.rad2deg(self.angle)}

    def base_step(self, batch: Batch) -> Tensor:
        """Adam on the training loss at the present angle; returns the loss."""
        loss = self.loss(batch, self.angle)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def loss(self, batch: Batch, angle: Tensor) -> Tensor:
        """The training loss; the baseline has no rotation layer."""
        if self.meta is None:
            images = normalise(batch.pixels)
        else:
            images = rotation_layer(batch.pixels, angle, self.turned)
        return F.cross_entropy(self.network(images), batch.labels)
