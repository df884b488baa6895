"""One run of the cross-lingual experiment: one target language, one method, one seed."""

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from common.training import Best, Cost, EndlessBatches, EpochBatches, Part, measure, new_generator
from metaxl.config import Config
from metaxl.data import Material, load_material
from metaxl.evaluate import entity_scores, representation_curves
from metaxl.steps import Learner, adam

_CPU = torch.device("cpu")


class MetaXLTask:
    """A meta step on the transformation network, then a base step of the tagger."""

    def __init__(
        self, config: Config, device: torch.device, material: Material | None = None
    ) -> None:
        material = material or load_material(config, device)
        self.config, self.device = config, device
        self.splits, self.labels = material.splits, material.labels
        self.checksums: Mapping[str, str] = material.checksums
        self.learner = Learner(config, material.encoder, len(self.labels), device)
        stream, size = partial(new_generator, config.seed), config.batch_size
        sources, targets = len(self.splits["source"]), len(self.splits["target"])
        self.source_batches = EpochBatches(sources, size, stream("source batches"), _CPU)
        self.target_batches = EndlessBatches(targets, size, stream("target batches"), _CPU)
        self.steps_per_epoch = len(self.source_batches)
        self.best = Best()
        self.state: Mapping[str, Part] = {
            **self.learner.state,
            "best": self.best,
            "source_batches": self.source_batches,
            "target_batches": self.target_batches,
        }

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        self.learner.tagger.train()
        first = (epoch - 1) * self.steps_per_epoch
        for step, index in enumerate(self.source_batches.epoch(), first):
            self.learner.set_rates(self.rate(step))
            source = self.splits["source"].batch(index)
            target = self.splits["target"].batch(self.next_target())
            yield self.learner.step(source, target)

    def next_target(self) -> Tensor:
        """The next target sentences; a single remaining one, with an empty half, is skipped."""
        index = self.target_batches.next()
        return index if len(index) > 1 else self.target_batches.next()

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Entity F1 in percent: dev, test, source_dev; selected: test at the best dev so far."""
        tagger = self.learner.tagger
        transformation = self.learner.transformation if self.config.has_transformation else None
        dev = entity_scores(tagger, self.splits["dev"], self.labels)["f1"]
        test = entity_scores(tagger, self.splits["test"], self.labels)
        source = entity_scores(tagger, self.splits["source_dev"], self.labels, transformation)
        metrics = {"dev_f1": dev, "source_dev_f1": source["f1"]}
        metrics |= {f"test_{name}": value for name, value in test.items()}
        selected = self.best.offer(dev, test)
        metrics |= {f"selected_{name}": value for name, value in selected.items()}
        if transformation is not None:
            metrics |= self.movement(epoch)
        return metrics

    def movement(self, epoch: int) -> dict[str, float]:
        """How the transformation network has moved from its start.

        moved: Euclidean distance. norm_ratio: its norm divided by that at the start. decay_cosine:
        the cosine between its movement and that by weight decay alone, which depends only on the
        start and the schedule (coupled, whatever the run's decay is).
        """
        meta = self.learner.meta
        first, now, decayed = (
            parameters_to_vector(tensors).detach().double()
            for tensors in (meta.start.values(), meta.hyper.values(), self.decayed(epoch))
        )
        return {
            "moved": (now - first).norm().item(),
            "norm_ratio": (now.norm() / first.norm()).item(),
            "decay_cosine": F.cosine_similarity(now - first, decayed - first, dim=0).item(),
        }

    def decayed(self, epoch: int) -> list[Tensor]:
        """The transformation network's parameters after epochs of coupled weight decay alone."""
        config = self.config
        decayed = [tensor.clone() for tensor in self.learner.meta.start.values()]
        optimizer = adam(decayed, config.meta_learning_rate, config.meta_weight_decay, "coupled")
        for tensor in decayed:
            tensor.grad = torch.zeros_like(tensor)
        for step in range(epoch * self.steps_per_epoch):
            optimizer.param_groups[0]["lr"] = config.meta_learning_rate * self.rate(step)
            optimizer.step()
        return decayed

    def rate(self, step: int) -> float:
        """The fraction of the largest learning rates in step 0, 1, ..."""
        return rate_factor(step, self.config.epochs * self.steps_per_epoch, self.config.warmup)

    def curves(self) -> dict[str, list[float]]:
        """Points of source and target words for the figure of representations."""
        return representation_curves(
            self.learner.tagger,
            self.learner.transformation if self.config.has_transformation else None,
            self.splits["source_dev"],
            self.splits["dev"],
        )

    def measure_cost(self) -> Cost:
        self.learner.tagger.train()
        size = self.config.batch_size
        source, target = (
            split.batch(torch.arange(min(size, len(split))))
            for split in (self.splits["source"], self.splits["target"])
        )
        step = partial(self.learner.step, source, target)
        return measure(step, self.device, repeats=5, warm_up=2)


def rate_factor(step: int, total: int, warmup: float) -> float:
    """The fraction of the largest learning rate at step 0 .. total - 1: linear rise from 0 over the
    fraction ``warmup`` of the steps, then linear fall."""
    rise = int(warmup * total)
    if step < rise:
        return step / rise
    return (total - step) / (total - rise)
