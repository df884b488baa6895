"""The hypergradient of several steps of SGD, in reverse mode through the stored trajectory.

Domke. Generic Methods for Optimization-Based Modeling. AISTATS 2012.
Franceschi, Donini, Frasconi, Pontil. Forward and Reverse Gradient-Based Hyperparameter
Optimization. ICML 2017, arXiv:1703.01785 (there: Reverse-HG).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .base import Estimate, InnerSGD, Point, Seeds, check_at_least
from .inner_step import LearnedLR
from .problem import (
    Tensors,
    added,
    detached,
    gradients_or_none,
    norm,
    sum_or_none,
    zeros_for_none,
)
from .randomness import draw_seeds
from .second_order import InnerGradient, inner_gradient


class SeveralSteps(InnerSGD):
    """An estimator of ``steps`` inner steps; inner_batch is a sequence of as many batches."""

    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, steps=self.steps)

    def rates(self, at: Point) -> "Rates":
        """The step sizes of a call."""
        if isinstance(self.inner_lr, LearnedLR):
            return Rates(self.inner_lr.by_name(at.hyper, at.theta))
        return Rates(self.eta)

    def inner_batches(self, inner_batch: Any) -> Sequence[Any]:
        wanted = f"inner_batch must be a sequence of one batch for each of steps = {self.steps}"
        if not isinstance(inner_batch, Sequence):
            raise ValueError(f"{wanted}, got a {type(inner_batch).__name__}")
        if len(inner_batch) != self.steps:
            raise ValueError(f"{wanted}, got {len(inner_batch)}")
        return inner_batch

    def draw_seeds(self, generator: torch.Generator | None) -> Seeds:
        *inner, outer = draw_seeds(self.steps + 1, generator)
        return Seeds(inner, outer)


class Rates:
    """Step sizes: one number, or a scalar tensor for each parameter, with a graph to lambda."""

    def __init__(self, rates: float | Tensors) -> None:
        self.learned = rates if isinstance(rates, Mapping) else None
        self.fixed = 0.0 if isinstance(rates, Mapping) else rates

    def __getitem__(self, name: str) -> float | Tensor:
        return self.fixed if self.learned is None else self.learned[name].detach()

    def stepped(self, theta: Tensors, momentum: Tensors) -> dict[str, Tensor]:
        """theta - eta m."""
        if self.learned is None:
            return added(theta, momentum, -self.fixed)
        return {n: t - self[n] * momentum[n] for n, t in theta.items()}

    def gradient(self, by_rate: Tensors, hyper: Tensors) -> dict[str, Tensor | None]:
        """The part of dL_V/dlambda that goes through the rates; by_rate: dL_V/deta by parameter."""
        if self.learned is None:
            return {}
        vectors = [by_rate[n] for n in self.learned]
        return gradients_or_none(list(self.learned.values()), hyper, vectors)


class Adjoint:
    """dL_V/dtheta_t and what has been found of dL_V/dlambda, carried back from step to step.

    With a = dL_V/dtheta_{t+1} and b = dL_V/dm_{t+1}, one step back is

        b <- mu b - eta a,   found += b . d2L_T/(dtheta dlambda),   a <- a + b . d2L_T/dtheta2

    with the derivatives at theta_t. found: by hyperparameter, None where nothing leads.
    """

    def __init__(self, v: Tensors, eta: Rates, momentum: float) -> None:
        self.eta, self.momentum = eta, momentum
        self.a: Mapping[str, Tensor] = v
        self.b: dict[str, Tensor] | None = None
        self.found: dict[str, Tensor | None] = {}

    def step_back(self, inner: InnerGradient, first: bool) -> None:
        """Back through the step that ``inner`` made; ``first``: the one from theta_0.

        Frees the graph. Nobody asks for dL_V/dtheta_0, so it is not computed.
        """
        if self.b is None or not self.momentum:
            self.b = {n: -self.eta[n] * a for n, a in self.a.items()}
        else:
            self.b = {n: self.momentum * self.b[n] - self.eta[n] * a for n, a in self.a.items()}
        if first:
            mixed = inner.mixed_product(self.b)
        else:
            curvature, mixed = inner.products(self.b)
            self.a = zeros_for_none(sum_or_none(self.a, curvature), self.a)
        self.found = sum_or_none(self.found, mixed)


@dataclass(frozen=True)
class Unrolled(SeveralSteps):
    """dL_V(theta_k)/dlambda through k = ``steps`` steps of SGD from theta_0 = theta.

        m_{t+1} = mu m_t + dL_T/dtheta(theta_t, lambda, batch_t),   m_0 = 0
        theta_{t+1} = theta_t - eta m_{t+1}

        indirect term = sum_t dL_V/dm_{t+1} . d2L_T/(dtheta dlambda)(theta_t)

    by reverse mode: the graph of every dL_T/dtheta is kept, and dL_V/dtheta_t, dL_V/dm_t are
    carried back through them by double backward. Exact; ``steps=1`` is T1T2. What the inner loss
    detaches (Meta-Weight-Net's inputs) counts as constant, also where it depends on lambda through
    an earlier step. Cost: k + 1 forwards, k + 1 backwards, k backwards through a backward; memory:
    k graphs of dL_T/dtheta (Reversible's hardly grows with k, ForwardMode's not at all).

    inner_lr: eta, one value for the k steps; a ``LearnedLR`` makes it a function of lambda, whose
    part dL_V/deta = -sum_t <dL_V/dtheta_{t+1}, m_{t+1}> is added, for k vectors of theta's size.
    steps: k. momentum: mu. inner_batch is a sequence of k batches, used in order. outer_loss is L_V
    at theta_k. Diagnostics: ``inner_losses`` L_T at theta_0 .. theta_{k-1}, (k,),
    ``outer_grad_norm`` |dL_V/dtheta_k|.
    """

    learns_rates = True
    steps: int
    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}")

    def estimate(self, at: Point) -> Estimate:
        eta, theta = self.rates(at), at.theta
        momentum = {n: torch.zeros_like(t) for n, t in theta.items()}
        trajectory: list[InnerGradient] = []
        moves: list[Tensors] = []  # m_1 .. m_k, where the rates are learned
        for step in range(self.steps):
            inner = inner_gradient(at, theta, step)
            momentum = added(detached(inner.grads), momentum, self.momentum)
            theta = eta.stepped(theta, momentum)
            trajectory.append(inner)
            if eta.learned is not None:
                moves.append(momentum)
        inner_losses = torch.stack([inner.loss for inner in trajectory])
        outer_loss, v, direct = at.outer_step(theta)
        adjoint = Adjoint(v, eta, self.momentum)
        by_rate = {n: torch.zeros((), dtype=t.dtype, device=t.device) for n, t in v.items()}
        while trajectory:
            inner = trajectory.pop()
            if moves:
                move = moves.pop()
                by_rate = {n: r - (adjoint.a[n] * move[n]).sum() for n, r in by_rate.items()}
            adjoint.step_back(inner, first=not trajectory)
        found = sum_or_none(eta.gradient(by_rate, at.hyper), adjoint.found)
        diagnostics = {"inner_losses": inner_losses, "outer_grad_norm": norm(v)}
        return Estimate(outer_loss, found, direct, diagnostics)
