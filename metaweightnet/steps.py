"""The training steps: the weight net's meta step and the classifier's base step."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from common.hypergrad import Tensors
from common.hypergrad.problem import detached, leaves
from common.training import MetaStep, Part, new_generator
from metaweightnet.config import Config
from metaweightnet.models import ResNet, VNet
from metaweightnet.problem import Batch, MetaWeightProblem, normalised


class Learner:
    """What is trained. Plain training and the frozen weight net have no meta step."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        network = ResNet(config.depth, config.width, config.num_classes)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = sgd(
            self.network, config.learning_rate, config.momentum, config.weight_decay
        )
        self.vnet = VNet(config.meta_hidden).to(device)
        self.problem = MetaWeightProblem(self.network, self.vnet)
        self.meta = None
        self.state: dict[str, Part] = {"network": self.network, "optimizer": self.optimizer}
        self.state["vnet"] = self.vnet
        if (estimator := config.make_estimator(self.learning_rate)) is not None:
            self.meta = MetaStep(
                estimator,
                self.problem,
                dict(self.vnet.named_parameters()),
                meta_optimizer(config, self.vnet),
                new_generator(config.seed, "perturbations"),
                config.every,
            )
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
        due = self.meta is not None and self.meta.due()
        metrics = self.meta_step(batch, meta_batch) if due else {}
        metrics["train_loss"], relative_weights = self.base_step(batch)
        return metrics, relative_weights

    def meta_step(self, batch: Batch, meta_batch: Batch, **given: Any) -> dict[str, Tensor]:
        """A step of the weight net's optimiser along the estimated hypergradient."""
        params = dict(self.network.named_parameters())
        if self.config.holds_vnet_input and batch.seen is None:
            batch = self.problem.held(params, batch)
        return self.meta(params, batch, meta_batch, self.hypergradient_factor(), **given)

    def base_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """SGD on the (weighted) training loss, no gradient through the weights.

        Returns the loss and the weights relative to plain training's, (N,).
        """
        hyper = detached(dict(self.vnet.named_parameters()))
        loss, _, relative_weights = self.loss(batch, hyper)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach(), relative_weights

    def shared_step(self, batch: Batch, meta_batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Both steps at the same parameters and weights: the base step hands over its loss, and
        the losses that the weight net sees if they are held."""
        hyper = leaves(self.meta.hyper)
        loss, losses, relative_weights = self.loss(batch, hyper)
        self.optimizer.zero_grad()
        anchor = self.meta.shared_gradient(loss, hyper)
        if self.config.holds_vnet_input:
            batch = batch._replace(seen=losses)
        metrics = self.meta_step(batch, meta_batch, anchor=anchor)
        self.optimizer.step()
        return metrics | {"train_loss": loss.detach()}, relative_weights

    def loss(self, batch: Batch, hyper: Tensors) -> tuple[Tensor, Tensor, Tensor]:
        """The training loss with the weight net's parameters ``hyper``; without gradients the
        samples' losses (N,) and their weights relative to plain training's, (N,)."""
        losses = F.cross_entropy(self.network(batch.images), batch.labels, reduction="none")
        if self.config.method == "plain":
            weights = torch.full_like(losses, 1 / len(losses))
        else:
            weights = normalised(functional_call(self.vnet, dict(hyper), (losses.detach(),)))
        return (weights * losses).sum(), losses.detach(), weights.detach() * len(losses)

    def hypergradient_factor(self) -> float:
        """The controls' factor of EvoGrad's hypergradient.

        evograd_matched: eta / (sigma^2 (1 - 1/K) / tau). The product has the size of T1-T2's with
        inner step eta, and equals it in expectation if the weight net's input is held
        (``MetaWeightProblem``). It multiplies the hypergradient and not the learning rate, which
        weight decay depends on. sign_flipped: -1.
        """
        if self.config.method == "sign_flipped":
            return -1.0
        if self.config.method == "evograd_matched":
            return self.learning_rate() / self.meta.estimator.effective_inner_lr
        return 1.0


def sgd(module: nn.Module, rate: float, momentum: float, decay: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum (where there is any) and coupled weight decay."""
    return torch.optim.SGD(
        module.parameters(), rate, momentum, weight_decay=decay, nesterov=momentum > 0
    )


def meta_optimizer(config: Config, vnet: nn.Module) -> torch.optim.Optimizer:
    """SGD as in the paper, or AdamW: decoupled weight decay and a tiny eps, so that the
    hypergradient's size does not matter."""
    rate, decay = config.meta_learning_rate, config.meta_weight_decay
    if config.meta_optimizer == "adam":
        return torch.optim.AdamW(vnet.parameters(), rate, weight_decay=decay, eps=1e-15)
    return sgd(vnet, rate, config.momentum, decay)
