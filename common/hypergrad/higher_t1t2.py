"""T1-T2 through the ``higher`` library, which is what the literature timed.

Grefenstette et al. Generalized Inner Loop Meta-Learning. 2019, arXiv:1910.01727. This is the only
file that imports ``higher``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .base import Estimate, InnerSGD, Point
from .problem import Tensors, gradients_or_none


class _ParameterHolder(nn.Module):
    """The parameters as a module's, since ``higher`` patches modules (no dots in names there)."""

    def __init__(self, params: Tensors) -> None:
        super().__init__()
        self.names = list(params)
        for index, value in enumerate(params.values()):
            self.register_parameter(f"p{index}", nn.Parameter(value.detach()))

    def forward(self) -> dict[str, Tensor]:
        return {name: getattr(self, f"p{index}") for index, name in enumerate(self.names)}


@dataclass(frozen=True)
class HigherT1T2(InnerSGD):
    """T1T2's hypergradient with the inner step taken by ``higher``'s differentiable SGD.

    theta' = theta - eta dL_T/dtheta stays a graph up to theta, and dL_V(theta')/dlambda is one
    backward through all of it. Same number as T1T2; the outer graph and the inner one are alive
    together, so it needs more memory. Cost: 2 forwards, 1 backward, 1 backward through a backward.

    inner_lr: eta. outer_loss is L_V at theta'. Diagnostics: ``inner_loss``.
    """

    def estimate(self, at: Point) -> Estimate:
        import higher

        at.refuse_compiled("inner_loss", "a second derivative")
        module = _ParameterHolder(at.theta)
        sgd = torch.optim.SGD(module.parameters(), lr=self.eta)
        with higher.innerloop_ctx(module, sgd) as (patched, differentiable_sgd):
            inner_loss = at.inner_loss(patched())
            differentiable_sgd.step(inner_loss)
            outer_loss = at.outer_loss(patched())
            found = gradients_or_none(outer_loss, at.hyper)
        diagnostics = {"inner_loss": inner_loss.detach()}
        return Estimate(outer_loss.detach(), found, diagnostics=diagnostics)
