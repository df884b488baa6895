"""T1-T2: the hypergradient of one unrolled SGD step, exactly, by three kinds of differentiation.

Luketina, Berglund, Greff, Raiko. Scalable Gradient-Based Tuning of Continuous Regularization
Hyperparameters. ICML 2016, arXiv:1511.06727. The second-order baseline of the EvoGrad paper.
Kemaev, Calian, Zintgraf, Farquhar, van Hasselt. Scalable Meta-Learning via Mixed-Mode
Differentiation (MixFlow-MG). ICML 2025, arXiv:2505.00793: ``T1T2MixedMode``.
"""

import re
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from .base import Estimate, OneStep, Point
from .checks import graph_of
from .inner_step import stepped
from .problem import Grads, Tensors, detached, gradients_or_none, norm
from .second_order import inner_gradient

_ALGEBRA = "Linalg|Det|Solve|Cholesky|Inverse"
"""Nodes whose backward torch computes by other formulas where it is differentiated again."""


@dataclass(frozen=True)
class T1T2(OneStep):
    """dL_V(theta')/dlambda with theta' = theta - eta dL_T/dtheta(theta, lambda).

        indirect term = -eta v . d2L_T/(dtheta dlambda),   v = dL_V/dtheta at theta'

    by double backward: dL_T/dtheta is kept as a graph and differentiated again with v. Cost: 2
    forwards, 2 backwards and 1 backward through a backward; memory: the graph of dL_T/dtheta,
    about two to three times that of a plain step. Every operation of the network must be twice
    differentiable (fused attention is not; use the math backend).

    inner_lr: eta, or the training's optimiser (inner_step.py): then theta' is its next step, and
    v is multiplied by that step's Jacobian. outer_loss is L_V at theta'.
    Diagnostics: ``inner_loss`` L_T at theta, ``outer_grad_norm`` |v|.
    """

    def estimate(self, at: Point) -> Estimate:
        inner = inner_gradient(at, at.theta)
        step = stepped(self.inner_lr, at.params, at.theta, detached(inner.grads))
        outer_loss, v, direct = at.outer_step(step.theta)
        found = inner.mixed_product({n: step.factor * t for n, t in step.pulled_back(v).items()})
        diagnostics = {"inner_loss": inner.loss, "outer_grad_norm": norm(v)}
        return Estimate(outer_loss, found, direct, diagnostics)


@dataclass(frozen=True)
class LookAhead(OneStep):
    """T1T2's number without its graph: a step to theta' for v, then a derivative at theta."""

    def estimate(self, at: Point) -> Estimate:
        inner_loss, step = at.stepped(self.inner_lr)
        outer_loss, v, direct = at.outer_step(step.theta)
        step.theta.clear()
        found = self.mixed_product(at, step.pulled_back(v), step.factor)
        diagnostics = {"inner_loss": inner_loss, "outer_grad_norm": norm(v)}
        return Estimate(outer_loss, found, direct, diagnostics)

    @abstractmethod
    def mixed_product(self, at: Point, vector: Tensors, factor: float) -> Grads:
        """factor * vector . d2L_T/(dtheta dlambda) at theta, by hyperparameter."""


@dataclass(frozen=True)
class T1T2Forward(LookAhead):
    """T1T2's hypergradient, exact, without double backward.

        indirect term = -eta d/dlambda [ d/dr L_T(theta + r v, lambda) at r = 0 ]

    v as in T1T2, by two reverse passes; the bracket is one forward-mode derivative of L_T along v,
    whose graph leads to lambda only. Meant for hyperparameters that enter after the network (loss
    weights): then it keeps no activation of the network. Cost: 3 forwards (one with tangents, about
    two forwards' work), 2 backwards; memory: a plain step's. Settings and diagnostics as T1T2.

    Raises ValueError if lambda reaches the loss through batch or layer normalisation, a determinant
    or a solve, where torch's reverse-over-forward derivative is wrong, or (where torch raises)
    through log_softmax; use T1T2
    there.
    """

    def mixed_product(self, at: Point, vector: Tensors, factor: float) -> Grads:
        at.examination.need("a forward-mode derivative")
        with forward_ad.dual_level():
            value, slope = forward_ad.unpack_dual(at.inner_loss(_duals(at.theta, vector)))
        # Reverse over forward is silently wrong through these in training mode (pytorch issues
        # 196699 and 196700); the names are those of their nodes in the autograd graph.
        for node in graph_of(value)[0]:
            if re.search(f"BatchNorm|LayerNorm|GroupNorm|RmsNorm|{_ALGEBRA}", node.name()):
                raise ValueError(
                    "T1T2Forward cannot be used here: the hyperparameters reach the inner loss "
                    f"through {node.name()}, where torch's reverse-over-forward derivative is "
                    "wrong; use T1T2"
                )
        if slope is None:  # L_T does not depend on theta
            slope = torch.zeros_like(value)
        try:
            return gradients_or_none(slope, at.hyper, [torch.full_like(slope, factor)])
        except RuntimeError as error:
            if "inplace operation" not in str(error):  # log_softmax's tangent is, for one
                raise
            raise ValueError(
                "T1T2Forward cannot be used here: the hyperparameters reach the inner loss through "
                "an operation whose forward-mode derivative torch cannot differentiate; use T1T2"
            ) from None


@dataclass(frozen=True)
class T1T2MixedMode(LookAhead):
    """T1T2's hypergradient, exact, with lambda anywhere and without double backward.

        indirect term = -eta d/dr [ dL_T/dlambda(theta + r v, lambda) ] at r = 0

    v as in T1T2, by two reverse passes. The bracket is dL_T/dlambda by one reverse pass whose every
    operation carries its forward-mode derivative along v (mixed-mode differentiation: forward over
    reverse). Cost: 3 forwards and 3 backwards, one of each with tangents (about twice the work);
    memory: the graph of one backward and its tangents. Where lambda enters after the network (loss
    weights) the graph does not reach into it. Settings and diagnostics as T1T2.

    Every operation between theta and dL_T/dlambda needs a forward-mode derivative, that of its
    backward too; ValueError names one that lacks it (torch has none for grid_sample's backward).
    Where torch has a formula of its own for backwards that are differentiated again (determinants,
    solve, SiLU, GroupNorm), that one is taken, and the graph of the backward kept for as long.
    """

    def mixed_product(self, at: Point, vector: Tensors, factor: float) -> Grads:
        at.examination.need("a forward-mode derivative")
        # The formulas of determinants and solve that are not to be differentiated give wrong
        # tangents; those of others raise.
        if re.search(_ALGEBRA, at.examination.nodes.get("inner_loss", "")):
            return self._tangents(at, vector, factor, create_graph=True)
        try:
            return self._tangents(at, vector, factor, create_graph=False)
        except RuntimeError as error:
            if "forward AD" not in str(error):
                raise
            return self._tangents(at, vector, factor, create_graph=True)

    def _tangents(self, at: Point, vector: Tensors, factor: float, create_graph: bool) -> Grads:
        found: dict[str, Tensor | None] = {}
        with forward_ad.dual_level():
            loss = at.inner_loss(_duals(at.theta, vector))
            grads = gradients_or_none(loss, at.hyper, create_graph=create_graph)
            for n, grad in grads.items():
                tangent = None if grad is None else forward_ad.unpack_dual(grad).tangent
                # None: constant.
                found[n] = None if tangent is None else factor * tangent.detach()
        return found


def _duals(theta: Tensors, tangents: Tensors) -> dict[str, Tensor]:
    return {n: forward_ad.make_dual(t, tangents[n]) for n, t in theta.items()}
