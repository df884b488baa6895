"""T1-T2: the hypergradient of one unrolled SGD step, by second-order differentiation.

Luketina, Berglund, Greff, Raiko. Scalable Gradient-Based Tuning of Continuous Regularization
Hyperparameters. ICML 2016, arXiv:1511.06727. The second-order baseline of the EvoGrad paper.
"""

from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from .base import Estimate, OneStep, Point
from .inner_step import stepped
from .problem import Tensors, detached, gradients_or_none, norm
from .second_order import inner_gradient


@dataclass(frozen=True)
class T1T2(OneStep):
    """dL_V(theta')/dlambda with theta' = theta - eta dL_T/dtheta(theta, lambda).

        indirect term = -eta v . d2L_T/(dtheta dlambda),   v = dL_V/dtheta at theta'

    by double backward: dL_T/dtheta is kept as a graph and differentiated again with v. Cost: 2
    forwards, 2 backwards and 1 backward through a backward; memory: the graph of dL_T/dtheta,
    about two to three times that of a plain step. Every operation of the network must be twice
    differentiable (fused attention is not; use the math backend).

    inner_lr: eta, or the training's optimiser: then theta' is its next step, and v is multiplied by
    that step's Jacobian. outer_loss is L_V at theta'. Diagnostics: ``inner_loss`` L_T at theta,
    ``outer_grad_norm`` |v|.
    """

    def estimate(self, at: Point) -> Estimate:
        inner = inner_gradient(at, at.theta)
        step = stepped(self.inner_lr, at.params, at.theta, detached(inner.grads))
        outer_loss, v, direct = at.outer_step(step.theta)
        found = inner.mixed_product({n: step.factor * t for n, t in step.pulled_back(v).items()})
        diagnostics = {"inner_loss": inner.loss, "outer_grad_norm": norm(v)}
        return Estimate(outer_loss, found, direct, diagnostics)


# Reverse over forward is silently wrong through these in training mode (pytorch issues 196699 and
# 196700); the names are those of their nodes in the autograd graph.
_WRONG_IN_REVERSE_OVER_FORWARD = ("BatchNorm", "LayerNorm", "GroupNorm", "RmsNorm")


@dataclass(frozen=True)
class T1T2Forward(OneStep):
    """T1T2's hypergradient, exact, without double backward.

        indirect term = -eta d/dlambda [ d/dr L_T(theta + r v, lambda) at r = 0 ]

    v as in T1T2, by two reverse passes; the bracket is one forward-mode derivative of L_T along v,
    and only the part of it that leads to lambda is kept as a graph. Meant for hyperparameters that
    enter after the network (loss weights): then no activation of the network is kept for it. Cost:
    3 forwards (one with tangents, about two forwards' work), 2 backwards; memory: a plain step's.

    Raises ValueError if lambda reaches the loss through batch or layer normalisation, where torch's
    reverse-over-forward derivative is wrong, or (where torch raises) through log_softmax; use T1T2
    there.

    inner_lr: as T1T2. outer_loss is L_V at theta'. Diagnostics as T1T2.
    """

    def estimate(self, at: Point) -> Estimate:
        at.refuse_compiled("inner_loss", "a forward-mode derivative")
        inner_loss, step = at.stepped(self.inner_lr)
        outer_loss, v, direct = at.outer_step(step.theta)
        step.theta.clear()
        tangents = step.pulled_back(v)
        with forward_ad.dual_level():
            duals = {n: forward_ad.make_dual(t, tangents[n]) for n, t in at.theta.items()}
            value, slope = forward_ad.unpack_dual(at.inner_loss(duals))
        refuse_normalisation(value)
        if slope is None:  # L_T does not depend on theta
            slope = torch.zeros_like(value)
        found = _through_tangents(slope, at.hyper, step.factor)
        diagnostics = {"inner_loss": inner_loss, "outer_grad_norm": norm(v)}
        return Estimate(outer_loss, found, direct, diagnostics)


def _through_tangents(slope: Tensor, hyper: Tensors, factor: float) -> dict[str, Tensor | None]:
    try:
        return gradients_or_none(slope, hyper, [torch.full_like(slope, factor)])
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
