"""T1-T2 by mixed-mode differentiation: forward over reverse, without double backward.

Kemaev, Calian, Zintgraf, Farquhar, van Hasselt. Scalable Meta-Learning via Mixed-Mode
Differentiation (MixFlow-MG). ICML 2025, arXiv:2505.00793.
"""

import re
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from .base import Estimate, OneStep, Point
from .problem import gradients_or_none, norm

_UNSUPPORTED = re.compile(r"forward AD with (\w+)")


@dataclass(frozen=True)
class T1T2MixedMode(OneStep):
    """T1T2's hypergradient, exact, with lambda anywhere and without double backward.

        indirect term = -eta d/dr [ dL_T/dlambda(theta + r v, lambda) ] at r = 0

    v as in T1T2, by two reverse passes. The bracket is dL_T/dlambda by one reverse pass whose every
    operation carries its forward-mode derivative along v. Cost: 3 forwards and 3 backwards, one of
    each with tangents (about twice the work); memory: the graph of one backward and its tangents.
    Where lambda enters after the network (loss weights) the graph does not reach into it.

    Every operation between theta and dL_T/dlambda needs a forward-mode derivative, that of its
    backward too; ValueError names one that lacks it (torch has none for grid_sample's backward).

    inner_lr: as T1T2. outer_loss is L_V at theta'. Diagnostics as T1T2.
    """

    def estimate(self, at: Point) -> Estimate:
        at.refuse_compiled("inner_loss", "a forward-mode derivative")
        inner_loss, step = at.stepped(self.inner_lr)
        outer_loss, v, direct = at.outer_step(step.theta)
        step.theta.clear()
        tangents = step.pulled_back(v)
        try:
            with forward_ad.dual_level():
                duals = {n: forward_ad.make_dual(t, tangents[n]) for n, t in at.theta.items()}
                grads = gradients_or_none(at.inner_loss(duals), at.hyper)
                found = {n: _tangent(grad, step.factor) for n, grad in grads.items()}
        except (NotImplementedError, RuntimeError) as error:
            operator = _UNSUPPORTED.search(str(error))
            if operator is None:
                raise
            raise ValueError(
                f"T1T2MixedMode cannot be used here: torch has no forward-mode derivative of "
                f"{operator[1]}; use T1T2"
            ) from None
        diagnostics = {"inner_loss": inner_loss, "outer_grad_norm": norm(v)}
        return Estimate(outer_loss, found, direct, diagnostics)


def _tangent(grad: Tensor | None, factor: float) -> Tensor | None:
    """factor times the derivative of dL_T/dlambda along v; zeros if that gradient is constant."""
    if grad is None:
        return None
    tangent = forward_ad.unpack_dual(grad).tangent
    return torch.zeros_like(grad) if tangent is None else factor * tangent
