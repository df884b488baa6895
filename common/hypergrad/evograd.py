"""EvoGrad: hypergradients from first-order derivatives of a one-step evolutionary update.

Bohdal, Yang, Hospedales. EvoGrad: Efficient Gradient-Based Meta-Learning and Hyperparameter
Optimization. NeurIPS 2021, arXiv:2106.10575.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from .base import Estimate, Estimator, Point, Seeds
from .candidates import Candidates, check_candidates, softmax_weights
from .problem import Tensors, flat, gradients, gradients_or_none
from .randomness import draw_seeds
from .textbook import textbook_evograd


@dataclass(frozen=True)
class EvoGrad(Estimator):
    """dL_V(theta*)/dlambda through the softmax-weighted mean of K perturbed copies of theta.

        theta_k = theta + eps_k,  l_k = L_T(theta_k, lambda),  w = softmax(-l / tau)
        theta*  = sum_k w_k theta_k,   hypergradient = dL_V(theta*, lambda)/dlambda

    Since dL_V/dw_k = <g, theta_k> with g = dL_V/dtheta at theta*, and the dw_k sum to zero,

        hypergradient = sum_k c_k dl_k/dlambda + direct term,
        c_k = -(w_k / tau) (<g, eps_k> - sum_j w_j <g, eps_j>),

    which is what the three modes compute; they differ in cost, not in the number:

    ==========  =========================  =====================  ===========================
    mode        forwards (inner + outer)   backwards              memory beyond theta
    ==========  =========================  =====================  ===========================
    graph       K + 1                      1, through everything  K graphs of L_T, K eps
    streaming   K + 1                      K to lambda, 1 to      1 graph, 2 vectors of theta's
                                           theta                  size, K of lambda's
    forward     K + (K - 1) JVPs           K to lambda            no graph through the network;
                                                                  as streaming otherwise
    ==========  =========================  =====================  ===========================

    The graph of L_T leads to lambda only (theta is detached): if lambda enters after the network
    (loss weights), the network's activations are not kept at all. ``graph`` is the textbook, by
    torch.func; ``streaming`` drops the graph of each l_k at once and regenerates eps_k from its
    seed; ``forward`` replaces the backward through the network at theta* by forward-mode
    derivatives of L_V along eps_k - eps_1, so K - 1 = 1 of them for K = 2. A problem that has
    ``inner_losses`` (BatchedCandidates) gets all candidates in one call, whatever the mode.

    In expectation, for small sigma, the indirect term is that of one unrolled SGD step (T1T2)
    with step size ``effective_inner_lr`` = sigma^2 (1 - 1/K) / tau, or sigma^2 / tau if antithetic.

    num_candidates: K, at least 2. sigma: scale of eps. temperature: tau. perturbation: "sign",
    eps = sigma * sign(N(0, I)), or "gaussian", eps = sigma * N(0, I). antithetic: candidates in
    pairs +eps, -eps (K even). perturb: which parameters, by name, are perturbed; None is all.
    common_noise: randomness inside the inner loss (dropout) is the same for all candidates, which
    leaves the mean as it is and takes the noise's differences out of the estimate; False draws it
    anew for each. All perturbed parameters must share one dtype and device.

    outer_loss is L_V at theta*. Diagnostics: ``losses`` l (K,), ``weights`` w (K,),
    ``coefficients`` c (K,) (not in mode graph).
    """

    num_candidates: int = 2
    sigma: float = 1e-3
    temperature: float = 0.05
    perturbation: Literal["sign", "gaussian"] = "sign"
    antithetic: bool = False
    mode: Literal["streaming", "graph", "forward"] = "streaming"
    perturb: Callable[[str], bool] | None = None
    common_noise: bool = True

    def __post_init__(self) -> None:
        if self.num_candidates < 2:
            raise ValueError(
                f"num_candidates must be at least 2 (softmax over one candidate has no gradient), "
                f"got {self.num_candidates}"
            )
        if self.antithetic and self.num_candidates % 2:
            raise ValueError(f"antithetic needs an even num_candidates, got {self.num_candidates}")
        check_candidates(self.sigma, self.temperature, self.perturbation)
        if self.mode not in ("streaming", "graph", "forward"):
            raise ValueError(f"mode must be streaming, graph or forward, got {self.mode!r}")

    @property
    def effective_inner_lr(self) -> float:
        """Step size of the T1T2 hypergradient that EvoGrad equals in expectation (small sigma)."""
        pairs = 1.0 if self.antithetic else 1.0 - 1.0 / self.num_candidates
        return self.sigma**2 * pairs / self.temperature

    def draw_seeds(self, generator: torch.Generator | None) -> Seeds:
        *candidates, inner, outer = draw_seeds(self.num_candidates + 2, generator)
        return Seeds([inner], outer, candidates)

    def estimate(self, at: Point, noise: Tensors | None = None) -> Estimate:
        """noise: eps itself, by name, each (K, *shape of the parameter), instead of drawing it.

        Raises ValueError if no parameter is perturbed.
        """
        names = [n for n in at.theta if self.perturb is None or self.perturb(n)]
        if not names:
            raise ValueError("perturb selects none of the parameters")
        candidates = Candidates(
            at,
            names,
            self.num_candidates,
            self.sigma,
            self.perturbation,
            self.antithetic,
            noise,
        )
        # The seed of the inner loss, changed for each candidate or for none.
        variations = [0] * self.num_candidates if self.common_noise else list(at.seeds.own)
        if self.mode == "graph":
            return self._by_graph(at, candidates, variations)
        return self._by_terms(at, candidates, variations)

    def _by_graph(self, at: Point, candidates: Candidates, variations: list[int]) -> Estimate:
        def inner_losses(stacked: Tensors, hyper: Tensors) -> Tensor:
            if candidates.batched:
                return candidates.losses_at_once(stacked, hyper)
            return candidates.losses_in_turn(stacked, hyper, variations)

        grads, outer_loss, losses, weights = textbook_evograd(
            inner_losses,
            at.outer_loss,
            candidates.theta,
            at.hyper_values,
            candidates.stacked_noise(),
            self.temperature,
        )
        return Estimate(outer_loss, grads, diagnostics={"losses": losses, "weights": weights})

    def _by_terms(self, at: Point, candidates: Candidates, variations: list[int]) -> Estimate:
        """sum_k c_k dl_k/dlambda + direct term, one graph at a time."""
        if candidates.batched:
            noise = candidates.stacked_noise()
            stacked = {n: t + noise[n] for n, t in candidates.theta.items()}
            del noise
            losses = candidates.losses_at_once(stacked, at.hyper)
            del stacked
        else:
            values, loss_grads = zip(
                *(
                    at.hyper_gradient(candidates.shifted(candidates.epsilon(k)), variation)
                    for k, variation in enumerate(variations)
                ),
                strict=True,
            )
            losses = torch.stack(values)
        weights = softmax_weights(losses.detach(), self.temperature)
        merged = candidates.shifted(candidates.weighted_noise(weights))
        slopes = _slopes_forward if self.mode == "forward" else _slopes_reverse
        outer_loss, direct, slope = slopes(at, candidates, merged)
        coefficients = -(weights / self.temperature) * (slope - (weights * slope).sum())
        diagnostics = {"losses": losses.detach(), "weights": weights, "coefficients": coefficients}
        if candidates.batched:
            found = gradients_or_none(losses, at.hyper, [coefficients.to(losses.dtype)])
            return Estimate(outer_loss, found, direct, diagnostics)
        found = {n: torch.zeros_like(h) for n, h in at.hyper_values.items()}
        for coefficient, loss_grad in zip(coefficients, loss_grads, strict=True):
            for n, grad in loss_grad.items():
                if grad is not None:
                    found[n] += coefficient.to(grad.dtype) * grad
        return Estimate(outer_loss, found, direct, diagnostics, reached=loss_grads)


def _slopes_reverse(
    at: Point, candidates: Candidates, merged: Tensors
) -> tuple[Tensor, Tensors | None, Tensor]:
    """L_V at theta*, its direct term, and <g, eps_k> (K,) with g from one backward."""
    outer_loss, g, direct = at.outer_step(merged)
    g = flat(g)
    slope = torch.stack([g @ candidates.epsilon(k) for k in range(candidates.count)])
    return outer_loss, direct, slope


def _slopes_forward(
    at: Point, candidates: Candidates, merged: Tensors
) -> tuple[Tensor, Tensors | None, Tensor]:
    """The same with <g, eps_k - eps_1> by forward-mode derivatives: only differences matter."""
    slopes, outer_loss, direct = [], None, None
    first = candidates.epsilon(0)
    for k in range(1, candidates.count):
        direction = candidates.split(candidates.epsilon(k) - first)
        with forward_ad.dual_level(), torch.set_grad_enabled(outer_loss is None):
            duals = {n: forward_ad.make_dual(t, direction[n]) for n, t in merged.items()}
            value, slope = forward_ad.unpack_dual(at.outer_loss(duals))
        if outer_loss is None:
            # The first evaluation also yields L_V and, if lambda occurs in it, the direct term.
            outer_loss = value.detach()
            direct = gradients(value, at.hyper) if value.requires_grad else None
            slopes.append(torch.zeros_like(outer_loss))
        slopes.append(torch.zeros_like(outer_loss) if slope is None else slope.detach())
        del value, slope
    return outer_loss, direct, torch.stack(slopes)
