"""EvoGrad with its two candidates along the validation gradient instead of at random.

A variant of Bohdal, Yang, Hospedales (EvoGrad, NeurIPS 2021, arXiv:2106.10575). With the softmax
at even weights it is the central difference of Liu, Simonyan, Yang (DARTS, ICLR 2019,
arXiv:1806.09055), without DARTS's inner step before it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Anchor, Estimate, Estimator, Point, check_positive
from .candidates import softmax_weights
from .problem import Tensors, norm, zeros_for_none


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

    one_sided: the candidates are theta and theta + r g / |g|, with eta = w_1 w_2 r^2 / tau, so that
    ``effective_inner_lr`` is a quarter; the error of the difference is O(r), not O(r^2). It is one
    step of the fully first-order methods (Kwon, Kwon, Wright, Nowak. ICML 2023, arXiv:2301.10945).

    Cost: 3 forwards, 1 backward to theta, 2 to lambda, EvoGrad's for K = 2; memory: a plain step's.
    One-sided, with ``anchor`` from the base step: 2 forwards, 1 backward to theta, 1 to lambda.

    radius: r, in units of theta's Euclidean norm, not relative. temperature: tau. outer_loss is
    L_V at theta. Diagnostics: ``losses`` l (2,), ``weights`` w (2,), ``coefficients`` c (2,),
    ``outer_grad_norm`` |g|.
    """

    radius: float = 1e-2
    temperature: float = 0.05
    one_sided: bool = False

    def __post_init__(self) -> None:
        check_positive(radius=self.radius, temperature=self.temperature)

    @property
    def effective_inner_lr(self) -> float:
        """Step size of the T1T2 hypergradient that it tends to as the radius shrinks."""
        return self.radius**2 / self.temperature / (4 if self.one_sided else 1)

    def estimate(self, at: Point, anchor: Anchor | Callable[[], Anchor] | None = None) -> Estimate:
        """anchor: the loss at theta, from the base step (``Anchor``); one-sided only."""
        if anchor is not None and not self.one_sided:
            raise ValueError("anchor needs EvoGradAlongGradient(one_sided=True)")
        outer_loss, g, direct = at.outer_step(at.theta)
        length = norm(g)
        slope = self.radius * length
        if self.one_sided:
            moved = at.hyper_gradient(shifted(at, g, length, self.radius))
            sides = [at.anchor(anchor), moved]
            slopes = torch.stack([torch.zeros_like(slope), slope])
        else:
            sides = [at.hyper_gradient(shifted(at, g, length, s * self.radius)) for s in (1, -1)]
            slopes = torch.stack([slope, -slope])
        losses = torch.stack([loss for loss, _ in sides])
        weights = softmax_weights(losses, self.temperature)
        coefficients = -(weights / self.temperature) * (slopes - (weights * slopes).sum())
        first, second = (zeros_for_none(grads, at.hyper) for _, grads in sides)
        # The two coefficients are opposite: they sum to zero.
        found = {n: coefficients[0] * (first[n] - second[n]) for n in at.hyper}
        diagnostics = {
            "losses": losses,
            "weights": weights,
            "coefficients": coefficients,
            "outer_grad_norm": length,
        }
        return Estimate(outer_loss, found, direct, diagnostics)


def shifted(at: Point, direction: Tensors, length: Tensor, radius: float) -> dict[str, Tensor]:
    """theta + radius times ``direction`` / ``length``."""
    # At direction = 0 this is theta; the clamp keeps the scale from becoming 0 / 0.
    scale = radius / length.clamp_min(torch.finfo(length.dtype).tiny)
    return at.moved(at.theta, direction, "radius", radius, scale)
