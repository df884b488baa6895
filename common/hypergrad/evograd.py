"""EvoGrad: hypergradients from first-order derivatives of a one-step evolutionary update.

Bohdal, Yang, Hospedales. EvoGrad: Efficient Gradient-Based Meta-Learning and Hyperparameter
Optimization. NeurIPS 2021, arXiv:2106.10575.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from .base import Estimate, Estimator, GivenAnchor, LossGradient, Point, Seeds, check_positive
from .candidates import Candidates, coefficients_of, softmax_weights
from .problem import (
    UNUSED_HYPER,
    Grads,
    Tensors,
    flat,
    gradients,
    gradients_or_none,
    split_like,
    sum_or_none,
)
from .randomness import Perturbation, draw_seeds

Mode = Literal["streaming", "graph", "forward", "differences"]
Slopes = tuple[Tensor, Tensors | None, Tensor]
"""L_V, its direct term (None if there is none), and <g, eps_k> (K,) up to what all k share."""


@dataclass(frozen=True)
class EvoGrad(Estimator):
    """dL_V(theta*)/dlambda through the softmax-weighted mean of K perturbed copies of theta.

        theta_k = theta + eps_k,  l_k = L_T(theta_k, lambda),  w = softmax(-l / tau)
        theta*  = sum_k w_k theta_k,   hypergradient = dL_V(theta*, lambda)/dlambda

    Since dL_V/dw_k = <g, theta_k> with g = dL_V/dtheta at theta*, and the dw_k sum to zero,

        hypergradient = sum_k c_k dl_k/dlambda + direct term,
        c_k = -(w_k / tau) (<g, eps_k> - sum_j w_j <g, eps_j>),

    which is what the modes compute:

    ===========  =========================  =====================  ==========================
    mode         forwards (inner + outer)   backwards              memory beyond theta
    ===========  =========================  =====================  ==========================
    graph        K + 1                      1, through everything  K graphs of L_T, K eps
    streaming    K + 1                      K to lambda, 1 to      1 graph, 2 vectors of
                                            theta                  theta's size, K of lambda's
    forward      K + (K - 1) JVPs           K to lambda            no graph through the
                                                                   network; else as streaming
    differences  2 K                        K to lambda            the same
    ===========  =========================  =====================  ==========================

    The graph of L_T leads to lambda only (theta is detached): if lambda enters after the network
    (loss weights), the network's activations are not kept at all. ``graph`` is the textbook, by
    torch.func; ``streaming`` drops the graph of each l_k at once and regenerates eps_k from its
    seed; ``forward`` replaces the backward through the network at theta* by forward-mode
    derivatives of L_V along eps_k - eps_1, so K - 1 = 1 of them for K = 2. These three give the
    same number. ``differences`` takes L_V(theta_k) for <g, eps_k>, since only differences over k
    matter: the same up to O(sigma^2) on a smooth loss (a kink, as of ReLU, adds to it, and in low
    precision rounding), from forward passes alone; L_V and its direct term are means over w. A
    problem that has ``inner_losses`` (BatchedCandidates) gets all candidates in one call, whatever
    the mode.

    anchored: theta_1 = theta (eps_1 = 0). The base step may hand its loss over as ``anchor``: a
    training step with K = 2 and ``differences`` is then a base step and three forwards.

    In expectation, for small sigma, the indirect term is that of one unrolled SGD step (T1T2)
    with step size ``effective_inner_lr`` = sigma^2 (1 - 1/K) / tau; sigma^2 / tau if antithetic;
    sigma^2 (1 - 1/K)^2 / tau if anchored.

    num_candidates: K, at least 2. sigma: scale of eps. temperature: tau. perturbation: "sign",
    eps = sigma * sign(N(0, I)), or "gaussian", eps = sigma * N(0, I). antithetic: candidates in
    pairs +eps, -eps (K even). perturb: which parameters, by name, are perturbed; None is all.
    common_noise: randomness inside the inner loss (dropout) is the same for all candidates, which
    leaves the mean as it is and takes the noise's differences out of the estimate; False draws it
    anew for each. All perturbed parameters must be on one device.

    outer_loss is L_V at theta* (differences: sum_k w_k L_V(theta_k)). Diagnostics: ``losses``
    l (K,), ``weights`` w (K,), ``coefficients`` c (K,) (not in mode graph).
    """

    num_candidates: int = 2
    sigma: float = 1e-3
    temperature: float = 0.05
    perturbation: Perturbation = "sign"
    antithetic: bool = False
    mode: Mode = "streaming"
    perturb: Callable[[str], bool] | None = None
    common_noise: bool = True
    anchored: bool = False

    def __post_init__(self) -> None:
        if self.num_candidates < 2:
            raise ValueError(
                f"num_candidates must be at least 2 (softmax over one candidate has no gradient), "
                f"got {self.num_candidates}"
            )
        if self.antithetic and self.num_candidates % 2:
            raise ValueError(f"antithetic needs an even num_candidates, got {self.num_candidates}")
        if self.antithetic and self.anchored:
            raise ValueError("antithetic candidates lie around theta, so none is anchored at it")
        check_positive(sigma=self.sigma, temperature=self.temperature)
        for name, kinds in (("perturbation", Perturbation), ("mode", Mode)):
            if (value := getattr(self, name)) not in get_args(kinds):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(kinds))}, got {value!r}"
                )

    @property
    def effective_inner_lr(self) -> float:
        """Step size of the T1T2 hypergradient that EvoGrad equals in expectation (small sigma)."""
        share = 1.0 if self.antithetic else 1.0 - 1.0 / self.num_candidates
        return self.sigma**2 * (share**2 if self.anchored else share) / self.temperature

    def draw_seeds(self, generator: torch.Generator | None) -> Seeds:
        drawn = self.num_candidates - self.anchored
        *candidates, inner, outer = draw_seeds(drawn + 2, generator)
        return Seeds([inner], outer, [0, *candidates] if self.anchored else candidates)

    def estimate(
        self, at: Point, noise: Tensors | None = None, anchor: GivenAnchor = None
    ) -> Estimate:
        """noise: eps itself, by name, each (K, *shape of the parameter), instead of drawing it.

        anchor: the loss at theta, from the base step (``Anchor``). Raises ValueError if no
        parameter is perturbed, or if ``anchor`` is given and cannot be used.
        """
        if anchor is not None and (not self.anchored or self.mode == "graph"):
            raise ValueError("anchor needs EvoGrad(anchored=True) in another mode than graph")
        candidates = Candidates(at, self, noise)
        if self.mode == "graph":
            return self._by_graph(at, candidates)
        return self._by_terms(at, candidates, anchor)

    def _by_graph(self, at: Point, candidates: Candidates) -> Estimate:
        candidates.candidate(self.num_candidates - 1)  # raises if rounding takes the perturbation
        noise, tau = candidates.stacked_noise(), self.temperature
        grads, outer_loss, losses, weights = textbook_evograd(
            candidates.losses, at.outer_loss, candidates.theta, at.hyper_values, noise, tau
        )
        return Estimate(outer_loss, grads, diagnostics={"losses": losses, "weights": weights})

    def _by_terms(self, at: Point, candidates: Candidates, anchor: GivenAnchor) -> Estimate:
        """sum_k c_k dl_k/dlambda + direct term, one graph at a time."""
        # Before a graph of L_T exists, the base step's (``anchor``) in particular.
        values = _outer_values(at, candidates) if self.mode == "differences" else []
        loss_grads: list[Grads] = []
        if candidates.batched:
            if anchor is not None:
                raise ValueError("anchor cannot be used with a problem that has inner_losses")
            noise = candidates.stacked_noise()
            stacked = {n: t + noise.pop(n) for n, t in candidates.theta.items()}
            losses = candidates.losses(stacked, at.hyper)
        else:
            pairs = self.over_candidates(lambda k: candidates.loss_gradient(k, anchor))
            losses = torch.stack([loss for loss, _ in pairs])
            loss_grads = [grads for _, grads in pairs]
        weights = softmax_weights(losses.detach(), self.temperature)
        if self.mode == "differences":
            outer_loss, direct, slope = _slopes_by_differences(values, weights)
        else:
            by = _slopes_forward if self.mode == "forward" else _slopes_reverse
            outer_loss, direct, slope = by(at, candidates, candidates.merged(weights))
        coefficients = coefficients_of(weights, slope, self.temperature)
        diagnostics = {"losses": losses.detach(), "weights": weights, "coefficients": coefficients}
        if candidates.batched:
            found = gradients_or_none(losses, at.hyper, [coefficients.to(losses.dtype)])
        else:
            found = weighted_sum(coefficients, loss_grads)
        return Estimate(outer_loss, found, direct, diagnostics)

    def over_candidates(self, evaluate: Callable[[int], LossGradient]) -> list[LossGradient]:
        """l_k and dl_k/dlambda for all k. Overridden where several processes share them."""
        # The first one last: it may be the base step's.
        return [evaluate(k) for k in reversed(range(self.num_candidates))][::-1]


@dataclass(frozen=True)
class AnchoredEvoGrad(EvoGrad):
    """EvoGrad(anchored=True): eps_1 = 0. For K = 2, with eps_2 = eps,

        theta* = theta + w_2 eps,  g = dL_V/dtheta at theta*
        indirect term = -(w_1 w_2 / tau) <g, eps> (dl_2/dlambda - dl_1/dlambda)

    whose mean, for small sigma, is half of EvoGrad's, whose candidates lie further apart; the noise
    around it is the same relative to it. With ``anchor`` from the base step the cost is 2 forwards,
    1 backward to theta and 1 to lambda, beside a base step that also asks for dL_T/dlambda.
    """

    anchored: bool = True


def textbook_evograd(
    inner_losses: Callable[[Tensors, Tensors], Tensor],
    outer_loss: Callable[[Tensors, Tensors], Tensor],
    theta: Tensors,
    hyper: Tensors,
    noise: Tensors,
    temperature: float,
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """EvoGrad as the paper writes it: dL_V(theta*, lambda)/dlambda, L_V, l (K,) and w (K,).

        theta_k = theta + eps_k,  l_k = L_T(theta_k, lambda),  w = softmax(-l / tau)
        theta* = theta + sum_k w_k eps_k

    By torch.func, so it can be vmapped. inner_losses: (all theta_k, (K, *shape) by name; lambda) to
    l. outer_loss: (theta*, lambda) to L_V. noise: eps, (K, *shape) by name. Raises ValueError if
    L_V does not depend on lambda.
    """

    def loss_and_weights(hyper: Tensors) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        losses = inner_losses({n: theta[n] + eps for n, eps in noise.items()}, hyper)
        weights = softmax_weights(losses, temperature)
        merged = {
            n: theta[n] + sum(w * e for w, e in zip(weights.to(eps.dtype), eps, strict=True))
            for n, eps in noise.items()
        }
        loss = outer_loss(merged, hyper)
        if not loss.requires_grad:
            raise ValueError(UNUSED_HYPER)
        return loss, (losses, weights)

    grads, (loss, rest) = torch.func.grad_and_value(loss_and_weights, has_aux=True)(dict(hyper))
    return grads, loss, *rest


def weighted_sum(weights: Tensor, gradients: Sequence[Grads]) -> Grads:
    """sum_k w_k times the k-th gradient, by name; None where all are None."""
    total: Grads = {}
    for weight, found in zip(weights, gradients, strict=True):
        terms = {n: None if g is None else weight.to(g.dtype) * g for n, g in found.items()}
        total = sum_or_none(total, terms)
    return total


def _outer_values(at: Point, candidates: Candidates) -> list[LossGradient]:
    """L_V and dL_V/dlambda at every candidate; no graph leads to theta."""
    losses = (at.outer_loss(candidates.candidate(k)) for k in range(candidates.count))
    return [(loss.detach(), gradients_or_none(loss, at.hyper)) for loss in losses]


def _slopes_by_differences(values: Sequence[LossGradient], weights: Tensor) -> Slopes:
    """sum_k w_k L_V(theta_k), the same mean of the direct terms, and L_V(theta_k) - L_V(theta_1)
    (K,): without the common part, which rounding would leave a trace of in the coefficients."""
    losses = torch.stack([loss for loss, _ in values])
    slopes = losses.to(weights.dtype)
    grads = weighted_sum(weights, [grads for _, grads in values])
    direct = {n: g for n, g in grads.items() if g is not None}
    return (weights * slopes).sum().to(losses.dtype), direct or None, slopes - slopes[0]


def _slopes_reverse(at: Point, candidates: Candidates, merged: Tensors) -> Slopes:
    """With g = dL_V/dtheta at ``merged``, theta*, from one backward."""
    outer_loss, g, direct = at.outer_step(merged)
    vector = flat(g)
    slope = torch.stack([vector @ candidates.epsilon(k) for k in range(candidates.count)])
    return outer_loss, direct, slope


def _slopes_forward(at: Point, candidates: Candidates, merged: Tensors) -> Slopes:
    """The same, <g, eps_k - eps_1> by forward-mode derivatives: only differences matter."""
    at.refuse_compiled("outer_loss", "a forward-mode derivative")
    first, slopes = candidates.epsilon(0), []
    for k in range(1, candidates.count):
        direction = split_like(candidates.epsilon(k) - first, merged)
        with forward_ad.dual_level(), torch.set_grad_enabled(k == 1):
            duals = {n: forward_ad.make_dual(t, direction[n]) for n, t in merged.items()}
            value, slope = forward_ad.unpack_dual(at.outer_loss(duals))
        if k == 1:
            # The first evaluation also yields L_V and, if lambda occurs in it, the direct term.
            outer_loss = value.detach()
            direct = gradients(value, at.hyper) if value.requires_grad else None
            slopes.append(torch.zeros_like(outer_loss))
        slopes.append(torch.zeros_like(outer_loss) if slope is None else slope.detach())
        del value, slope
    return outer_loss, direct, torch.stack(slopes)
