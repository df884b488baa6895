"""EvoGrad: hypergradients from first-order derivatives of a one-step evolutionary update.

Bohdal, Yang, Hospedales. EvoGrad: Efficient Gradient-Based Meta-Learning and Hyperparameter
Optimization. NeurIPS 2021, arXiv:2106.10575.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from common.hypergrad.problem import (
    BatchedCandidates,
    BilevelProblem,
    Hypergradient,
    Tensors,
    added,
    check_dependence,
    detached,
    gradients,
    gradients_or_none,
    leaves,
    outer_gradients,
    with_direct_term,
    zeros_for_none,
)
from common.hypergrad.randomness import draw_seeds, random_bits, replayed_randomness


@dataclass(frozen=True)
class EvoGrad:
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
        if not self.sigma > 0:
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.perturbation not in ("sign", "gaussian"):
            raise ValueError(f"perturbation must be sign or gaussian, got {self.perturbation!r}")
        if self.mode not in ("streaming", "graph", "forward"):
            raise ValueError(f"mode must be streaming, graph or forward, got {self.mode!r}")

    @property
    def effective_inner_lr(self) -> float:
        """Step size of the T1T2 hypergradient that EvoGrad equals in expectation (small sigma)."""
        pairs = 1.0 if self.antithetic else 1.0 - 1.0 / self.num_candidates
        return self.sigma**2 * pairs / self.temperature

    def __call__(
        self,
        problem: BilevelProblem,
        params: Tensors,
        hyper: Tensors,
        inner_batch: Any,
        outer_batch: Any,
        generator: torch.Generator | None = None,
        noise: Tensors | None = None,
    ) -> Hypergradient:
        """The hypergradient at ``params`` (theta) and ``hyper`` (lambda).

        noise: eps itself, by name, each (K, *shape of the parameter), instead of drawing it.
        Raises ValueError if no parameter is perturbed or nothing depends on ``hyper``.
        """
        theta = detached(params)
        perturbed = [n for n in theta if self.perturb is None or self.perturb(n)]
        if not perturbed:
            raise ValueError("perturb selects none of the parameters")
        *candidate_seeds, inner_seed, outer_seed = draw_seeds(self.num_candidates + 2, generator)
        with replayed_randomness([*theta.values(), *hyper.values()]) as replay:
            evaluation = _Evaluation(
                problem=problem,
                theta=theta,
                inner_batch=inner_batch,
                outer_batch=outer_batch,
                candidates=_Candidates(
                    {n: theta[n] for n in perturbed},
                    lambda k: self._draw(theta, perturbed, candidate_seeds, noise, k),
                    self.num_candidates,
                ),
                seed_inner=lambda k: replay(
                    inner_seed if self.common_noise else inner_seed ^ candidate_seeds[k]
                ),
                seed_outer=lambda: replay(outer_seed),
            )
            if self.mode == "graph":
                return _by_graph(evaluation, hyper, self.temperature)
            return _by_terms(evaluation, hyper, self.temperature, forward=self.mode == "forward")

    def _draw(
        self, theta: Tensors, names: list[str], seeds: list[int], noise: Tensors | None, k: int
    ) -> Tensor:
        """eps_k as one vector over all perturbed parameters, a fresh tensor."""
        if noise is not None:
            return torch.cat([noise[n][k].reshape(-1) for n in names])
        size = sum(theta[n].numel() for n in names)
        sign = 1.0
        if self.antithetic and k % 2:
            k, sign = k - 1, -1.0
        like = theta[names[0]]
        generator = torch.Generator(like.device).manual_seed(seeds[k])
        scale = sign * self.sigma
        if self.perturbation == "gaussian":
            vector = torch.empty(size, dtype=like.dtype, device=like.device)
            return vector.normal_(generator=generator).mul_(scale)
        return random_bits(size, generator).to(like.dtype).mul_(2 * scale).sub_(scale)


@dataclass(frozen=True)
class _Candidates:
    """theta + eps_k, with eps_k regenerated whenever it is asked for."""

    perturbed: dict[str, Tensor]
    epsilon: Callable[[int], Tensor]
    count: int

    def __post_init__(self) -> None:
        kinds = {(t.dtype, t.device) for t in self.perturbed.values()}
        if len(kinds) > 1:
            raise ValueError(
                "perturbed parameters must share one dtype and device, got "
                f"{sorted(map(str, kinds))}"
            )

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector over all perturbed parameters as views by name."""
        pieces = vector.split([t.numel() for t in self.perturbed.values()])
        return {
            n: piece.view(t.shape)
            for (n, t), piece in zip(self.perturbed.items(), pieces, strict=True)
        }

    def shifted(self, vector: Tensor) -> dict[str, Tensor]:
        """theta + vector, for the perturbed parameters."""
        return added(self.perturbed, self.split(vector))

    def weighted_noise(self, weights: Tensor) -> Tensor:
        """sum_k w_k eps_k, so that theta* = theta + this (the weights sum to one)."""
        total = self.epsilon(0)
        weights = weights.to(total.dtype)
        total = total * weights[0]
        for k in range(1, self.count):
            total += self.epsilon(k) * weights[k]
        return total


