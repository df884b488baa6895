"""One run of the rotation experiment: one method, one seed."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from common.reporting import RunRecord
from common.runs import execute
from common.training import (
    Cost,
    EndlessBatches,
    EpochBatches,
    GeneratorState,
    measure,
    new_generator,
)
from rotation.config import Config
from rotation.data import Split, load_splits
from rotation.models import LeNet, normalise, rotation_layer
from rotation.problem import Batch, RotationProblem


class RotationTask:
    """Base step on turned training images, then a meta step on the angle."""

    def __init__(self, config: Config, device: torch.device) -> None:
        splits = load_splits(config, device)
        self.train, self.meta, self.test = splits.train, splits.meta, splits.test
        self.checksums = splits.checksums
        self.device, self.degrees = device, config.degrees

        # Channels last: on a CPU the first convolution's gradient to its input, which the angle
        # needs, takes half the time.
        self.network = LeNet().to(device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.network.parameters(), config.learning_rate)
        self.problem = RotationProblem(self.network, config.rotate)
        self.angle = torch.zeros((), device=device)
        self.meta_optimizer = torch.optim.Adam([self.angle], config.meta_learning_rate)
        self.estimator = None
        if config.method != "baseline":
            self.estimator = config.estimator(config.method, inner_lr=config.learning_rate)

        stream = partial(new_generator, config.seed)
        self.noise = stream("perturbations")
        self.train_batches = EpochBatches(
            config.train_size,
            config.batch_size,
            stream("training batches"),
            device,
            config.shuffle,
        )
        self.meta_batches = EndlessBatches(
            config.meta_size, config.batch_size, stream("meta batches"), device
        )
        self.steps_per_epoch = len(self.train_batches)
        self.state = {
            "network": self.network,
            "optimizer": self.optimizer,
            "angle": _Value(self.angle),
            "meta_optimizer": self.meta_optimizer,
            "perturbations": GeneratorState(self.noise),
            "train_batches": self.train_batches,
            "meta_batches": self.meta_batches,
        }

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        for index in self.train_batches.epoch():
            batch = self.train.batch(index)
            metrics = {"loss": self.base_step(batch)}
            if self.estimator is not None:
                metrics["meta_loss"] = self.meta_step(batch)
                metrics["angle_degrees"] = torch.rad2deg(self.angle)
            yield metrics

    def base_step(self, batch: Batch) -> Tensor:
        """Adam on the training loss at the present angle; the baseline has no rotation layer."""
        pixels, labels = batch
        if self.estimator is None:
            images = normalise(pixels)
        else:
            images = rotation_layer(pixels, self.angle, self.problem.turned)
        loss = torch.nn.functional.cross_entropy(self.network(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def meta_step(self, batch: Batch) -> Tensor:
        """Adam on the angle, by the estimated hypergradient."""
        result = self.estimator(
            self.problem,
            dict(self.network.named_parameters()),
            {"angle": self.angle},
            batch,
            self.meta.batch(self.meta_batches.next()),
            generator=self.noise,
        )
        self.angle.grad = result.grads["angle"]
        self.meta_optimizer.step()
        return result.outer_loss

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Accuracies in percent: rotated test images, and the same turned back upright."""
        back = torch.tensor(math.radians(-self.degrees), device=self.device)
        metrics = {
            "rotated": self.accuracy(self.test, normalise),
            "standard": self.accuracy(
                self.test, lambda pixels: rotation_layer(pixels, back, self.problem.turned)
            ),
        }
        if self.estimator is not None:
            metrics["angle_degrees"] = math.degrees(self.angle.item())
        return metrics

    @torch.no_grad()
    def accuracy(self, split: Split, prepare: Callable[[Tensor], Tensor]) -> float:
        """Percent right on the split's pixels after ``prepare``."""
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for index in torch.arange(len(split.labels), device=self.device).split(2000):
            pixels, labels = split.batch(index)
            right += (self.network(prepare(pixels)).argmax(1) == labels).sum()
        return 100 * right.item() / len(split.labels)

    def measure_cost(self) -> Cost:
        def step() -> None:
            batch = self.train.batch(self.meta_batches.next())
            self.base_step(batch)
            if self.estimator is not None:
                self.meta_step(batch)

        return measure(step, self.device, repeats=20)


class _Value:
    """A tensor that is changed in place, as part of a checkpoint."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def state_dict(self) -> dict[str, Tensor]:
        return {"value": self.tensor.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.tensor.copy_(state["value"])


def run(config: Config) -> RunRecord:
    """Trains and evaluates, or continues, or returns the record of a finished run."""
    return execute(config, RotationTask, config.epochs, best_metric="rotated")
