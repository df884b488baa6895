"""T1-T2: the hypergradient of one unrolled SGD step, by second-order differentiation.

Luketina, Berglund, Greff, Raiko. Scalable Gradient-Based Tuning of Continuous Regularization
Hyperparameters. ICML 2016, arXiv:1511.06727. The second-order baseline of the EvoGrad paper.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from common.hypergrad.problem import (
    BilevelProblem,
    Hypergradient,
    Tensors,
    added,
    check_dependence,
    detached,
    gradients,
    gradients_or_none,
    leaves,
    norm,
    outer_gradients,
    with_direct_term,
    zeros_for_none,
)
from common.hypergrad.randomness import draw_seeds, replayed_randomness

InnerLR = float | Callable[[], float]
"""The inner step size eta; a callable is asked at every call, so it can follow a schedule."""


def check_inner_lr(inner_lr: InnerLR) -> None:
    if not callable(inner_lr) and not inner_lr > 0:
        raise ValueError(f"inner_lr must be positive, got {inner_lr}")


def current(inner_lr: InnerLR) -> float:
    return inner_lr() if callable(inner_lr) else inner_lr


@dataclass(frozen=True)
class T1T2:
    """dL_V(theta')/dlambda with theta' = theta - eta dL_T/dtheta(theta, lambda).

        indirect term = -eta v . d2L_T/(dtheta dlambda),   v = dL_V/dtheta at theta'

    by double backward: dL_T/dtheta is kept as a graph and differentiated again with v. Cost: 2
    forwards, 2 backwards and 1 backward through a backward; memory: the graph of dL_T/dtheta,
    about two to three times that of a plain step. Every operation of the network must be twice
    differentiable (fused attention is not; use the math backend).

    inner_lr: eta. outer_loss is L_V at theta'. Diagnostics: ``inner_loss`` L_T at theta,
    ``outer_grad_norm`` |v|.
    """

    inner_lr: InnerLR

    def __post_init__(self) -> None:
        check_inner_lr(self.inner_lr)

    def __call__(
        self,
        problem: BilevelProblem,
        params: Tensors,
        hyper: Tensors,
        inner_batch: Any,
        outer_batch: Any,
        generator: torch.Generator | None = None,
    ) -> Hypergradient:
        """The hypergradient at ``params`` and ``hyper``."""
        theta, hyper = leaves(params), leaves(hyper)
        inner_seed, outer_seed = draw_seeds(2, generator)
        eta = current(self.inner_lr)
        with replayed_randomness([*theta.values(), *hyper.values()]) as replay:
            replay(inner_seed)
            inner_loss = problem.inner_loss(theta, hyper, inner_batch)
            inner_grads = gradients(inner_loss, theta, create_graph=True)
            theta_next = added(detached(theta), detached(inner_grads), -eta)
            replay(outer_seed)
            outer_loss, v, direct = outer_step(problem, theta_next, hyper, outer_batch)
            found = gradients_or_none(
                list(inner_grads.values()), hyper, [-eta * v[n] for n in inner_grads]
            )
        check_dependence(found, direct)
        grads = zeros_for_none(found, hyper)
        diagnostics = {"inner_loss": inner_loss.detach(), "outer_grad_norm": norm(v)}
        return Hypergradient(with_direct_term(grads, direct), outer_loss, diagnostics)


def sgd_step(
    problem: BilevelProblem, theta: Tensors, hyper: Tensors, batch: Any, eta: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_T at theta, and theta' = theta - eta dL_T/dtheta, both without a graph."""
    start = leaves(theta)
    loss = problem.inner_loss(start, detached(hyper), batch)
    return loss.detach(), added(detached(theta), gradients(loss, start), -eta)


def outer_step(
    problem: BilevelProblem, theta: Tensors, hyper: Tensors, batch: Any
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor] | None]:
    """L_V at theta, v = dL_V/dtheta there, and the direct term (None if there is none)."""
    theta = leaves(theta)
    loss = problem.outer_loss(theta, hyper, batch)
    return loss.detach(), *outer_gradients(loss, theta, hyper)


