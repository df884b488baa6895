"""One run of the rotation experiment: one method, one seed."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from common.run import Task
from common.training import Cost, EndlessBatches, EpochBatches, Part, measure, new_generator
from rotation.config import Config
from rotation.data import Split, load_splits
from rotation.models import normalise, rotation_layer
from rotation.steps import Learner


class RotationTask(Task):
    """Epochs over turned training images, validated and tested on truly rotated ones."""

    def __init__(self, config: Config, device: torch.device) -> None:
        splits = load_splits(config, device)
        self.train, self.meta, self.test = splits.train, splits.meta, splits.test
        self.checksums: Mapping[str, str] = splits.checksums
        self.device, self.degrees, self.batch_size = device, config.degrees, config.batch_size
        self.learner = Learner(config, device)
        stream, size = partial(new_generator, config.seed), config.batch_size
        self.train_batches = EpochBatches(
            config.train_size, size, stream("training batches"), device, config.shuffle
        )
        self.meta_batches = EndlessBatches(config.meta_size, size, stream("meta batches"), device)
        self.steps_per_epoch = len(self.train_batches)
        self.state: Mapping[str, Part] = {
            **self.learner.state,
            "train_batches": self.train_batches,
            "meta_batches": self.meta_batches,
        }

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        for index in self.train_batches.epoch():
            meta_batch = None
            if self.learner.meta is not None:
                meta_batch = self.meta.batch(self.meta_batches.next())
            yield self.learner.step(self.train.batch(index), meta_batch)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Accuracies in percent: rotated test images, and the same turned back upright."""
        back = torch.tensor(math.radians(-self.degrees), device=self.device)
        metrics = {
            "rotated": self.accuracy(self.test, normalise),
            "standard": self.accuracy(
                self.test, lambda pixels: rotation_layer(pixels, back, self.learner.turned)
            ),
        }
        if self.learner.meta is not None:
            metrics["angle_degrees"] = math.degrees(self.learner.angle.item())
            metrics["moved"] = self.learner.meta.moved
        return metrics

    @torch.no_grad()
    def accuracy(self, split: Split, prepare: Callable[[Tensor], Tensor]) -> float:
        """Percent right on the split's pixels after ``prepare``."""
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for index in torch.arange(len(split.labels), device=self.device).split(2000):
            batch = split.batch(index)
            right += (self.learner.network(prepare(batch.pixels)).argmax(1) == batch.labels).sum()
        return 100 * right.item() / len(split.labels)

    def measure_cost(self) -> Cost:
        train, meta = (
            split.batch(torch.arange(min(self.batch_size, len(split.labels)), device=self.device))
            for split in (self.train, self.meta)
        )
        return measure(lambda: self.learner.step(train, meta), self.device, repeats=20)
