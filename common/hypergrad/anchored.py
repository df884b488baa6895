"""EvoGrad with one candidate at theta itself, whose loss the base step computes anyway.

A variant of Bohdal, Yang, Hospedales (EvoGrad, NeurIPS 2021, arXiv:2106.10575).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .base import Estimate, Estimator, Point, Seeds
from .candidates import check_candidates
from .problem import Tensors, added, flat, split_like, zeros_for_none
from .randomness import draw_seeds, perturbation


@dataclass(frozen=True)
class Anchor:
    """What the base step knows of the candidate at theta.

    loss: L_T(theta, lambda). grads: dL_T/dlambda by name. Asked for together with dL_T/dtheta they
    cost the base step nothing, or (loss weights) a backward through what follows the network.
    """

    loss: Tensor
    grads: Mapping[str, Tensor | None]


@dataclass(frozen=True)
class AnchoredEvoGrad(Estimator):
    """EvoGrad's hypergradient for K = 2, eps_1 = 0 and eps_2 = eps random.

        l_1 = L_T(theta, lambda),  l_2 = L_T(theta + eps, lambda),  w = softmax(-l / tau)
        theta* = theta + w_2 eps,  g = dL_V/dtheta at theta*
        indirect term = -(w_1 w_2 / tau) <g, eps> (dl_2/dlambda - dl_1/dlambda)

    For small sigma its mean is the one-step hypergradient (T1T2) of step ``effective_inner_lr`` =
    sigma^2 / (4 tau): E[eps eps'] = sigma^2 I times w_1 w_2 = 1/4; half of EvoGrad's for K = 2,
    whose candidates lie further apart. The noise around it is the same relative to it.

    Cost: 3 forwards, 1 backward to theta, 2 to lambda, as EvoGrad for K = 2; with ``anchor`` given
    by the base step at the same theta and batch 2 forwards, 1 backward to theta, 1 to lambda.
    Memory: a plain step's.

    sigma: scale of eps. temperature: tau. perturbation: "sign" or "gaussian", as EvoGrad.
    outer_loss is L_V at theta*. Diagnostics: ``losses`` l (2,), ``weights`` w (2,),
    ``coefficients`` c (2,).
    """

    sigma: float = 1e-3
    temperature: float = 0.05
    perturbation: Literal["sign", "gaussian"] = "sign"

    def __post_init__(self) -> None:
        check_candidates(self.sigma, self.temperature, self.perturbation)

    @property
    def effective_inner_lr(self) -> float:
        """Step size of the T1T2 hypergradient that this equals in expectation (small sigma)."""
        return self.sigma**2 / (4 * self.temperature)

    def draw_seeds(self, generator: torch.Generator | None) -> Seeds:
        noise, inner, outer = draw_seeds(3, generator)
        return Seeds([inner], outer, [noise])

    def estimate(
        self, at: Point, anchor: Anchor | None = None, noise: Tensors | None = None
    ) -> Estimate:
        """anchor: the loss at theta from the base step (then with the base step's own dropout
        masks); None computes it. noise: eps itself, by name, instead of drawing it."""
        like = next(iter(at.theta.values()))
        if noise is None:
            size = sum(t.numel() for t in at.theta.values())
            vector = perturbation(self.perturbation, self.sigma, size, like, at.seeds.own[0])
            noise = split_like(vector, at.theta)
        first = anchor or Anchor(*at.hyper_gradient(at.theta))
        second = Anchor(*at.hyper_gradient(added(at.theta, noise)))
        losses = torch.stack([first.loss, second.loss])
        weights = torch.softmax(-losses / self.temperature, dim=0)
        outer_loss, g, direct = at.outer_step(added(at.theta, noise, weights[1].to(like)))
        slope = flat(g) @ flat(noise)
        factor = -(weights[0] * weights[1] / self.temperature) * slope
        before, after = (zeros_for_none(found.grads, at.hyper) for found in (first, second))
        found = {n: factor * (after[n] - before[n]) for n in at.hyper}
        diagnostics = {
            "losses": losses,
            "weights": weights,
            "coefficients": torch.stack([-factor, factor]),
        }
        return Estimate(outer_loss, found, direct, diagnostics, reached=[first.grads, second.grads])
