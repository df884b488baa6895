"""The hypergradient of several steps of SGD, by carrying dtheta/dlambda forward.

Franceschi, Donini, Frasconi, Pontil. Forward and Reverse Gradient-Based Hyperparameter
Optimization. ICML 2017, arXiv:1703.01785 (there: Forward-HG).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.hypergrad.problem import (
    BilevelProblem,
    Hypergradient,
    Tensors,
    added,
    check_dependence,
    detached,
    gradients_or_none,
    leaves,
    norm,
    with_direct_term,
    zeros_for_none,
)
from common.hypergrad.randomness import draw_seeds, replayed_randomness
from common.hypergrad.second_order import product_keeping_graph, split_like
from common.hypergrad.t1t2 import InnerLR, check_inner_lr, current, outer_step
from common.hypergrad.unrolled import check_momentum, check_steps, step_batches


@dataclass(frozen=True)
class ForwardMode:
    """Unrolled's hypergradient, with the Jacobian Z_t = dtheta_t/dlambda carried along the steps.

        W_{t+1} = mu W_t + d2L_T/dtheta2 Z_t + d2L_T/(dtheta dlambda),   W_0 = 0
        Z_{t+1} = Z_t - eta W_{t+1},   Z_0 = 0,   indirect term = dL_V/dtheta_k . Z_k

    theta_t as in Unrolled. Column i, of hyperparameter entry i with unit vector e_i, is one
    derivative of dL_T/dtheta along (z_i, e_i), taken, since second derivatives are symmetric, as

        d/dtheta ( <dL_T/dtheta, z_i> + <dL_T/dlambda, e_i> )

    by double backward: right wherever T1T2 is, through batch normalisation in training mode too.
    (Forward-mode differentiation of the backward pass would give the same, but torch lacks it for
    SiLU, GroupNorm and others.) Cost for H entries in all hyperparameters together: k + 1 forwards,
    k + 1 backwards, k H backwards through a backward; memory: one graph of the first derivatives
    and H vectors of theta's size (2 H with momentum), whatever k. For a handful of hyperparameters
    and many steps.

    inner_lr: eta, one value for the k steps. steps: k. momentum: mu. inner_batch is a sequence of k
    batches, used in order. outer_loss is L_V at theta_k. Diagnostics as Unrolled.
    """

    inner_lr: InnerLR
    steps: int
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_inner_lr(self.inner_lr)
        check_steps(self.steps)
        check_momentum(self.momentum)

    def __call__(
        self,
        problem: BilevelProblem,
        params: Tensors,
        hyper: Tensors,
        inner_batch: Sequence[Any],
        outer_batch: Any,
        generator: torch.Generator | None = None,
    ) -> Hypergradient:
        """The hypergradient at ``params`` and ``hyper``."""
        batches = step_batches(inner_batch, self.steps)
        theta, hyper = detached(params), leaves(hyper)
        *inner_seeds, outer_seed = draw_seeds(self.steps + 1, generator)
        eta = current(self.inner_lr)
        inner_losses = []
        reached: dict[str, Tensor | None] = dict.fromkeys(hyper)
        with replayed_randomness([*theta.values(), *hyper.values()]) as replay:
            momentum = {n: torch.zeros_like(t) for n, t in theta.items()}
            tangents = _Tangents(theta, hyper, eta, self.momentum)
            for seed, batch in zip(inner_seeds, batches, strict=True):
                replay(seed)
                start = leaves(theta)
                loss = problem.inner_loss(start, hyper, batch)
                inner_losses.append(loss.detach())
                both = {("theta", n): t for n, t in start.items()}
                both |= {("lambda", n): t for n, t in hyper.items()}
                found = gradients_or_none(loss, both, create_graph=True)
                inner_grads = zeros_for_none({n: found["theta", n] for n in start}, start)
                hyper_grads = {n: found["lambda", n] for n in hyper}
                del loss, found
                tangents.step(start, inner_grads, hyper_grads)
                reached |= {n: g.detach() for n, g in hyper_grads.items() if g is not None}
                momentum = added(detached(inner_grads), momentum, self.momentum)
                theta = added(theta, momentum, -eta)
                del start, both, inner_grads, hyper_grads  # the graph, before the next
            replay(outer_seed)
            outer_loss, v, direct = outer_step(problem, theta, hyper, outer_batch)
        check_dependence(reached, direct)
        diagnostics = {"inner_losses": torch.stack(inner_losses), "outer_grad_norm": norm(v)}
        return Hypergradient(with_direct_term(tangents.along(v), direct), outer_loss, diagnostics)


class _Tangents:
    """Z, and W if there is momentum: by parameter, (H, *shape), a row per entry of lambda."""

    def __init__(self, theta: Tensors, hyper: Tensors, eta: float, momentum: float) -> None:
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
            outputs, vectors = [], []
            if self.started:  # before, z is zero
                outputs += inner_grads.values()
                vectors += [self.z[n][row] for n in inner_grads]
            if hyper_grads[name] is not None:
                outputs.append(hyper_grads[name])
                vectors.append(self._unit(name, index))
            for n, change in product_keeping_graph(outputs, theta, vectors).items():
                if self.w is not None:
                    change = self.w[n][row].mul_(self.momentum).add_(change)
                self.z[n][row].sub_(change, alpha=self.eta)
        self.started = True

    def _unit(self, name: str, index: int) -> Tensor:
        unit = self.hyper[name].new_zeros(self.hyper[name].numel())
        unit[index] = 1
        return unit.view(self.hyper[name].shape)

    def along(self, v: Tensors) -> dict[str, Tensor]:
        """v . Z by hyperparameter."""
        rows = len(self.entries)
        total = sum(self.z[n].reshape(rows, t.numel()) @ t.reshape(-1) for n, t in v.items())
        return split_like(total, self.hyper)