# Reverse over forward is silently wrong through these in training mode (pytorch issues 196699 and
# 196700); the names are those of their nodes in the autograd graph.
_WRONG_IN_REVERSE_OVER_FORWARD = ("BatchNorm", "LayerNorm", "GroupNorm", "RmsNorm")


@dataclass(frozen=True)
class T1T2Forward:
    """T1T2's hypergradient, exact, without double backward.

        indirect term = -eta d/dlambda [ d/dr L_T(theta + r v, lambda) at r = 0 ]

    v as in T1T2, by two reverse passes; the bracket is one forward-mode derivative of L_T along v,
    and only the part of it that leads to lambda is kept as a graph. Meant for hyperparameters that
    enter after the network (loss weights): then no activation of the network is kept for it. Cost:
    3 forwards (one with tangents, about two forwards' work), 2 backwards; memory: a plain step's.

    Raises ValueError if lambda reaches the loss through batch or layer normalisation, where torch's
    reverse-over-forward derivative is wrong, or (where torch raises) through log_softmax; use T1T2
    there.

    inner_lr: eta. outer_loss is L_V at theta'. Diagnostics as T1T2.
    """

    inner_lr: InnerLR

    def __post_init__(self) -> None:
        check_inner_lr(self.inner_lr)

    def __call__(
        self,
        problem: BilevelProblem,
        params: Tensors,
        hyper: Tensors,
        inner_batch: Any,
        outer_batch: Any,
        generator: torch.Generator | None = None,
    ) -> Hypergradient:
        """The hypergradient at ``params`` and ``hyper``."""
        theta, hyper = detached(params), leaves(hyper)
        inner_seed, outer_seed = draw_seeds(2, generator)
        eta = current(self.inner_lr)
        with replayed_randomness([*theta.values(), *hyper.values()]) as replay:
            replay(inner_seed)
            inner_loss, theta_next = sgd_step(problem, theta, hyper, inner_batch, eta)
            replay(outer_seed)
            outer_loss, v, direct = outer_step(problem, theta_next, hyper, outer_batch)
            replay(inner_seed)
            with forward_ad.dual_level():
                duals = {n: forward_ad.make_dual(t, v[n]) for n, t in theta.items()}
                loss = problem.inner_loss(duals, hyper, inner_batch)
                value, slope = forward_ad.unpack_dual(loss)
            refuse_normalisation(value)
            if slope is None:  # L_T does not depend on theta
                slope = torch.zeros_like(value)
            found = _through_tangents(slope, hyper, eta)
        check_dependence(found, direct)
        grads = zeros_for_none(found, hyper)
        diagnostics = {"inner_loss": inner_loss, "outer_grad_norm": norm(v)}
        return Hypergradient(with_direct_term(grads, direct), outer_loss, diagnostics)


def _through_tangents(slope: Tensor, hyper: Tensors, eta: float) -> dict[str, Tensor | None]:
    try:
        return gradients_or_none(slope, hyper, [torch.full_like(slope, -eta)])
    except RuntimeError as error:  # log_softmax's tangent is computed in place, for one
        if "inplace operation" not in str(error):
            raise
        raise ValueError(
            "T1T2Forward cannot be used here: the hyperparameters reach the inner loss through an "
            "operation whose forward-mode derivative torch cannot differentiate; use T1T2"
        ) from None


def refuse_normalisation(loss: Tensor) -> None:
    """Raise ValueError if the hyperparameters reach ``loss`` through a normalisation."""
    pending, seen = [loss.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if any(kind in node.name() for kind in _WRONG_IN_REVERSE_OVER_FORWARD):
            raise ValueError(
                "T1T2Forward cannot be used here: the hyperparameters reach the inner loss "
                f"through {node.name()}, where torch's reverse-over-forward derivative is wrong; "
                "use T1T2"
            )
        pending.extend(parent for parent, _ in node.next_functions)
