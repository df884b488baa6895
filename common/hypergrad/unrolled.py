"""The hypergradient of several steps of SGD, in reverse and in forward mode.

Domke. Generic Methods for Optimization-Based Modeling. AISTATS 2012.
Franceschi, Donini, Frasconi, Pontil. Forward and Reverse Gradient-Based Hyperparameter
Optimization. ICML 2017, arXiv:1703.01785 (there: Reverse-HG, Forward-HG).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .base import Estimate, InnerSGD, Point, Seeds, check_at_least
from .inner_step import InnerLR, LearnedLR, current
from .problem import (
    Grads,
    Tensors,
    added,
    detached,
    gradients,
    gradients_by_both,
    gradients_or_none,
    leaves,
    norm,
    split_like,
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

    def inner_batches(self, inner_batch: Any) -> Sequence[Any]:
        wanted = f"inner_batch must be a sequence of one batch for each of steps = {self.steps}"
        if isinstance(inner_batch, tuple) and all(isinstance(b, Tensor) for b in inner_batch):
            raise ValueError(f"{wanted}; a tuple of tensors is taken for one batch: use a list")
        if not isinstance(inner_batch, Sequence):
            raise ValueError(f"{wanted}, got a {type(inner_batch).__name__}")
        if len(inner_batch) != self.steps:
            raise ValueError(f"{wanted}, got {len(inner_batch)}")
        return inner_batch

    def draw_seeds(self, generator: torch.Generator | None) -> Seeds:
        *inner, outer = draw_seeds(self.steps + 1, generator)
        return Seeds(inner, outer)


class Rates:
    """The step sizes of a call: ``fixed``, one number, or ``learned``, for each parameter a scalar
    tensor or one of its shape, with a graph to lambda."""

    def __init__(self, inner_lr: InnerLR, at: Point) -> None:
        self.learned: Tensors | None = None
        self.fixed = 0.0
        if isinstance(inner_lr, LearnedLR):
            self.learned = inner_lr.by_name(at.hyper, at.theta)
        else:
            self.fixed = current(inner_lr)

    def __getitem__(self, name: str) -> float | Tensor:
        return self.fixed if self.learned is None else self.learned[name].detach()

    def stepped(self, theta: Tensors, momentum: Tensors) -> dict[str, Tensor]:
        """theta - eta m."""
        if self.learned is None:
            return added(theta, momentum, -self.fixed)
        return {n: t - self[n] * momentum[n] for n, t in theta.items()}


class Adjoint:
    """dL_V/dtheta_t and what has been found of dL_V/dlambda, carried back from step to step.

    With a = dL_V/dtheta_{t+1} and b = dL_V/dm_{t+1}, one step back is

        b <- mu b - eta a,   found += b . d2L_T/(dtheta dlambda),   a <- a + b . d2L_T/dtheta2

    with the derivatives at theta_t.
    """

    def __init__(self, v: Tensors, eta: Rates, momentum: float) -> None:
        self.eta, self.momentum = eta, momentum
        self.a = v
        self.b: dict[str, Tensor] | None = None
        self.found: Grads = {}

    def step_back(self, inner: InnerGradient, first: bool) -> None:
        """Back through the step that ``inner`` made, whose graph is freed. ``first``: it is the one
        from theta_0, so dL_V/dtheta at its start is not needed."""
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
    part dL_V/deta = -sum_t `<dL_V/dtheta_{t+1}, m_{t+1}>` is added, for k vectors of theta's size.
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
        at.refuse_weight_norm()
        eta, theta = Rates(self.inner_lr, at), at.theta
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
        by_rate = {n: torch.zeros_like(r) for n, r in (eta.learned or {}).items()}
        while trajectory:
            inner = trajectory.pop()
            if moves:
                move = moves.pop()
                for n, rate in by_rate.items():
                    change = adjoint.a[n] * move[n]
                    by_rate[n] = rate - (change if rate.dim() else change.sum())
            adjoint.step_back(inner, first=not trajectory)
        found = adjoint.found
        if eta.learned is not None:
            rates, vectors = list(eta.learned.values()), [by_rate[n] for n in eta.learned]
            found = sum_or_none(gradients_or_none(rates, at.hyper, vectors), found)
        diagnostics = {"inner_losses": inner_losses, "outer_grad_norm": norm(v)}
        return Estimate(outer_loss, found, direct, diagnostics)


@dataclass(frozen=True)
class ForwardMode(Unrolled):
    """Unrolled's hypergradient, with the Jacobian Z_t = dtheta_t/dlambda carried along the steps.

        W_{t+1} = mu W_t + d2L_T/dtheta2 Z_t + d2L_T/(dtheta dlambda),   W_0 = 0
        Z_{t+1} = Z_t - eta W_{t+1},   Z_0 = 0,   indirect term = dL_V/dtheta_k . Z_k

    theta_t as in Unrolled. Column i, of hyperparameter entry i with unit vector e_i, is one
    derivative of dL_T/dtheta along (z_i, e_i), taken, since second derivatives are symmetric, as

        d/dtheta ( <dL_T/dtheta, z_i> + <dL_T/dlambda, e_i> )

    by double backward: right wherever T1T2 is (torch lacks the forward-mode derivative of many
    backward passes). Cost for H entries of lambda: k + 1 forwards, k + 1 backwards, k H backwards
    through a backward; memory: one graph of the first derivatives and H vectors of theta's size
    (2 H with momentum), whatever k.

    Settings and diagnostics as Unrolled; of a ``LearnedLR`` -m deta/dlambda is added to every step.
    """

    def estimate(self, at: Point) -> Estimate:
        at.refuse_compiled("inner_loss", "a second derivative")
        at.refuse_weight_norm()
        eta, theta = Rates(self.inner_lr, at), at.theta
        momentum = {n: torch.zeros_like(t) for n, t in theta.items()}
        tangents = _Tangents(at, eta, self.momentum)
        inner_losses = []
        for step in range(self.steps):
            loss, inner_grads = tangents.step(step, leaves(theta))
            inner_losses.append(loss)
            momentum = added(inner_grads, momentum, self.momentum)
            tangents.step_rates(momentum)
            theta = eta.stepped(theta, momentum)
        outer_loss, v, direct = at.outer_step(theta)
        diagnostics = {"inner_losses": torch.stack(inner_losses), "outer_grad_norm": norm(v)}
        return Estimate(outer_loss, tangents.along(v), direct, diagnostics)


class _Tangents:
    """Z, and W if there is momentum: by parameter, (H, *shape), a row per entry of lambda."""

    def __init__(self, at: Point, eta: Rates, momentum: float) -> None:
        self.at, self.eta, self.momentum = at, eta, momentum
        self.entries = [(n, i) for n, h in at.hyper.items() for i in range(h.numel())]
        self.z = {n: t.new_zeros(len(self.entries), *t.shape) for n, t in at.theta.items()}
        self.w = {n: torch.zeros_like(z) for n, z in self.z.items()} if momentum else None
        self.started = False

    def step(self, step: int, theta: Tensors) -> tuple[Tensor, Tensors]:
        """Through an SGD step from the leaves ``theta``; L_T and dL_T/dtheta without a graph."""
        loss = self.at.inner_loss(theta, step=step)
        found, hyper_grads = gradients_by_both(loss, theta, self.at.hyper, create_graph=True)
        loss, inner_grads = loss.detach(), zeros_for_none(found, theta)
        self.at.examination.check_twice_differentiable(inner_grads)
        for row, (name, index) in enumerate(self.entries):
            outputs: list[Tensor] = []
            vectors: list[Tensor] = []
            if self.started:  # before, z is zero
                outputs += inner_grads.values()
                vectors += [self.z[n][row] for n in inner_grads]
            if (grad := hyper_grads[name]) is not None:
                unit = torch.zeros_like(grad, memory_format=torch.contiguous_format)
                unit.view(-1)[index] = 1
                outputs.append(grad)
                vectors.append(unit)
            for n, change in gradients(outputs, theta, vectors, retain_graph=True).items():
                if self.w is not None:
                    change = self.w[n][row].mul_(self.momentum).add_(change)
                if self.eta.learned is None:
                    self.z[n][row].sub_(change, alpha=self.eta.fixed)
                else:
                    self.z[n][row].sub_(self.eta[n] * change)
        self.started = True
        return loss, detached(inner_grads)

    def step_rates(self, momentum: Tensors) -> None:
        """-m deta/dlambda of one step, where the rates are functions of lambda."""
        for n, rate in (self.eta.learned or {}).items():
            if rate.dim():
                self._step_entries(n, rate, momentum[n])
                continue
            for name, slope in gradients_or_none(rate, self.at.hyper, retain_graph=True).items():
                if slope is not None:
                    rows = [row for row, (other, _) in enumerate(self.entries) if other == name]
                    change = slope.reshape(-1, *[1] * momentum[n].dim()) * momentum[n]
                    self.z[n][rows[0] : rows[-1] + 1].sub_(change)

    def _step_entries(self, name: str, rate: Tensor, move: Tensor) -> None:
        """The same for a rate per entry: column i of its Jacobian is the derivative by u of the
        i-th entry of u . drate/dlambda."""
        u = torch.zeros_like(rate, requires_grad=True)
        products = gradients_or_none(rate, self.at.hyper, [u], create_graph=True)
        for row, (other, index) in enumerate(self.entries):
            if (product := products[other]) is not None:
                entry = product.reshape(-1)[index]
                (column,) = torch.autograd.grad(entry, u, retain_graph=True)
                self.z[name][row].sub_(column * move)

    def along(self, v: Tensors) -> dict[str, Tensor]:
        """v . Z by hyperparameter."""
        rows = len(self.entries)
        parts = (self.z[n].reshape(rows, t.numel()) @ t.reshape(-1) for n, t in v.items())
        return split_like(functools.reduce(torch.add, parts), self.at.hyper)
