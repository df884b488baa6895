"""The hypergradient of several steps of SGD, by carrying dtheta/dlambda forward.

Franceschi, Donini, Frasconi, Pontil. Forward and Reverse Gradient-Based Hyperparameter
Optimization. ICML 2017, arXiv:1703.01785 (there: Forward-HG).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Estimate, Point
from .problem import (
    Tensors,
    added,
    detached,
    gradients,
    gradients_by_both,
    gradients_or_none,
    leaves,
    norm,
    split_like,
    zeros_for_none,
)
from .unrolled import Rates, Unrolled


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
        eta, theta = self.rates(at), at.theta
        inner_losses = []
        momentum = {n: torch.zeros_like(t) for n, t in theta.items()}
        tangents = _Tangents(theta, at.hyper, eta, self.momentum)
        for step in range(self.steps):
            start = leaves(theta)
            loss = at.inner_loss(start, step=step)
            inner_losses.append(loss.detach())
            found, hyper_grads = gradients_by_both(loss, start, at.hyper, create_graph=True)
            inner_grads = zeros_for_none(found, start)
            del loss, found
            tangents.step(start, inner_grads, hyper_grads)
            momentum = added(detached(inner_grads), momentum, self.momentum)
            tangents.step_rates(momentum)
            theta = eta.stepped(theta, momentum)
            del start, inner_grads, hyper_grads  # the graph, before the next
        outer_loss, v, direct = at.outer_step(theta)
        diagnostics = {"inner_losses": torch.stack(inner_losses), "outer_grad_norm": norm(v)}
        return Estimate(outer_loss, tangents.along(v), direct, diagnostics)


class _Tangents:
    """Z, and W if there is momentum: by parameter, (H, *shape), a row per entry of lambda."""

    def __init__(self, theta: Tensors, hyper: Tensors, eta: Rates, momentum: float) -> None:
        self.eta, self.momentum, self.hyper = eta, momentum, hyper
        self.entries = [(n, i) for n, h in hyper.items() for i in range(h.numel())]
        self.z = self._zeros(theta)
        self.w = self._zeros(theta) if momentum else None
        self.started = False

    def _zeros(self, theta: Tensors) -> dict[str, Tensor]:
        return {n: t.new_zeros(len(self.entries), *t.shape) for n, t in theta.items()}

    def step(
        self, theta: Tensors, inner_grads: Tensors, hyper_grads: Mapping[str, Tensor | None]
    ) -> None:
        """Through one SGD step from the leaves ``theta``; keeps the graph of the gradients."""
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

    def step_rates(self, momentum: Tensors) -> None:
        """-m deta/dlambda of one step, where the rates are functions of lambda."""
        learned = {n: rate for n, rate in (self.eta.learned or {}).items() if rate.requires_grad}
        for n, rate in learned.items():
            for name, slope in gradients_or_none(rate, self.hyper, retain_graph=True).items():
                if slope is not None:
                    rows = [row for row, (other, _) in enumerate(self.entries) if other == name]
                    change = slope.reshape(-1, *[1] * momentum[n].dim()) * momentum[n]
                    self.z[n][rows[0] : rows[-1] + 1].sub_(change)
        self.started = self.started or bool(learned)

    def along(self, v: Tensors) -> dict[str, Tensor]:
        """v . Z by hyperparameter."""
        rows = len(self.entries)
        parts = (self.z[n].reshape(rows, t.numel()) @ t.reshape(-1) for n, t in v.items())
        return split_like(functools.reduce(torch.add, parts), self.hyper)
