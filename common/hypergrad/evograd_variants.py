"""EvoGrad's number by other ways, and with a candidate at theta: one step of it replaced each.

Bohdal, Yang, Hospedales (EvoGrad, NeurIPS 2021, arXiv:2106.10575). By differences of validation
losses it is a zeroth-order method.

===================  =========================  =====================  ==========================
class                forwards (inner + outer)   backwards              memory beyond theta
===================  =========================  =====================  ==========================
EvoGrad              K + 1                      K to lambda, 1 to      1 graph, 2 vectors of
                                                theta                  theta's size, K of lambda's
EvoGradGraph         K + 1                      1, through everything  K graphs of L_T, K eps
EvoGradForward       K + (K - 1) JVPs           K to lambda            no graph through the
                                                                       network; else as EvoGrad
EvoGradDifferences   2 K                        K to lambda            the same
===================  =========================  =====================  ==========================
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from .base import Estimate, GivenAnchor, LossGradient, Point, Seeds
from .evograd import EvoGrad, Noise, Slopes, softmax_weights, stacked_noise, weighted_sum
from .problem import Tensors, flat, gradients, gradients_or_none, split_like
from .randomness import draw_seeds


@dataclass(frozen=True)
class EvoGradGraph(EvoGrad):
    """EvoGrad's number as the paper writes it, by torch.func through one graph: the textbook.

    For reading, checking and vmap. Diagnostics: ``losses``, ``weights``.
    """

    def estimate(self, at: Point, noise: Tensors | None = None) -> Estimate:
        eps = self.noise(at, noise)
        at.moved(eps(self.num_candidates - 1), "sigma", self.sigma)  # raises if rounding takes it

        def losses_at(candidates: Tensors, hyper: Tensors) -> Tensor:
            return self.losses_at(at, candidates, hyper)

        every, tau = stacked_noise(at, eps, self.num_candidates), self.temperature
        grads, outer_loss, losses, weights = textbook_evograd(
            losses_at, at.outer_loss, at.theta, at.hyper_values, every, tau
        )
        return Estimate(outer_loss, grads, diagnostics={"losses": losses, "weights": weights})


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
            raise ValueError(
                "neither inner_losses nor outer_loss depends on any hyperparameter: use the "
                "tensors that they are handed, and do not detach them"
            )
        return loss, (losses, weights)

    grads, (loss, rest) = torch.func.grad_and_value(loss_and_weights, has_aux=True)(dict(hyper))
    return grads, loss, *rest


@dataclass(frozen=True)
class EvoGradForward(EvoGrad):
    """EvoGrad's number without a backward through the network at theta*.

    The slopes are forward-mode derivatives of L_V along eps_k - eps_1, since only differences over
    k matter: K - 1 = 1 of them for K = 2.
    """

    def slopes(self, at: Point, eps: Noise, w: Tensor) -> Slopes:
        at.examination.need("a forward-mode derivative", "outer_loss")
        star, first, slopes = self.star(at, eps, w), eps(0), []
        for k in range(1, self.num_candidates):
            direction = split_like(eps(k) - first, star)
            with forward_ad.dual_level(), torch.set_grad_enabled(k == 1):
                duals = {n: forward_ad.make_dual(t, direction[n]) for n, t in star.items()}
                value, slope = forward_ad.unpack_dual(at.outer_loss(duals))
            if k == 1:
                # The first evaluation also yields L_V and, if lambda occurs in it, the direct term.
                outer_loss = value.detach()
                direct = gradients(value, at.hyper) if value.requires_grad else None
                slopes.append(torch.zeros_like(outer_loss))
            slopes.append(torch.zeros_like(outer_loss) if slope is None else slope.detach())
            del value, slope
        return outer_loss, direct, torch.stack(slopes)


@dataclass(frozen=True)
class EvoGradDifferences(EvoGrad):
    """EvoGrad's number up to O(sigma^2) on a smooth loss, from forward passes alone.

    L_V(theta_k) - L_V(theta_1) takes the place of `<g, eps_k>`: only differences over k matter.
    A kink (ReLU) adds to the error, and in low precision rounding. outer_loss and the direct term
    are means over w of those at the candidates.
    """

    def estimate(self, at: Point, noise: Tensors | None = None) -> Estimate:
        eps = self.noise(at, noise)
        for k in range(self.num_candidates):  # no graph leads to theta, nor yet to L_T
            loss = at.outer_loss(at.moved(eps(k), "sigma", self.sigma))
            at.outer_values.append((loss.detach(), gradients_or_none(loss, at.hyper)))
            del loss
        return super().estimate(at, noise)

    def slopes(self, at: Point, eps: Noise, w: Tensor) -> Slopes:
        losses = torch.stack([loss for loss, _ in at.outer_values])
        slopes = losses.to(w.dtype)
        grads = weighted_sum(w, [grads for _, grads in at.outer_values])
        direct = {n: g for n, g in grads.items() if g is not None}
        # Without the common part, which rounding would leave a trace of in the coefficients.
        return (w * slopes).sum().to(losses.dtype), direct or None, slopes - slopes[0]


@dataclass(frozen=True)
class AnchoredEvoGrad(EvoGrad):
    """EvoGrad with eps_1 = 0, so that the base step may hand over its loss. For K = 2, eps_2 = eps,

        theta* = theta + w_2 eps,  g = dL_V/dtheta at theta*
        indirect term = -(w_1 w_2 / tau) <g, eps> (dl_2/dlambda - dl_1/dlambda)

    whose mean, for small sigma, is half of EvoGrad's, whose candidates lie further apart; the noise
    around it is the same relative to it: ``effective_inner_lr`` = sigma^2 (1 - 1/K)^2 / tau.
    Cost with ``anchor`` from the base step: 2 forwards, 1 backward to theta and 1 to lambda, beside
    a base step that also asks for dL_T/dlambda.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.antithetic:
            raise ValueError("antithetic candidates lie around theta, so none is anchored at it")

    @property
    def effective_inner_lr(self) -> float:
        return super().effective_inner_lr * (1.0 - 1.0 / self.num_candidates)

    def draw_seeds(self, generator: torch.Generator | None) -> Seeds:
        *candidates, inner, outer = draw_seeds(self.num_candidates + 1, generator)
        return Seeds([inner], outer, [0, *candidates])

    def estimate(
        self, at: Point, noise: Tensors | None = None, anchor: GivenAnchor = None
    ) -> Estimate:
        """anchor: the loss at theta, from the base step (``Anchor``)."""
        if anchor is not None and hasattr(at.problem, "inner_losses"):
            raise ValueError("anchor cannot be used with a problem that has inner_losses")
        at.given = anchor
        return super().estimate(at, noise)

    def noise(self, at: Point, given: Tensors | None) -> Noise:
        eps = super().noise(at, given)
        return lambda k: eps(k) if k or given is not None else torch.zeros_like(flat(at.theta))

    def loss_gradient(self, at: Point, eps: Noise, k: int) -> LossGradient:
        return super().loss_gradient(at, eps, k) if k else at.anchor()


@dataclass(frozen=True)
class AnchoredEvoGradDifferences(AnchoredEvoGrad, EvoGradDifferences):
    """AnchoredEvoGrad's number from forward passes alone, as ``EvoGradDifferences``.

    With K = 2 and ``anchor`` a training step is a base step and three forwards.
    """
