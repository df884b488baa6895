"""One run of the label-noise experiment: one method, one seed."""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.hypergrad import EvoGrad
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
from metaweightnet.config import Config
from metaweightnet.data import Crops, Splits, draw_crops, load_splits
from metaweightnet.models import VNet, build_network
from metaweightnet.monitor import Monitor, weight_curve
from metaweightnet.problem import Batch, MetaWeightProblem, normalised


class MetaWeightTask:
    """A meta step on the weight net, then a base step with the new weights."""

    def __init__(self, config: Config, device: torch.device, splits: Splits | None = None) -> None:
        splits = splits or load_splits(config, device)
        self.train, self.meta, self.test = splits.train, splits.meta, splits.test
        self.checksums = splits.checksums
        self.config, self.device = config, device

        network = build_network(config.network, config.depth, config.width, config.num_classes)
        self.network = network.to(device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            config.learning_rate,
            config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
        )
        self.vnet = VNet(config.meta_hidden).to(device)
        self.first_vnet = copy.deepcopy(self.vnet)
        self.meta_optimizer = meta_optimizer(config, self.vnet)
        self.problem = MetaWeightProblem(self.network, self.vnet)
        self.estimator = config.hypergradient_estimator(self.current_learning_rate)

        stream = partial(new_generator, config.seed)
        self.noise = stream("perturbations")
        self.crops, self.meta_crops = stream("crops"), stream("meta crops")
        self.train_batches = EpochBatches(
            len(self.train.labels), config.batch_size, stream("training batches"), device
        )
        self.meta_batches = EndlessBatches(
            len(self.meta.labels), config.batch_size, stream("meta batches"), device
        )
        self.steps_per_epoch = len(self.train_batches)
        self.monitor = Monitor().to(device)
        self.state = {
            "network": self.network,
            "optimizer": self.optimizer,
            "vnet": self.vnet,
            "first_vnet": self.first_vnet,
            "meta_optimizer": self.meta_optimizer,
            "monitor": self.monitor,
            "perturbations": GeneratorState(self.noise),
            "crops": GeneratorState(self.crops),
            "meta_crops": GeneratorState(self.meta_crops),
            "train_batches": self.train_batches,
            "meta_batches": self.meta_batches,
        }

    def current_learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        self.network.train()
        self.monitor.clear()
        passed = sum(epoch > milestone for milestone in self.config.milestones)
        self.optimizer.param_groups[0]["lr"] = self.config.learning_rate * 0.1**passed
        # All that comes from the host is moved before the first step.
        train = list(self.train_batches.epoch())
        crops = self.draw_crops(train, self.crops)
        if self.estimator is not None:
            meta = [self.meta_batches.next() for _ in train]
            meta_crops = self.draw_crops(meta, self.meta_crops)
        for step, index in enumerate(train):
            batch = self.train.batch(index, crops[step])
            metrics = {}
            if self.estimator is not None:
                metrics |= self.meta_step(batch, self.meta.batch(meta[step], meta_crops[step]))
            metrics["train_loss"], relative_weights = self.base_step(batch)
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

    def meta_step(self, batch: Batch, meta_batch: Batch) -> dict[str, Tensor]:
        """A step of the weight net's optimiser, by the estimated hypergradient."""
        params = dict(self.network.named_parameters())
        hyper = dict(self.vnet.named_parameters())
        if self.config.holds_vnet_input:
            with torch.no_grad():
                batch = (*batch, self.problem.losses(params, batch))
        result = self.estimator(
            self.problem, params, hyper, batch, meta_batch, generator=self.noise
        )
        factor = self.hypergradient_factor()
        for name, parameter in hyper.items():
            parameter.grad = factor * result.grads[name]
        self.meta_optimizer.step()
        norm = nn.utils.get_total_norm([p.grad for p in hyper.values()])
        return {"meta_loss": result.outer_loss, "hypergradient_norm": norm}

    def hypergradient_factor(self) -> float:
        """What the controls multiply EvoGrad's hypergradient by.

        evograd_matched: eta / (sigma^2 (1 - 1/K) / tau), after which it is of the size of T1-T2's
        with inner step eta, and in expectation equal to it where the weight net's input is held
        (``MetaWeightProblem``); the factor belongs to the hypergradient and not to the learning
        rate, which weight decay shares. sign_flipped: -1.
        """
        if self.config.method == "sign_flipped":
            return -1.0
        if self.config.method == "evograd_matched":
            assert isinstance(self.estimator, EvoGrad)
            return self.current_learning_rate() / self.estimator.effective_inner_lr
        return 1.0

    def base_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """SGD on the (weighted) training loss, no gradient through the weights.

        Returns the loss and the weights relative to plain training's, (N,).
        """
        images, labels = batch
        losses = F.cross_entropy(self.network(images), labels, reduction="none")
        if self.config.method == "plain":
            weights = torch.full_like(losses, 1 / len(losses))
        else:
            with torch.no_grad():
                weights = normalised(self.vnet(losses))
        loss = (weights * losses).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach(), weights * len(losses)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Test accuracy in percent, the epoch's means, and how far the weight net has moved."""
        metrics = {"accuracy": self.accuracy(), **self.monitor.means()}
        if self.config.method == "plain":
            return metrics
        moved = [
            now.detach() - first
            for now, first in zip(self.vnet.parameters(), self.first_vnet.parameters(), strict=True)
        ]
        return metrics | {"vnet_distance": nn.utils.get_total_norm(moved).item()}

    @torch.no_grad()
    def accuracy(self) -> float:
        """Percent of the test images classified right, with batch norm's running statistics."""
        self.network.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for index in torch.arange(len(self.test.labels), device=self.device).split(1000):
            images, labels = self.test.batch(index)
            right += (self.network(images).argmax(1) == labels).sum()
        return 100 * right.item() / len(self.test.labels)

    def curves(self) -> dict[str, list[float]]:
        """For the figures: weight against loss at start and end, histograms of the last epoch."""
        curves = self.monitor.histograms()
        if self.config.method != "plain":
            curves["weight_start"] = weight_curve(self.first_vnet)
            curves["weight_end"] = weight_curve(self.vnet)
        return curves

    def measure_cost(self) -> Cost:
        self.network.train()
        step = self.one_step()
        return measure(step, self.device, repeats=10)

    def one_step(self) -> Callable[[], None]:
        """A whole training step, as a function for measuring; always on the same batches."""
        size = self.config.batch_size
        index = torch.arange(min(size, len(self.train.labels)), device=self.device)
        meta_index = torch.arange(min(size, len(self.meta.labels)), device=self.device)

        def step() -> None:
            batch = self.train.batch(index)
            if self.estimator is not None:
                self.meta_step(batch, self.meta.batch(meta_index))
            self.base_step(batch)

        return step


def meta_optimizer(config: Config, vnet: nn.Module) -> torch.optim.Optimizer:
    """SGD as in the paper, or AdamW: decoupled weight decay and a tiny eps, so that the size of
    the hypergradient does not matter."""
    if config.meta_optimizer == "adam":
        return torch.optim.AdamW(
            vnet.parameters(),
            config.meta_learning_rate,
            weight_decay=config.meta_weight_decay,
            eps=1e-15,
        )
    return torch.optim.SGD(
        vnet.parameters(),
        config.meta_learning_rate,
        config.momentum,
        weight_decay=config.meta_weight_decay,
        nesterov=config.momentum > 0,
    )


def run(config: Config) -> RunRecord:
    """Trains and evaluates, or continues, or returns the record of a finished run."""
    return execute(config, MetaWeightTask, config.epochs, best_metric="accuracy")
