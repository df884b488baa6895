"""One run, to be read from top to bottom: problem, meta step, base step, epochs, evaluation."""

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from common.hypergrad import Tensors
from common.run import Task
from common.training import (
    Cost,
    EndlessBatches,
    EpochBatches,
    MetaStep,
    Part,
    measure,
    new_generator,
)
from metaweightnet.config import Config
from metaweightnet.data import Batch, Split, draw_crops, load_splits
from metaweightnet.models import ResNet, VNet
from metaweightnet.monitor import Monitor, weight_curve

FINE_TUNING_STEPS, FINE_TUNING_RATE = 50, 0.01
"""The recipe by which every trained classifier is fine-tuned on the clean images."""
_ALWAYS_HELD = ("finite_difference", "along_gradient", "along_gradient_one_sided")
"""They compare dL_T/dlambda at two points: T1-T2's only if the weights are held."""


def normalised(weights: Tensor) -> Tensor:
    """weights / sum(weights), so that they sum to one; unchanged if the sum is 0."""
    total = weights.sum()
    return weights / torch.where(total == 0, 1.0, total)


def cross_entropies(scores: Tensor, batch: Batch) -> Tensor:
    """The loss of every sample, (N,), by its class scores (N, classes)."""
    return F.cross_entropy(scores, batch.labels, reduction="none")


class MetaWeightProblem:
    """theta: the classifier's parameters; lambda: the weight net's (VNet's).

        L_T = sum_i w_i l_i,  w = V(s) / sum V(s),  l_i the cross-entropy of noisy sample i
        L_V = mean cross-entropy of a clean meta batch

    s, the input of V, is detached: l itself, or losses given with the batch. The choice matters.
    With s = l, detaching ignores that s depends on l, so the derivative by theta then lambda,
    which T1-T2 takes, is sum_i dw_i/dlambda dl_i/dtheta. Methods that compare L_T, or dL_T/dlambda,
    at several theta (EvoGrad, finite difference) see s move with theta, and estimate that plus
    sum_ij l_i d2w_i/(dlambda ds_j) dl_j/dtheta. With s held at the losses of the unperturbed
    network (``held``) the second term vanishes and all estimate the same.

    Batch norm is in training mode in both losses: it normalises by the statistics of the batch
    (those of each candidate's own activations). Its running statistics are written to clones of the
    buffers and dropped, so the network's own do not change.
    """

    def __init__(self, network: nn.Module, vnet: nn.Module) -> None:
        self.network, self.vnet = network, vnet

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """The weighted training loss L_T."""
        return self.weighted(self.losses(params, batch), hyper, batch)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """The loss L_V on clean samples; lambda does not occur."""
        return self.losses(params, batch).mean()

    def losses(self, params: Tensors, batch: Batch) -> Tensor:
        """The cross-entropy of every sample, (N,)."""
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        scores = functional_call(self.network, (dict(params), buffers), (batch.images,))
        return cross_entropies(scores, batch)

    def weighted(self, losses: Tensor, hyper: Tensors, batch: Batch) -> Tensor:
        """sum_i w_i l_i of losses (N,)."""
        seen = losses.detach() if batch.seen is None else batch.seen
        weights = functional_call(self.vnet, dict(hyper), (seen,))
        return (normalised(weights) * losses).sum()

    @torch.no_grad()
    def held(self, params: Tensors, batch: Batch) -> Batch:
        """The batch whose weight net sees the losses at ``params``."""
        return batch._replace(seen=self.losses(params, batch))


