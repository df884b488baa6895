"""T1-T2 through the ``higher`` library, which is what the literature timed.

Grefenstette et al. Generalized Inner Loop Meta-Learning. 2019, arXiv:1910.01727. This is the only
file that imports ``higher``.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.hypergrad.problem import (
    BilevelProblem,
    Hypergradient,
    Tensors,
    check_dependence,
    gradients_or_none,
    leaves,
    zeros_for_none,
)
from common.hypergrad.randomness import draw_seeds, replayed_randomness
from common.hypergrad.t1t2 import InnerLR, check_inner_lr, current


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
class HigherT1T2:
    """T1T2's hypergradient with the inner step taken by ``higher``'s differentiable SGD.

    theta' = theta - eta dL_T/dtheta stays a graph up to theta, and dL_V(theta')/dlambda is one
    backward through all of it. Same number as T1T2; the outer graph and the inner one are alive
    together, so it needs more memory. Cost: 2 forwards, 1 backward, 1 backward through a backward.

    inner_lr: eta. outer_loss is L_V at theta'. Diagnostics: ``inner_loss``.
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
        import higher

        module, hyper = _ParameterHolder(params), leaves(hyper)
        sgd = torch.optim.SGD(module.parameters(), lr=current(self.inner_lr))
        inner_seed, outer_seed = draw_seeds(2, generator)
        with (
            replayed_randomness([*params.values(), *hyper.values()]) as replay,
            higher.innerloop_ctx(module, sgd) as (patched, differentiable_sgd),
        ):
            replay(inner_seed)
            inner_loss = problem.inner_loss(patched(), hyper, inner_batch)
            differentiable_sgd.step(inner_loss)
            replay(outer_seed)
            outer_loss = problem.outer_loss(patched(), hyper, outer_batch)
            found = gradients_or_none(outer_loss, hyper)
        check_dependence(found)
        diagnostics = {"inner_loss": inner_loss.detach()}
        return Hypergradient(zeros_for_none(found, hyper), outer_loss.detach(), diagnostics)
