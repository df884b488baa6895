"""T1-T2 through the ``higher`` library, which is what the literature timed.

Grefenstette et al. Generalized Inner Loop Meta-Learning. 2019, arXiv:1910.01727. This is the only
file that imports ``higher``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .base import Estimate, InnerSGD, Point
from .problem import gradients_or_none


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

        at.examination.need("a second derivative")
        module = nn.ParameterList(at.theta.values())  # ``higher`` patches modules
        sgd = torch.optim.SGD(module.parameters(), lr=self.eta)
        with higher.innerloop_ctx(module, sgd) as (patched, differentiable_sgd):

            def present() -> dict[str, Tensor]:
                return dict(zip(at.theta, patched.parameters(), strict=True))

            inner_loss = at.inner_loss(present())
            differentiable_sgd.step(inner_loss)
            outer_loss = at.outer_loss(present())
            at.examination.check_twice_differentiable({"": outer_loss})
            found = gradients_or_none(outer_loss, at.hyper)
        diagnostics = {"inner_loss": inner_loss.detach()}
        return Estimate(outer_loss.detach(), found, diagnostics=diagnostics)