@dataclass(frozen=True)
class _Evaluation:
    """The problem at one theta on one pair of batches: losses of candidates and of theta*."""

    problem: BilevelProblem
    theta: dict[str, Tensor]
    inner_batch: Any
    outer_batch: Any
    candidates: _Candidates
    seed_inner: Callable[[int], None]
    seed_outer: Callable[[], None]

    def losses(self, hyper: Tensors) -> Iterator[Tensor]:
        """l_1 .. l_K, each with a graph to ``hyper`` only."""
        for k in range(self.candidates.count):
            theta_k = self.theta | self.candidates.shifted(self.candidates.epsilon(k))
            self.seed_inner(k)
            yield self.problem.inner_loss(theta_k, hyper, self.inner_batch)

    def losses_at_once(self, hyper: Tensors) -> Tensor:
        """The same through the problem's own ``inner_losses``, shape (K,)."""
        count = self.candidates.count
        noise = [self.candidates.split(self.candidates.epsilon(k)) for k in range(count)]
        stacked = {n: t.expand(count, *t.shape) for n, t in self.theta.items()}
        for n, t in self.candidates.perturbed.items():
            stacked[n] = t + torch.stack([eps[n] for eps in noise])
        del noise
        self.seed_inner(0)
        losses = self.problem.inner_losses(stacked, hyper, self.inner_batch)
        if losses.shape != (count,):
            raise ValueError(f"inner_losses must return shape ({count},), got {losses.shape}")
        return losses

    @property
    def batched(self) -> bool:
        return isinstance(self.problem, BatchedCandidates)

    def outer_loss(self, perturbed: Tensors, hyper: Tensors) -> Tensor:
        self.seed_outer()
        return self.problem.outer_loss(self.theta | dict(perturbed), hyper, self.outer_batch)


def _softmax_weights(losses: Tensor, temperature: float) -> Tensor:
    """w = softmax(-l / tau), in float32 at least: half precision loses the differences."""
    dtype = torch.promote_types(losses.dtype, torch.float32)
    return torch.softmax(-losses.to(dtype) / temperature, dim=0)


def _by_graph(evaluation: _Evaluation, hyper: Tensors, temperature: float) -> Hypergradient:
    """The definition, differentiated as it stands by torch.func (so it can be vmapped)."""
    candidates = evaluation.candidates

    def outer_loss_of_hyper(hyper: Tensors) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if evaluation.batched:
            losses = evaluation.losses_at_once(hyper)
        else:
            losses = torch.stack(list(evaluation.losses(hyper)))
        weights = _softmax_weights(losses, temperature)
        noise = [candidates.epsilon(k) for k in range(candidates.count)]
        mean_noise = sum(w * eps for w, eps in zip(weights.to(noise[0].dtype), noise, strict=True))
        merged = candidates.shifted(mean_noise)
        return evaluation.outer_loss(merged, hyper), (losses, weights)

    value_and_grad = torch.func.grad_and_value(outer_loss_of_hyper, has_aux=True)
    grads, (outer_loss, (losses, weights)) = value_and_grad(detached(hyper))
    return Hypergradient(grads, outer_loss, {"losses": losses, "weights": weights})


