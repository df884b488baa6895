"""One run of the label-noise experiment: one method, one seed."""

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from common.training import Cost, EndlessBatches, EpochBatches, Part, measure, new_generator
from metaweightnet.config import Config
from metaweightnet.data import Crops, draw_crops, load_splits
from metaweightnet.monitor import Monitor, weight_curve
from metaweightnet.steps import Learner


class MetaWeightTask:
    """Epochs over noisily labelled images, tested on clean ones."""

    def __init__(self, config: Config, device: torch.device) -> None:
        splits = load_splits(config, device)
        self.train, self.meta, self.test = splits.train, splits.meta, splits.test
        self.checksums: Mapping[str, str] = splits.checksums
        self.config, self.device = config, device
        self.learner = Learner(config, device)
        self.first_curve = weight_curve(self.learner.vnet)
        self.monitor = Monitor().to(device)

        stream = partial(new_generator, config.seed)
        self.crops, self.meta_crops = stream("crops"), stream("meta crops")
        self.train_batches = EpochBatches(
            len(self.train.labels), config.batch_size, stream("training batches"), device
        )
        self.meta_batches = EndlessBatches(
            len(self.meta.labels), config.batch_size, stream("meta batches"), device
        )
        self.steps_per_epoch = len(self.train_batches)
        self.state: Mapping[str, Part] = {
            **self.learner.state,
            "monitor": self.monitor,
            "crops": self.crops,
            "meta_crops": self.meta_crops,
            "train_batches": self.train_batches,
            "meta_batches": self.meta_batches,
        }

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        self.learner.begin_epoch(epoch)
        self.monitor.clear()
        # Everything from the host is moved before the first step.
        train = list(self.train_batches.epoch())
        crops = self.draw_crops(train, self.crops)
        if self.learner.meta is not None:
            meta = [self.meta_batches.next() for _ in train]
            meta_crops = self.draw_crops(meta, self.meta_crops)
        for step, index in enumerate(train):
            meta_batch = None
            if self.learner.meta is not None:
                meta_batch = self.meta.batch(meta[step], meta_crops[step])
            batch = self.train.batch(index, crops[step])
            metrics, relative_weights = self.learner.step(batch, meta_batch)
            self.monitor.add(metrics, relative_weights, self.train.wrong[index])
            yield metrics

    def draw_crops(
        self, batches: list[Tensor], generator: torch.Generator
    ) -> list[Crops] | list[None]:
        """The crops of an epoch's batches; None for each if there is no augmentation."""
        if not self.config.augment:
            return [None] * len(batches)
        count, side = sum(map(len, batches)), self.train.images.shape[1]
        return draw_crops(count, side, generator, self.device).split([len(b) for b in batches])

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Test accuracy in percent, the epoch's means, and how far the weight net has moved."""
        metrics = {"accuracy": self.accuracy(), **self.monitor.means()}
        if self.learner.meta is not None:
            metrics["moved"] = self.learner.meta.moved
        return metrics

    @torch.no_grad()
    def accuracy(self) -> float:
        """Percent of the test images classified right, with batch norm's running statistics."""
        network = self.learner.network.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for index in torch.arange(len(self.test.labels), device=self.device).split(1000):
            batch = self.test.batch(index)
            right += (network(batch.images).argmax(1) == batch.labels).sum()
        return 100 * right.item() / len(self.test.labels)

    def curves(self) -> dict[str, list[float]]:
        """For the figures: weight against loss at start and end, histograms of the last epoch."""
        curves = self.monitor.histograms()
        if self.config.method != "plain":
            curves["weight_start"] = self.first_curve
            curves["weight_end"] = weight_curve(self.learner.vnet)
        return curves

    def measure_cost(self) -> Cost:
        self.learner.network.train()
        size = self.config.batch_size
        index = torch.arange(min(size, len(self.train.labels)), device=self.device)
        meta_index = torch.arange(min(size, len(self.meta.labels)), device=self.device)

        def step() -> None:
            meta_batch = self.meta.batch(meta_index) if self.learner.meta is not None else None
            self.learner.step(self.train.batch(index), meta_batch)

        return measure(step, self.device, repeats=10)