class Learner:
    """What is trained: the classifier, and the weight net by the methods with a meta step."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        network = ResNet(config.depth, config.width, config.num_classes)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        rate, momentum, decay = config.learning_rate, config.momentum, config.weight_decay
        self.optimizer = sgd(self.network, rate, momentum, decay)
        self.vnet = VNet(config.meta_hidden, config.log_loss).to(device)
        self.weighs = config.method not in ("plain", "clean_only")
        self.problem = MetaWeightProblem(self.network, self.vnet)
        self.meta = None
        parts = {"network": self.network, "optimizer": self.optimizer, "vnet": self.vnet}
        self.state: dict[str, Part] = dict(parts)
        if (estimator := config.make_estimator(self.learning_rate)) is not None:
            rate, decay = config.meta_learning_rate, config.meta_weight_decay
            if config.meta_optimizer == "sgd":
                optimizer = sgd(self.vnet, rate, config.momentum, decay)
            else:  # with a tiny eps, so that the hypergradient's size does not matter
                optimizer = torch.optim.AdamW(
                    self.vnet.parameters(), rate, weight_decay=decay, eps=1e-15
                )
            hyper = dict(self.vnet.named_parameters())
            noise = new_generator(config.seed, "perturbations")
            self.meta = MetaStep(estimator, self.problem, hyper, optimizer, noise, config.every)
            self.state["meta"] = self.meta.state

    def learning_rate(self) -> float:
        """The classifier's present one; also T1-T2's inner step size."""
        return self.optimizer.param_groups[0]["lr"]

    def begin_epoch(self, epoch: int) -> None:
        """Puts the classifier in training mode and sets its learning rate."""
        self.network.train()
        passed = sum(epoch > milestone for milestone in self.config.milestones)
        self.optimizer.param_groups[0]["lr"] = self.config.learning_rate * 0.1**passed

    def step(self, batch: Batch, meta_batch: Batch | None) -> tuple[dict[str, Tensor], Tensor]:
        """A meta step, then a base step with the new weights; their metrics, and the weights
        relative to plain training's, (N,)."""
        metrics = {}
        if meta_batch is not None and self.meta.due():
            metrics = self.meta_step(batch, meta_batch)
        metrics["train_loss"], relative_weights = self.base_step(batch)
        return metrics, relative_weights

    def meta_step(self, batch: Batch, meta_batch: Batch) -> dict[str, Tensor]:
        """A step of the weight net's optimiser along the estimated hypergradient times a factor.

        sign_flipped: -1. evograd_matched: eta / (sigma^2 (1 - 1/K) / tau). The product has the size
        of T1-T2's with inner step eta, and equals it in expectation if the weight net's input is
        held (``MetaWeightProblem``). It multiplies the hypergradient and not the learning rate,
        which weight decay depends on.
        """
        method, factor, params = self.config.method, 1.0, dict(self.network.named_parameters())
        if self.config.vnet_input == "model" or method in _ALWAYS_HELD:
            batch = self.problem.held(params, batch)
        if method == "sign_flipped":
            factor = -1.0
        elif method == "evograd_matched":
            factor = self.learning_rate() / self.meta.estimator.effective_inner_lr
        return self.meta(params, batch, meta_batch, factor)

    def base_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """SGD on the training loss, weighted by the weight net, which gets no gradient.

        Returns the loss and the weights relative to plain training's, (N,).
        """
        losses = cross_entropies(self.network(batch.images), batch)
        weights = torch.full_like(losses, 1 / len(losses))
        if self.weighs:
            weights = normalised(self.vnet(losses.detach())).detach()
        loss = (weights * losses).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach(), weights * len(losses)