def _by_terms(
    evaluation: _Evaluation, hyper: Tensors, temperature: float, forward: bool
) -> Hypergradient:
    """sum_k c_k dl_k/dlambda + direct term, one graph at a time."""
    hyper = leaves(hyper)
    candidates = evaluation.candidates
    loss_grads: list[dict[str, Tensor | None]] = []
    if evaluation.batched:
        losses = evaluation.losses_at_once(hyper)
    else:
        values = []
        for loss in evaluation.losses(hyper):
            loss_grads.append(gradients_or_none(loss, hyper))
            values.append(loss.detach())
            del loss  # and its graph, before the next candidate's
        losses = torch.stack(values)

    weights = _softmax_weights(losses.detach(), temperature)
    merged = candidates.shifted(candidates.weighted_noise(weights))
    slopes = _slopes_forward if forward else _slopes_reverse
    outer_loss, direct, slope = slopes(evaluation, hyper, merged)

    coefficients = -(weights / temperature) * (slope - (weights * slope).sum())
    if evaluation.batched:
        total = gradients_or_none(losses, hyper, [coefficients.to(losses.dtype)])
        check_dependence(total, direct)
        grads = zeros_for_none(total, hyper)
    else:
        check_dependence(*loss_grads, direct)
        grads = {n: torch.zeros_like(h) for n, h in hyper.items()}
        for coefficient, loss_grad in zip(coefficients, loss_grads, strict=True):
            for n, grad in loss_grad.items():
                if grad is not None:
                    grads[n] += coefficient.to(grad.dtype) * grad
    diagnostics = {"losses": losses.detach(), "weights": weights, "coefficients": coefficients}
    return Hypergradient(with_direct_term(grads, direct), outer_loss, diagnostics)


def _slopes_reverse(
    evaluation: _Evaluation, hyper: Tensors, merged: Tensors
) -> tuple[Tensor, dict[str, Tensor] | None, Tensor]:
    """L_V at theta*, its direct term, and <g, eps_k> (K,) with g from one backward."""
    candidates = evaluation.candidates
    merged = leaves(merged)
    outer_loss = evaluation.outer_loss(merged, hyper)
    g, direct = outer_gradients(outer_loss, merged, hyper)
    outer_loss = outer_loss.detach()
    g = torch.cat([grad.reshape(-1) for grad in g.values()])
    slope = torch.stack([g @ candidates.epsilon(k) for k in range(candidates.count)])
    return outer_loss, direct, slope


def _slopes_forward(
    evaluation: _Evaluation, hyper: Tensors, merged: Tensors
) -> tuple[Tensor, dict[str, Tensor] | None, Tensor]:
    """The same with <g, eps_k - eps_1> by forward-mode derivatives: only differences matter."""
    candidates = evaluation.candidates
    slopes, outer_loss, direct = [], None, None
    first = candidates.epsilon(0)
    for k in range(1, candidates.count):
        direction = candidates.split(candidates.epsilon(k) - first)
        with forward_ad.dual_level(), torch.set_grad_enabled(outer_loss is None):
            duals = {n: forward_ad.make_dual(t, direction[n]) for n, t in merged.items()}
            value, slope = forward_ad.unpack_dual(evaluation.outer_loss(duals, hyper))
        if outer_loss is None:
            # The first evaluation also yields L_V and, if lambda occurs in it, the direct term.
            outer_loss = value.detach()
            direct = gradients(value, hyper) if value.requires_grad else None
            slopes.append(torch.zeros_like(outer_loss))
        slopes.append(torch.zeros_like(outer_loss) if slope is None else slope.detach())
        del value, slope
    return outer_loss, direct, torch.stack(slopes)
