"""EvoGrad with one candidate at theta itself, whose loss the base step computes anyway.

A variant of Bohdal, Yang, Hospedales (EvoGrad, NeurIPS 2021, arXiv:2106.10575).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from common.hypergrad.problem import (
    BilevelProblem,
    Hypergradient,
    Tensors,
    added,
    check_dependence,
    detached,
    gradients_or_none,
    leaves,
    outer_gradients,
    with_direct_term,
    zeros_for_none,
)
from common.hypergrad.randomness import draw_seeds, random_bits, replayed_randomness
from common.hypergrad.second_order import flat, split_like


@dataclass(frozen=True)
class Anchor:
    """What the base step knows of the candidate at theta.

    loss: L_T(theta, lambda). grads: dL_T/dlambda by name. Asked for together with dL_T/dtheta they
    cost the base step nothing, or (loss weights) a backward through what follows the network.
    """

    loss: Tensor
    grads: Mapping[str, Tensor | None]


@dataclass(frozen=True)
class AnchoredEvoGrad:
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
        if not self.sigma > 0:
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.perturbation not in ("sign", "gaussian"):
            raise ValueError(f"perturbation must be sign or gaussian, got {self.perturbation!r}")

    @property
    def effective_inner_lr(self) -> float:
        """Step size of the T1T2 hypergradient that this equals in expectation (small sigma)."""
        return self.sigma**2 / (4 * self.temperature)

    def __call__(
        self,
        problem: BilevelProblem,
        params: Tensors,
        hyper: Tensors,
        inner_batch: Any,
        outer_batch: Any,
        generator: torch.Generator | None = None,
        anchor: Anchor | None = None,
        noise: Tensors | None = None,
    ) -> Hypergradient:
        """The hypergradient at ``params`` and ``hyper``.

        anchor: the loss at theta from the base step (then with the base step's own dropout masks);
        None computes it. noise: eps itself, by name, instead of drawing it.
        """
        theta, hyper = detached(params), leaves(hyper)
        noise_seed, inner_seed, outer_seed = draw_seeds(3, generator)
        if noise is None:
            noise = self._draw(theta, noise_seed)
        with replayed_randomness([*theta.values(), *hyper.values()]) as replay:

            def at(candidate: Tensors) -> Anchor:
                replay(inner_seed)
                loss = problem.inner_loss(candidate, hyper, inner_batch)
                return Anchor(loss.detach(), gradients_or_none(loss, hyper))

            first, second = anchor or at(theta), at(added(theta, noise))
            losses = torch.stack([first.loss, second.loss])
            weights = torch.softmax(-losses / self.temperature, dim=0)
            merged = leaves(added(theta, noise, weights[1].to(next(iter(theta.values())))))
            replay(outer_seed)
            outer_loss = problem.outer_loss(merged, hyper, outer_batch)
            g, direct = outer_gradients(outer_loss, merged, hyper)
        check_dependence(first.grads, second.grads, direct)
        slope = flat(g) @ flat(noise)
        factor = -(weights[0] * weights[1] / self.temperature) * slope
        before, after = (zeros_for_none(found.grads, hyper) for found in (first, second))
        grads = {n: factor * (after[n] - before[n]) for n in hyper}
        diagnostics = {
            "losses": losses,
            "weights": weights,
            "coefficients": torch.stack([-factor, factor]),
        }
        return Hypergradient(with_direct_term(grads, direct), outer_loss.detach(), diagnostics)

    def _draw(self, theta: Tensors, seed: int) -> dict[str, Tensor]:
        """eps, by name."""
        like = next(iter(theta.values()))
        size = sum(t.numel() for t in theta.values())
        generator = torch.Generator(like.device).manual_seed(seed)
        if self.perturbation == "gaussian":
            vector = torch.empty(size, dtype=like.dtype, device=like.device)
            return split_like(vector.normal_(generator=generator).mul_(self.sigma), theta)
        bits = random_bits(size, generator).to(like.dtype)
        return split_like(bits.mul_(2 * self.sigma).sub_(self.sigma), theta)
