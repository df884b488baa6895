"""The hypergradient of many steps of SGD with momentum, which are run backwards, not stored.

Maclaurin, Duvenaud, Adams. Gradient-based Hyperparameter Optimization through Reversible Learning.
ICML 2015, arXiv:1502.03492.
"""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from .base import Estimate, Point
from .checks import BY_THETA
from .problem import Grads, Tensors, detached, flat, norm, split_like, sum_or_none, zeros_for_none
from .second_order import inner_gradient
from .unrolled import SeveralSteps

MAX_DENOMINATOR = 1000  # a decay is exact up to n units of the last place


def as_ratio(momentum: float | Fraction) -> Fraction:
    """The momentum as n/d; 0.9 is 9/10. ValueError if no d up to 1000 gives it exactly."""
    if not 0 < momentum < 1:
        raise ValueError(
            f"momentum must be above 0 (a step without it cannot be undone) and below 1, "
            f"got {momentum}"
        )
    ratio = Fraction(momentum).limit_denominator(MAX_DENOMINATOR)
    if float(ratio) != float(momentum):
        raise ValueError(
            f"momentum must be a fraction with a denominator up to {MAX_DENOMINATOR} "
            f"(0.9 is 9/10), got {momentum}; use the nearest, Fraction{ratio.as_integer_ratio()}"
        )
    return ratio


class ReversibleDecay:
    """c <- c n / d on int64 tensors, and back, exactly (algorithm 3 of the paper).

    What a division by d drops is kept as digits of a number in mixed radix, one int64 per entry,
    from which the multiplication by n takes digits for its last place in turn; so a decay costs
    log2(d / n) bits per entry (0.15 for 9/10). A number that might not hold another decay is put
    away whole in ``words`` and a new one begun: a word lasts for ``per_word`` decays (390 for
    9/10, 60 for 1/2).
    """

    def __init__(self, ratio: Fraction, like: Tensor, most: int) -> None:
        """most: how many decays there will be before they are undone."""
        self.n, self.d = ratio.numerator, ratio.denominator
        self.per_word = bound = 0  # bound: the largest number after so many decays
        while self.per_word < most and bound * self.d + self.d - 1 < 2**63:
            bound = (bound * self.d + self.d - 1) // self.n
            self.per_word += 1
        self.digits = torch.zeros_like(like)
        self.used = 0
        self.words: list[Tensor] = []

    def multiply(self, value: Tensor) -> Tensor:
        """value * n / d, off by less than n."""
        if self.used == self.per_word:
            self.words.append(self.digits)
            self.digits, self.used = torch.zeros_like(self.digits), 0
        self.used += 1
        return self._exchange(value, self.d, self.n)

    def divide(self, value: Tensor) -> Tensor:
        """What ``multiply`` was given, the last first."""
        if self.used == 0:
            self.digits, self.used = self.words.pop(), self.per_word
        self.used -= 1
        return self._exchange(value, self.n, self.d)

    def _exchange(self, value: Tensor, divisor: int, factor: int) -> Tensor:
        digits = self.digits * divisor + value.remainder(divisor)
        value = value.div(divisor, rounding_mode="floor") * factor + digits.remainder(factor)
        self.digits = digits.div(factor, rounding_mode="floor")
        return value


class FixedPointSGD:
    """theta and m of SGD with momentum as integers times 2^-bits, so that a step can be undone.

        m <- decay(m) + round(g),   theta <- theta - round(eta m)

    Both additions are exact, and the decay is reversible, so ``undo_move`` and ``undo_momentum``
    give back the same integers, if g comes out the same at the same theta.
    """

    def __init__(
        self, params: Tensors, eta: float, momentum: Fraction, bits: int, steps: int
    ) -> None:
        self.like = detached(params)
        self.eta, self.bits = eta, bits
        device = next(iter(params.values())).device
        self.largest = torch.zeros((), dtype=torch.float64, device=device)
        self.theta = self._fixed(self.like)
        self.momentum = torch.zeros_like(self.theta)
        self.decay = ReversibleDecay(momentum, self.theta, steps)

    def params(self) -> dict[str, Tensor]:
        """theta, in the types and shapes of the parameters: the same for the same integers."""
        return split_like(self.theta.to(torch.float64).mul_(2.0**-self.bits), self.like)

    def step(self, grads: Tensors) -> None:
        self.momentum = self.decay.multiply(self.momentum) + self._fixed(grads)
        self._watch(self.momentum)
        self.theta = self.theta - self._move()
        self._watch(self.theta)

    def undo_move(self) -> None:
        self.theta = self.theta + self._move()

    def undo_momentum(self, grads: Tensors) -> None:
        self.momentum = self.decay.divide(self.momentum - self._fixed(grads))

    def _move(self) -> Tensor:
        move = self.momentum.to(torch.float64).mul_(self.eta).round_()
        self._watch(move)
        return move.to(torch.int64)

    def _fixed(self, tensors: Tensors) -> Tensor:
        values = flat(detached(tensors)).to(torch.float64).mul(2.0**self.bits).round_()
        self._watch(values)
        return values.to(torch.int64)

    def _watch(self, values: Tensor) -> None:
        """Keeps the largest magnitude met; each is watched before a sum of two can wrap around."""
        extremes = torch.stack(torch.aminmax(values)).to(torch.float64)
        self.largest = torch.maximum(self.largest, extremes.abs().max())

    def check_range(self) -> None:
        """ValueError if something did not fit, or was not a number: one synchronisation."""
        if not self.largest < 2.0**62:
            raise ValueError(
                "a parameter, its gradient or momentum is not finite or reaches "
                f"{2.0 ** (62 - self.bits):g}, the limit for fraction_bits = {self.bits}: "
                "lower inner_lr, or fraction_bits if such magnitudes are right"
            )

    def check_recovered(self) -> None:
        """RuntimeError if the way back did not end where the way there began."""
        if self.momentum.any() or not torch.equal(self.theta, self._fixed(self.like)):
            raise RuntimeError(
                "the steps could not be undone: dL_T/dtheta came out differently at the same "
                "parameters; call torch.use_deterministic_algorithms(True), and take all "
                "randomness of inner_loss from torch's global generators"
            )


