"""EvoGrad with its two candidates along the validation gradient instead of at random.

A variant of Bohdal, Yang, Hospedales (EvoGrad, NeurIPS 2021, arXiv:2106.10575). With the softmax
at even weights it is the central difference of Liu, Simonyan, Yang (DARTS, ICLR 2019,
arXiv:1806.09055), without DARTS's inner step before it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Estimate, Estimator, LossGradient, Point, check_positive
from .problem import Tensors, added, norm, zeros_for_none


@dataclass(frozen=True)
class EvoGradAlongGradient(Estimator):
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
        check_positive(radius=self.radius, temperature=self.temperature)

    @property
    def effective_inner_lr(self) -> float:
        """Step size of the T1T2 hypergradient that it tends to as the radius shrinks."""
        return self.radius**2 / self.temperature

    def estimate(self, at: Point) -> Estimate:
        outer_loss, g, direct = at.outer_step(at.theta)
        length = norm(g)
        values, sides = zip(*both_sides(at, g, length, self.radius), strict=True)
        losses = torch.stack(values)
        weights = torch.softmax(-losses / self.temperature, dim=0)
        slope = self.radius * length * torch.tensor([1.0, -1.0]).to(losses)
        coefficients = -(weights / self.temperature) * (slope - (weights * slope).sum())
        plus, minus = (zeros_for_none(side, at.hyper) for side in sides)
        # The two coefficients are opposite: they sum to zero.
        found = {n: coefficients[0] * (plus[n] - minus[n]) for n in at.hyper}
        diagnostics = {
            "losses": losses,
            "weights": weights,
            "coefficients": coefficients,
            "outer_grad_norm": length,
        }
        return Estimate(outer_loss, found, direct, diagnostics, reached=sides)


def both_sides(at: Point, direction: Tensors, length: Tensor, radius: float) -> list[LossGradient]:
    """L_T and dL_T/dlambda at theta + and - radius times ``direction`` / ``length``."""
    # At direction = 0 both are theta; the clamp keeps it from becoming 0 / 0.
    scale = radius / length.clamp_min(torch.finfo(length.dtype).tiny)
    return [at.hyper_gradient(added(at.theta, direction, s * scale)) for s in (1.0, -1.0)]
