"""EvoGrad: hypergradients from first-order derivatives of a one-step evolutionary update.

Bohdal, Yang, Hospedales. EvoGrad: Efficient Gradient-Based Meta-Learning and Hyperparameter
Optimization. NeurIPS 2021, arXiv:2106.10575. Other ways to the same number: evograd_variants.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from .base import Estimate, Estimator, LossGradient, Point, Seeds, check_positive
from .problem import Grads, Tensors, flat, gradients_or_none, split_like, strided_as
from .randomness import Perturbation, draw_seeds, perturbation

Noise = Callable[[int], Tensor]
"""k -> eps_k, a fresh vector over all perturbed parameters."""

Slopes = tuple[Tensor, Tensors | None, Tensor]
"""L_V, its direct term (None if there is none), and <g, eps_k> (K,) up to what all k share."""


@dataclass(frozen=True)
class EvoGrad(Estimator):
    """dL_V(theta*)/dlambda through the softmax-weighted mean of K perturbed copies of theta.

        theta_k = theta + eps_k,  l_k = L_T(theta_k, lambda),  w = softmax(-l / tau)
        theta*  = sum_k w_k theta_k,   hypergradient = dL_V(theta*, lambda)/dlambda

    Since dL_V/dw_k = `<g, theta_k>` with g = dL_V/dtheta at theta*, and the dw_k sum to zero,

        hypergradient = sum_k c_k dl_k/dlambda + direct term,
        c_k = -(w_k / tau) (<g, eps_k> - sum_j w_j <g, eps_j>).

    The graph of L_T leads to lambda only (theta is detached): if lambda enters after the network
    (loss weights), the network's activations are not kept at all. Each l_k's graph is dropped at
    once, and eps_k is drawn again from its seed whenever it is needed. Cost: K + 1 forwards, K
    backwards to lambda, 1 to theta; memory beyond theta: one graph, 2 vectors of theta's size, K of
    lambda's. A problem that has ``inner_losses`` (BatchedCandidates) gets all candidates in one
    call.

    In expectation, for small sigma, the indirect term is that of one unrolled SGD step (T1T2)
    with step size ``effective_inner_lr`` = sigma^2 (1 - 1/K) / tau; sigma^2 / tau if antithetic.

    num_candidates: K, at least 2. sigma: scale of eps. temperature: tau. perturbation: "sign",
    eps = sigma * sign(N(0, I)), or "gaussian", eps = sigma * N(0, I). antithetic: candidates in
    pairs +eps, -eps (K even). perturb: which parameters, by name, are perturbed; None is all.
    common_noise: randomness inside the inner loss (dropout) is the same for all candidates, which
    leaves the mean as it is and takes the noise's differences out of the estimate; False draws it
    anew for each. All perturbed parameters must be on one device.

    outer_loss is L_V at theta*. Diagnostics: ``losses`` l (K,), ``weights`` w (K,),
    ``coefficients`` c (K,).
    """

    num_candidates: int = 2
    sigma: float = 1e-3
    temperature: float = 0.05
    perturbation: Perturbation = "sign"
    antithetic: bool = False
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
        check_positive(sigma=self.sigma, temperature=self.temperature)
        if self.perturbation not in get_args(Perturbation):
            kinds = ", ".join(get_args(Perturbation))
            raise ValueError(f"perturbation must be one of {kinds}, got {self.perturbation!r}")

    @property
    def effective_inner_lr(self) -> float:
        """Step size of the T1T2 hypergradient that EvoGrad equals in expectation (small sigma)."""
        share = 1.0 if self.antithetic else 1.0 - 1.0 / self.num_candidates
        return self.sigma**2 * share / self.temperature

    def draw_seeds(self, generator: torch.Generator | None) -> Seeds:
        *candidates, inner, outer = draw_seeds(self.num_candidates + 2, generator)
        return Seeds([inner], outer, candidates)

    def estimate(self, at: Point, noise: Tensors | None = None) -> Estimate:
        """noise: eps itself, by name, each (K, *shape of the parameter), instead of drawing it.

        Raises ValueError if no parameter is perturbed.
        """
        eps, tau, at_once = self.noise(at, noise), self.temperature, None
        if hasattr(at.problem, "inner_losses"):
            every = stacked_noise(at, eps, self.num_candidates)
            at_once = self.losses_at(at, {n: t + every.pop(n) for n, t in at.theta.items()})
            losses = at_once.detach()
        else:
            pairs = self.over_candidates(lambda k: self.loss_gradient(at, eps, k))
            losses, grads = torch.stack([loss for loss, _ in pairs]), [g for _, g in pairs]
            del pairs  # the single losses
        w = softmax_weights(losses, tau)
        outer_loss, direct, slopes = self.slopes(at, eps, w)
        c = -(w / tau) * (slopes - (w * slopes).sum())
        if at_once is None:
            found = weighted_sum(c, grads)
        else:
            found = gradients_or_none(at_once, at.hyper, [c.to(at_once.dtype)])
        diagnostics = {"losses": losses, "weights": w, "coefficients": c}
        return Estimate(outer_loss, found, direct, diagnostics)

    def noise(self, at: Point, given: Tensors | None) -> Noise:
        """k -> eps_k, from its seed; ``at.theta`` becomes what is perturbed."""
        if self.perturb is not None:
            at.theta = {n: t for n, t in at.theta.items() if self.perturb(n)}
        if not at.theta:
            raise ValueError("perturb selects none of the parameters")
        if given is not None:
            return lambda k: torch.cat([given[n][k].reshape(-1) for n in at.theta])
        kind, theta, seeds = self.perturbation, at.theta, at.seeds.own
        if self.antithetic:
            signed = (self.sigma, -self.sigma)
            return lambda k: perturbation(kind, signed[k % 2], theta, seeds[k - k % 2])
        return lambda k: perturbation(kind, self.sigma, theta, seeds[k])

    def over_candidates(self, evaluate: Callable[[int], LossGradient]) -> list[LossGradient]:
        """l_k and dl_k/dlambda for all k. Overridden where several processes share them."""
        # The first one last: it may be the base step's.
        return [evaluate(k) for k in reversed(range(self.num_candidates))][::-1]

    def loss_gradient(self, at: Point, eps: Noise, k: int) -> LossGradient:
        """l_k and dl_k/dlambda."""
        variation = 0 if self.common_noise else at.seeds.own[k]
        return at.hyper_gradient(at.moved(eps(k), "sigma", self.sigma), variation)

    def losses_at(self, at: Point, candidates: Tensors, hyper: Tensors | None = None) -> Tensor:
        """l (K,) at the stacked ``candidates``, at once if the problem offers that."""
        count, hyper = self.num_candidates, at.hyper if hyper is None else hyper
        if not hasattr(at.problem, "inner_losses"):
            found = []
            for k in range(count):
                theta_k = {n: strided_as(at.theta[n], c[k]) for n, c in candidates.items()}
                variation = 0 if self.common_noise else at.seeds.own[k]
                found.append(at.inner_loss(theta_k, hyper, variation=variation))
            return torch.stack(found)
        every = {n: t.expand(count, *t.shape) for n, t in at.values.items()} | dict(candidates)
        with at.at_seed(at.seeds.inner[0]):
            losses = at.problem.inner_losses(every, dict(hyper), at.inner_batches[0])
        if losses.shape != (count,):
            raise ValueError(f"inner_losses must return shape ({count},), got {losses.shape}")
        return losses

    def star(self, at: Point, eps: Noise, w: Tensor) -> dict[str, Tensor]:
        """theta* = theta + sum_k w_k eps_k (the weights sum to one)."""
        total = eps(0)
        w = w.to(total.dtype)
        total = total * w[0]
        for k in range(1, self.num_candidates):
            total += eps(k) * w[k]
        return at.moved(total, "sigma", self.sigma)

    def slopes(self, at: Point, eps: Noise, w: Tensor) -> Slopes:
        """With g = dL_V/dtheta at theta*, from one backward."""
        outer_loss, g, direct = at.outer_step(self.star(at, eps, w))
        vector = flat(g)
        slopes = [vector @ eps(k) for k in range(self.num_candidates)]
        return outer_loss, direct, torch.stack(slopes)


def softmax_weights(losses: Tensor, temperature: float) -> Tensor:
    """w = softmax(-l / tau), in float32 at least: half precision loses the differences."""
    dtype = torch.promote_types(losses.dtype, torch.float32)
    return torch.softmax(-losses.to(dtype) / temperature, dim=0)


def weighted_sum(weights: Tensor, gradients: Sequence[Grads]) -> Grads:
    """sum_k w_k times the k-th gradient, by name; None where all are None."""
    total: dict[str, Tensor | None] = {}
    for weight, found in zip(weights, gradients, strict=True):
        for n, grad in found.items():
            before, term = total.get(n), None if grad is None else weight.to(grad.dtype) * grad
            total[n] = term if before is None else before if term is None else before + term
    return total


def stacked_noise(at: Point, eps: Noise, count: int) -> dict[str, Tensor]:
    """All eps_k by name, (K, *shape)."""
    noise = [split_like(eps(k), at.theta) for k in range(count)]
    return {n: torch.stack([by[n] for by in noise]) for n in at.theta}
