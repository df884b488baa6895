"""One run of the cross-lingual experiment: one target language, one method, one seed."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

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
from metaxl.config import Config
from metaxl.data import Material, load_material
from metaxl.evaluate import entity_scores, representation_curves
from metaxl.steps import Learner, adam
from metaxl.transformation import Transformation

_CPU = torch.device("cpu")


class Selection:
    """The scores on test sentences at the epoch with the best dev score, so far."""

    def __init__(self) -> None:
        self.dev, self.scores = -1.0, {}

    def offer(self, dev: float, scores: dict[str, float]) -> dict[str, float]:
        """Takes note of an epoch (the first of equals is kept); the scores of the best one."""
        if dev > self.dev:
            self.dev, self.scores = dev, dict(scores)
        return self.scores

    def state_dict(self) -> dict[str, Any]:
        return {"dev": self.dev, "scores": self.scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.dev, self.scores = state["dev"], state["scores"]


class MetaXLTask:
    """A meta step on the transformation network, then a base step of the tagger."""

    def __init__(
        self, config: Config, device: torch.device, material: Material | None = None
    ) -> None:
        material = material or load_material(config, device)
        self.config, self.device = config, device
        self.splits, self.labels = material.splits, material.labels
        self.checksums = material.checksums
        self.learner = Learner(config, material.encoder, len(self.labels), device)
        self.first_transformation = copy.deepcopy(self.learner.transformation)

        self.noise = new_generator(config.seed, "perturbations")
        self.source_batches = EpochBatches(
            len(self.splits["source"]),
            config.batch_size,
            new_generator(config.seed, "source batches"),
            _CPU,
        )
        self.target_batches = EndlessBatches(
            len(self.splits["target"]),
            config.batch_size,
            new_generator(config.seed, "target batches"),
            _CPU,
        )
        self.steps_per_epoch = len(self.source_batches)
        self.selection = Selection()
        self.state = {
            "tagger": self.learner.tagger,
            "optimizer": self.learner.optimizer,
            "transformation": self.learner.transformation,
            "first_transformation": self.first_transformation,
            "meta_optimizer": self.learner.meta_optimizer,
            "selection": self.selection,
            "perturbations": GeneratorState(self.noise),
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
            yield self.learner.step(source, target, self.noise)

    def next_target(self) -> Tensor:
        """The next target sentences; a rest of a single one, with an empty half, is skipped."""
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
        selected = self.selection.offer(dev, test)
        metrics |= {f"selected_{name}": value for name, value in selected.items()}
        if transformation is not None:
            metrics |= self.movement(epoch)
        return metrics

    def movement(self, epoch: int) -> dict[str, float]:
        """Where the transformation network has gone from its start.

        moved: Euclidean distance. norm_ratio: its norm as part of that at the start.
        decay_cosine: the cosine between its way and that of its weight decay alone, which depends
        on the start and the schedule only (coupled, whatever the run's is).
        """
        first, now, decayed = (
            parameters_to_vector(network.parameters()).detach().double()
            for network in (
                self.first_transformation,
                self.learner.transformation,
                self.decayed_transformation(epoch),
            )
        )
        return {
            "moved": (now - first).norm().item(),
            "norm_ratio": (now.norm() / first.norm()).item(),
            "decay_cosine": F.cosine_similarity(now - first, decayed - first, dim=0).item(),
        }

    def decayed_transformation(self, epoch: int) -> Transformation:
        """The transformation network after so many epochs of coupled weight decay alone."""
        config, decayed = self.config, copy.deepcopy(self.first_transformation)
        optimizer = adam(
            decayed.parameters(), config.meta_learning_rate, config.meta_weight_decay, "coupled"
        )
        for parameter in decayed.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for step in range(epoch * self.steps_per_epoch):
            optimizer.param_groups[0]["lr"] = config.meta_learning_rate * self.rate(step)
            optimizer.step()
        return decayed

    def rate(self, step: int) -> float:
        """Part of the greatest learning rates in step 0, 1, ..."""
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
        return measure(self.one_step(), self.device, repeats=5, warm_up=2)

    def one_step(self) -> Callable[[], object]:
        """A whole training step, as a function for measuring; always on the same batches."""
        size = self.config.batch_size
        source, target = (
            split.batch(torch.arange(min(size, len(split))))
            for split in (self.splits["source"], self.splits["target"])
        )
        return lambda: self.learner.step(source, target, self.noise)


def rate_factor(step: int, total: int, warmup: float) -> float:
    """Part of the greatest learning rate at step 0 .. total - 1: linear rise from 0 over the first
    ``warmup`` of the steps, then linear fall."""
    rise = int(warmup * total)
    if step < rise:
        return step / rise
    return (total - step) / (total - rise)


def run(config: Config) -> RunRecord:
    """Trains and evaluates, or continues, or returns the record of a finished run."""
    return execute(config, MetaXLTask, config.epochs, best_metric="dev_f1")
