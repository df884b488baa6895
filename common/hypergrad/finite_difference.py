"""The mixed second derivative of T1-T2 by a central difference of first derivatives.

Liu, Simonyan, Yang. DARTS: Differentiable Architecture Search. ICLR 2019, arXiv:1806.09055.
Choe et al. Making Scalable Meta Learning Practical (SAMA). NeurIPS 2023, arXiv:2310.05674.
"""

from dataclasses import dataclass
from typing import Any

import torch

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
from common.hypergrad.t1t2 import InnerLR, check_inner_lr, current, outer_step, sgd_step


@dataclass(frozen=True)
class FiniteDifference:
    """T1T2's hypergradient with its mixed derivative by a central difference along v.

        theta+- = theta +- r v / |v|,   v = dL_V/dtheta at theta' = theta - eta dL_T/dtheta
        indirect term = -eta |v| (dL_T/dlambda(theta+) - dL_T/dlambda(theta-)) / (2 r)

    The error is O(r^2) on smooth networks; a kink (ReLU) between theta- and theta+ adds an error
    that does not vanish with r, and in float32 rounding grows as 1/r. Cost: 4 forwards, 2 backwards
    to theta, 2 to lambda; memory: a plain step's.

    inner_lr: eta. radius: r, in units of theta's Euclidean norm, not relative. outer_loss is L_V at
    theta'. Diagnostics as T1T2.
    """

    inner_lr: InnerLR
    radius: float = 1e-2

    def __post_init__(self) -> None:
        check_inner_lr(self.inner_lr)
        if not self.radius > 0:
            raise ValueError(f"radius must be positive, got {self.radius}")

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
            length = norm(v)
            # At v = 0 the indirect term is zero; the clamp keeps it from becoming 0 / 0.
            scale = self.radius / length.clamp_min(torch.finfo(length.dtype).tiny)
            sides = []
            for sign in (1.0, -1.0):
                replay(inner_seed)
                loss = problem.inner_loss(added(theta, v, sign * scale), hyper, inner_batch)
                sides.append(gradients_or_none(loss, hyper))
                del loss
        check_dependence(*sides, direct)
        plus, minus = (zeros_for_none(side, hyper) for side in sides)
        factor = -eta * length / (2 * self.radius)
        grads = {n: factor * (plus[n] - minus[n]) for n in hyper}
        diagnostics = {"inner_loss": inner_loss, "outer_grad_norm": length}
        return Hypergradient(with_direct_term(grads, direct), outer_loss, diagnostics)
