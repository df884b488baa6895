"""EvoGrad with its two candidates along the validation gradient, and T1-T2 by such a difference.

A variant of Bohdal, Yang, Hospedales (EvoGrad, NeurIPS 2021, arXiv:2106.10575). The difference is
that of Liu, Simonyan, Yang (DARTS, ICLR 2019, arXiv:1806.09055); along a preconditioned gradient,
of Choe et al. (Making Scalable Meta Learning Practical, SAMA, NeurIPS 2023, arXiv:2310.05674).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from .base import Estimate, Estimator, GivenAnchor, LossGradient, Point, check_positive
from .evograd import softmax_weights
from .inner_step import InnerStep, check_inner_step, current, stepped
from .problem import Grads, Tensors, norm, zeros_for_none
from .t1t2 import LookAhead


@dataclass(frozen=True)
class EvoGradAlongGradient(Estimator):
    """EvoGrad's hypergradient for K = 2 and eps_1 = -eps_2 = r g / |g|, g = dL_V/dtheta at theta.

        l+- = L_T(theta +- r g / |g|, lambda),  w = softmax(-(l+, l-) / tau)
        indirect term = sum_k c_k dl_k/dlambda = -(2 w+ w- r |g| / tau) (dl+/dlambda - dl-/dlambda)

    since `<g, eps>` = +-r |g|. The bracket is 2 r times the central difference of dL_T/dlambda
    along g / |g|, so this is

        -eta |g| (dl+/dlambda - dl-/dlambda) / (2 r)   with   eta = 4 w+ w- r^2 / tau,

    T1T2's one-step hypergradient of step eta with g at theta in place of theta': no sampling noise
    at all, where random candidates leave a noise that grows with the number of parameters. The
    softmax changes its size only: 4 w+ w- = 1 - tanh^2((l+ - l-) / (2 tau)), where l+ - l- is about
    2 r `<dL_T/dtheta, g / |g|>`. So r^2 / tau is too large for eta by a relative error of about
    (r |dL_T/dtheta| / tau)^2 at most: of second order in r, as the difference's own, but 400 times
    as large at tau = 0.05 as at 1, and the estimate vanishes where the losses differ by many tau.

    temperature: tau; None, the default, is the limit tau -> infinity at a fixed eta, ``inner_lr``:
    even weights, and no other error than that of a difference: a kink (ReLU) between the candidates
    and, in float32, rounding (as 1/r). inner_lr: eta, 1 if None; or the training's optimiser (SGD,
    Adam, AdamW), whose step's Jacobian J then takes the place of -eta and J g that of g (SAMA).
    Where lambda occurs in L_V too, eta weighs the indirect term against the direct one, so it must
    be the training's.

    one_sided: the candidates are theta and theta + r g / |g|, with eta = w_1 w_2 r^2 / tau, so that
    ``effective_inner_lr`` is a quarter if tau is given; the error of the difference is O(r), not
    O(r^2). It is one step of the fully first-order methods (Kwon, Kwon, Wright, Nowak. ICML 2023,
    arXiv:2301.10945).

    Cost: 3 forwards, 1 backward to theta, 2 to lambda, EvoGrad's for K = 2, and a forward and a
    backward to theta for Adam's Jacobian; memory: a plain step's. One-sided, with ``anchor`` from
    the base step: 2 forwards, 1 backward to theta, 1 to lambda.

    radius: r, in units of theta's Euclidean norm, not relative. outer_loss is L_V at theta.
    Diagnostics: ``losses`` l (2,), ``weights`` w (2,), ``coefficients`` c (2,),
    ``outer_grad_norm`` |g|.
    """

    radius: float = 1e-2
    temperature: float | None = None
    one_sided: bool = False
    inner_lr: InnerStep | None = None

    def __post_init__(self) -> None:
        check_positive(radius=self.radius)
        if self.temperature is not None:
            check_positive(temperature=self.temperature)
            if self.inner_lr is not None:
                raise ValueError("temperature sets the inner step, so inner_lr cannot be given too")
        check_inner_step(self.inner_step, optimizers=True)

    @property
    def inner_step(self) -> InnerStep:
        """inner_lr, with its default."""
        return 1.0 if self.inner_lr is None else self.inner_lr

    @property
    def effective_inner_lr(self) -> float:
        """Step size of the T1T2 hypergradient that it tends to as the radius shrinks."""
        if self.temperature is not None:
            return self.radius**2 / self.temperature / (4 if self.one_sided else 1)
        if isinstance(self.inner_step, Optimizer):
            raise ValueError("inner_lr is an optimiser, whose steps differ by parameter")
        return current(self.inner_step)

    def estimate(self, at: Point, anchor: GivenAnchor = None) -> Estimate:
        """anchor: the loss at theta, from the base step (``Anchor``); one-sided only."""
        if anchor is not None and not self.one_sided:
            raise ValueError("anchor needs EvoGradAlongGradient(one_sided=True)")
        outer_loss, g, direct = at.outer_step(at.theta)
        tau = self.temperature
        factor, direction = self._pulled_back(at, g) if tau is None else (1.0, g)
        length = norm(direction)
        signs = (0, 1) if self.one_sided else (1, -1)
        sides = [_side(at, direction, length, s * self.radius) for s in signs if s]
        if self.one_sided:
            at.given = anchor
            sides.insert(0, at.anchor())
        losses = torch.stack([loss for loss, _ in sides])
        if tau is not None:
            weights = softmax_weights(losses, tau)
            slopes = torch.stack([s * (self.radius * length) for s in signs])
            coefficients = -(weights / tau) * (slopes - (weights * slopes).sum())
        else:
            weights = torch.full_like(losses, 0.5)
            size = factor * length / ((signs[0] - signs[1]) * self.radius)
            coefficients = torch.stack([size, -size])
        diagnostics = {
            "losses": losses,
            "weights": weights,
            "coefficients": coefficients,
            "outer_grad_norm": length if direction is g else norm(g),
        }
        return Estimate(outer_loss, _difference(at, sides, coefficients[0]), direct, diagnostics)

    def _pulled_back(self, at: Point, g: Tensors) -> tuple[float, Tensors]:
        """The Jacobian of the inner step times g: a factor, and a vector."""
        step = self.inner_step
        if not isinstance(step, Optimizer):
            return -current(step), g
        if isinstance(step, SGD):  # whose Jacobian does not depend on dL_T/dtheta
            found = stepped(step, at.params, at.theta, at.theta)
        else:
            found = at.stepped(step)[1]
        return found.factor, found.pulled_back(g)


@dataclass(frozen=True)
class FiniteDifference(LookAhead):
    """T1T2's hypergradient with its mixed derivative by a central difference along v.

        theta+- = theta +- r v / |v|,   v = dL_V/dtheta at theta' = theta - eta dL_T/dtheta
        indirect term = -eta |v| (dL_T/dlambda(theta+) - dL_T/dlambda(theta-)) / (2 r)

    The error is O(r^2) on smooth networks; a kink (ReLU) between theta- and theta+ adds an error
    that does not vanish with r, and in float32 rounding grows as 1/r. Cost: 4 forwards, 2 backwards
    to theta, 2 to lambda; memory: a plain step's.

    radius: r, in units of theta's Euclidean norm, not relative. The rest as T1T2.
    """

    radius: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(radius=self.radius)

    def mixed_product(self, at: Point, vector: Tensors, factor: float) -> Grads:
        length = norm(vector)
        sides = [_side(at, vector, length, s * self.radius) for s in (1, -1)]
        return _difference(at, sides, factor * length / (2 * self.radius))


def _difference(at: Point, sides: Sequence[LossGradient], factor: Tensor) -> dict[str, Tensor]:
    """factor times the first side's dL_T/dlambda less the second's, by name."""
    first, second = (zeros_for_none(grads, at.hyper) for _, grads in sides)
    return {n: factor * (first[n] - second[n]) for n in at.hyper}


def _side(at: Point, direction: Tensors, length: Tensor, radius: float) -> LossGradient:
    """L_T and dL_T/dlambda at theta + radius * ``direction`` / ``length``."""
    # At direction = 0 this is theta; the clamp keeps the scale from becoming 0 / 0.
    scale = radius / length.clamp_min(torch.finfo(length.dtype).tiny)
    return at.hyper_gradient(at.moved(direction, "radius", radius, scale))
