"""EvoGrad with its two candidates along the validation gradient instead of at random.

A variant of Bohdal, Yang, Hospedales (EvoGrad, NeurIPS 2021, arXiv:2106.10575). With the softmax
at even weights it is the central difference of Liu, Simonyan, Yang (DARTS, ICLR 2019,
arXiv:1806.09055), without DARTS's inner step before it.
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
from common.hypergrad.t1t2 import outer_step


@dataclass(frozen=True)
class EvoGradAlongGradient:
    """EvoGrad's hypergradient for K = 2 and eps_1 = -eps_2 = r g / |g|, g = dL_V/dtheta at theta.

        l+- = L_T(theta +- r g / |g|, lambda),  w = softmax(-(l+, l-) / tau)
        indirect term = sum_k c_k dl_k/dlambda = -(2 w+ w- r |g| / tau) (dl+/dlambda - dl-/dlambda)

    since <g, eps> = +-r |g|. The bracket is 2 r times the central difference of dL_T/dlambda along
    g / |g|, so this is

        -eta |g| (dl+/dlambda - dl-/dlambda) / (2 r)   with   eta = 4 w+ w- r^2 / tau,

    FiniteDifference with that inner step and g at theta in place of theta'. For small r the weights
    are even and it tends to the one-step hypergradient (T1T2) of step ``effective_inner_lr`` =
    r^2 / tau, with g at theta: no sampling noise at all, where random candidates leave a noise that
    grows with the number of parameters. Where the losses differ by much more than tau the factor
    4 w+ w- shrinks the result; its direction does not change. A kink (ReLU) between the candidates
    and, in float32, rounding (as 1/r) are the errors of a central difference.

    Cost: 3 forwards, 1 backward to theta, 2 to lambda, EvoGrad's for K = 2; memory: a plain step's.

    radius: r, in units of theta's Euclidean norm, not relative. temperature: tau. outer_loss is
    L_V at theta. Diagnostics: ``losses`` l (2,), ``weights`` w (2,), ``coefficients`` c (2,),
    ``outer_grad_norm`` |g|.
    """

    radius: float = 1e-2
    temperature: float = 0.05

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ValueError(f"radius must be positive, got {self.radius}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    @property
    def effective_inner_lr(self) -> float:
        """Step size of the T1T2 hypergradient that it tends to as the radius shrinks."""
        return self.radius**2 / self.temperature

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
        with replayed_randomness([*theta.values(), *hyper.values()]) as replay:
            replay(outer_seed)
            outer_loss, g, direct = outer_step(problem, theta, hyper, outer_batch)
            length = norm(g)
            # At g = 0 the indirect term is zero; the clamp keeps it from becoming 0 / 0.
            scale = self.radius / length.clamp_min(torch.finfo(length.dtype).tiny)
            values, loss_grads = [], []
            for sign in (1.0, -1.0):
                replay(inner_seed)
                loss = problem.inner_loss(added(theta, g, sign * scale), hyper, inner_batch)
                loss_grads.append(gradients_or_none(loss, hyper))
                values.append(loss.detach())
                del loss
        check_dependence(*loss_grads, direct)
        losses = torch.stack(values)
        weights = torch.softmax(-losses / self.temperature, dim=0)
        slope = self.radius * length * torch.tensor([1.0, -1.0]).to(losses)
        coefficients = -(weights / self.temperature) * (slope - (weights * slope).sum())
        plus, minus = (zeros_for_none(found, hyper) for found in loss_grads)
        # The two coefficients are opposite: they sum to zero.
        grads = {n: coefficients[0] * (plus[n] - minus[n]) for n in hyper}
        diagnostics = {
            "losses": losses,
            "weights": weights,
            "coefficients": coefficients,
            "outer_grad_norm": length,
        }
        return Hypergradient(with_direct_term(grads, direct), outer_loss, diagnostics)