def sgd(module: nn.Module, rate: float, momentum: float, decay: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum (where there is any) and coupled weight decay."""
    return torch.optim.SGD(
        module.parameters(), rate, momentum, weight_decay=decay, nesterov=momentum > 0
    )


class MetaWeightTask(Task):
    """Epochs over noisily labelled images (clean_only: over the meta images, in as many steps),
    tested on clean ones."""

    def __init__(self, config: Config, device: torch.device) -> None:
        splits, self.checksums = load_splits(config, device)
        self.train, self.meta, self.test = (splits[name] for name in ("train", "meta", "test"))
        self.config, self.device = config, device
        self.learner = Learner(config, device)
        self.first_curve = weight_curve(self.learner.vnet)
        self.monitor = Monitor().to(device)
        stream, size = partial(new_generator, config.seed), config.batch_size
        self.crops, self.meta_crops = stream("crops"), stream("meta crops")
        counts = len(self.train.labels), len(self.meta.labels)
        self.train_batches = EpochBatches(counts[0], size, stream("training batches"), device)
        self.meta_batches = EndlessBatches(counts[1], size, stream("meta batches"), device)
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
        learns, clean_only = self.learner.meta is not None, self.config.method == "clean_only"
        # Everything from the host is moved before the first step.
        indices = list(self.train_batches.epoch())
        clean = [self.meta_batches.next() for _ in indices] if learns or clean_only else []
        split, stream = self.train, self.crops
        if clean_only:
            split, stream, indices = self.meta, self.meta_crops, clean
        batches = self.batches(split, indices, stream)
        meta_batches = self.batches(self.meta, clean, self.meta_crops) if learns else repeat(None)
        for index, batch, meta_batch in zip(indices, batches, meta_batches, strict=False):
            metrics, relative_weights = self.learner.step(batch, meta_batch)
            self.monitor.add(metrics, relative_weights, split.wrong[index])
            yield metrics

    def batches(
        self, split: Split, indices: list[Tensor], stream: torch.Generator
    ) -> Iterator[Batch]:
        """An epoch's batches, with crops from the stream if there is augmentation."""
        if not self.config.augment:
            return map(split.batch, indices)
        sizes = [len(index) for index in indices]
        crops = draw_crops(sum(sizes), split.images.shape[1], stream, self.device)
        return map(split.batch, indices, crops.split(sizes, dim=1))

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Accuracies in percent, the epoch's means, and how far the weight net has moved.

        accuracy: of the test images. meta_accuracy: of the meta images, by which an epoch to stop
        at can be chosen. fine_tuned_accuracy, in the last epoch: of the test images, by a copy of
        the classifier that is then trained on the meta images.
        """
        network = self.learner.network
        metrics = {"accuracy": self.accuracy(network, self.test)}
        metrics["meta_accuracy"] = self.accuracy(network, self.meta)
        if epoch == self.config.epochs:
            metrics["fine_tuned_accuracy"] = self.accuracy(self.fine_tuned(network), self.test)
        metrics |= self.monitor.means()
        if self.learner.meta is not None:
            metrics["moved"] = self.learner.meta.moved
        return metrics

    def fine_tuned(self, network: ResNet) -> ResNet:
        """A copy after FINE_TUNING_STEPS of SGD on the meta images, with the run's momentum and
        weight decay, at FINE_TUNING_RATE; batches by a stream of their own, not augmented."""
        config, network = self.config, copy.deepcopy(network).train()
        optimizer = sgd(network, FINE_TUNING_RATE, config.momentum, config.weight_decay)
        generator = new_generator(config.seed, "fine-tuning batches")
        batches = EndlessBatches(len(self.meta.labels), config.batch_size, generator, self.device)
        for _ in range(FINE_TUNING_STEPS):
            batch = self.meta.batch(batches.next())
            optimizer.zero_grad()
            cross_entropies(network(batch.images), batch).mean().backward()
            optimizer.step()
        return network

    @torch.no_grad()
    def accuracy(self, network: ResNet, split: Split) -> float:
        """Percent classified right, with batch norm's running statistics."""
        network.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for index in torch.arange(len(split.labels), device=self.device).split(1000):
            batch = split.batch(index)
            right += (network(batch.images).argmax(1) == batch.labels).sum()
        return 100 * right.item() / len(split.labels)

    def curves(self) -> dict[str, list[float]]:
        """For the figures: weight against loss at start and end, histograms of the last epoch."""
        curves = self.monitor.histograms()
        if self.learner.weighs:
            curves["weight_start"] = self.first_curve
            curves["weight_end"] = weight_curve(self.learner.vnet)
        return curves

    def measure_cost(self) -> Cost:
        self.learner.network.train()
        first, learns = torch.arange(self.config.batch_size, device=self.device), self.learner.meta

        def step() -> None:
            meta_batch = self.meta.batch(first[: len(self.meta.labels)]) if learns else None
            self.learner.step(self.train.batch(first[: len(self.train.labels)]), meta_batch)

        return measure(step, self.device, repeats=10)