@dataclass(frozen=True)
class Reversible(SeveralSteps):
    """Unrolled's hypergradient with momentum, with the trajectory recomputed backwards.

        theta_t = theta_{t+1} + eta m_{t+1},   m_t = (m_{t+1} - dL_T/dtheta(theta_t)) / mu

    undoes a step (in Unrolled's notation). In floating point this would amplify rounding by 1/mu a
    step; so theta and m are integers times 2^-fraction_bits, and the bits that the decay by mu
    drops are kept: the way back meets the same theta_t bit for bit. The hypergradient is exact for
    that trajectory, whose steps round m by up to n + 1/2 and theta by 1/2 unit of 2^-fraction_bits
    (mu = n/d; 6e-14 by default).

    Cost: 2 k + 1 forwards, 2 k + 1 backwards, k backwards through a backward; memory: one graph of
    dL_T/dtheta, 5 vectors of theta's size, 3 of them int64, and log2(1/mu) bits per parameter and
    step, in words of 64 (for mu = 0.9 a word per 390 steps). dL_T/dtheta must be reproducible bit
    for bit, else RuntimeError (on a GPU: torch.use_deterministic_algorithms).

    momentum: mu, strictly between 0 and 1, a fraction n/d with d up to 1000, as every decimal of
    three digits is. fraction_bits: parameters, gradients and momentum must stay below
    2^(62 - fraction_bits) (262144 with the default), else ValueError. The rest as Unrolled.
    """

    momentum: float | Fraction
    steps: int
    fraction_bits: int = 44

    def __post_init__(self) -> None:
        as_ratio(self.momentum)
        super().__post_init__()
        if not 1 <= self.fraction_bits <= 61:
            raise ValueError(f"fraction_bits must be from 1 to 61, got {self.fraction_bits}")

    def estimate(self, at: Point) -> Estimate:
        at.examination.need(BY_THETA)
        eta, ratio = self.eta, as_ratio(self.momentum)
        sgd = FixedPointSGD(at.theta, eta, ratio, self.fraction_bits, self.steps)
        inner_losses = []
        # With a graph in both directions, although the first does not need it: torch computes
        # some derivatives (SiLU's) by other formulas without one, whose last bits differ.
        for step in range(self.steps):
            inner = inner_gradient(at, sgd.params(), step)
            sgd.step(inner.grads)
            inner_losses.append(inner.loss)
            del inner  # its graph, before the next
        sgd.check_range()
        outer_loss, v, direct = at.outer_step(sgd.params())
        # With a = dL_V/dtheta_{t+1} and b = dL_V/dm_{t+1}, one step back is, at theta_t,
        #     b <- mu b - eta a,   found += b . d2L_T/(dtheta dlambda),   a <- a + b . d2L_T/dtheta2
        a, mu = v, float(ratio)
        b: dict[str, Tensor] = {}
        found: Grads = {}
        for step in reversed(range(self.steps)):
            sgd.undo_move()
            inner = inner_gradient(at, sgd.params(), step)
            sgd.undo_momentum(inner.grads)
            b = {n: (mu * b[n] - eta * t) if b else -eta * t for n, t in a.items()}
            curvature, mixed = inner.products(b) if step else ({}, inner.mixed_product(b))
            a = zeros_for_none(sum_or_none(curvature, a), a)
            found = sum_or_none(found, mixed)
            del inner, curvature, mixed
        sgd.check_recovered()
        diagnostics = {"inner_losses": torch.stack(inner_losses), "outer_grad_norm": norm(v)}
        return Estimate(outer_loss, found, direct, diagnostics)
