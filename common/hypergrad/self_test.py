"""A self-test on your own model, losses and batches, in the manner of torch.autograd.gradcheck."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .base import Estimator, OneStep, Point, Seeds
from .evograd import EvoGrad
from .higher_t1t2 import HigherT1T2
from .hyper_optimizer import HyperOptimizer
from .inner_step import InnerStep, current
from .problem import Tensors, norm
from .randomness import own_modes
from .t1t2 import T1T2
from .unrolled import SeveralSteps

TOLERANCE = 0.1
"""Relative error up to which two numbers count as the same."""


@dataclass(frozen=True)
class Report:
    """What ``check`` found. passed: nothing is wrong. lines: what was compared, and what to do."""

    passed: bool
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([*self.lines, "passed" if self.passed else "FAILED"])


def check(hyper_optimizer: HyperOptimizer, train_batch: Any, valid_batch: Any) -> Report:
    """Whether a HyperOptimizer's hypergradients are right: ``print(check(...))`` before training.

    The estimator is called once; that evaluates both losses twice and looks at parameters, buffers,
    batches and modes, and what it refuses becomes the report. Then

        (F(lambda + r d) - F(lambda - r d)) / (2 r) = <g, d>,   F(lambda) = L_V(theta')

    is tested with g by T1T2, theta' the real inner step from theta, whose gradient is the losses'
    own, and d the direction of g (random for tensors where g is zero). It finds operations whose
    second derivatives are wrong, and hyperparameters used past the losses' arguments. Last, the
    estimator is compared with g: the same number, if that is what it claims; of others cosine and
    size are told. Nothing is changed: lambda is moved for the differences, and put back.

    Needs float32 at least; a difference in float32 is uncertain by what the report says. Estimators
    of several steps are tested by the first one. It cannot see hooks on modules, what differs
    between devices, nor whether one step says enough.
    """
    problem, hyper = hyper_optimizer.problem, hyper_optimizer.hyper
    estimator, params = hyper_optimizer.estimator, hyper_optimizer.problem.params()
    first = train_batch[0] if isinstance(estimator, SeveralSteps) else train_batch
    step, name = _inner_step(estimator), type(estimator).__name__
    try:
        found = estimator(problem, params, hyper, train_batch, valid_batch, _seeded()).grads
    except (ValueError, TypeError) as error:
        return Report(False, (f"{name}: {error}",))
    lines = ["both losses are repeatable; parameters, buffers, batches and modes stay as they were"]
    try:
        exact = T1T2(step)(problem, params, hyper, first, valid_batch, _seeded()).grads
    except ValueError as error:
        lines.append(f"not compared with the exact hypergradient: {error}")
        return Report(True, tuple(lines))
    direction = _direction(exact)
    difference, unsure = _difference(hyper_optimizer, first, valid_batch, step, direction)
    slope = _dot(exact, direction)
    lines.append(
        f"one inner step, along one direction: {slope:.4g} by second derivatives, {difference:.4g} "
        f"(+- {unsure:.1g}) by differences"
    )
    right = abs(slope - difference) <= TOLERANCE * max(abs(slope), abs(difference)) + unsure
    if not right:
        lines.append(
            "these must agree: a loss uses hyperparameters past its arguments (closed over, "
            ".item(), detached), or an operation has wrong second derivatives (a custom "
            "autograd.Function, weight_norm): take them out one by one, or, if it is the second "
            "derivatives, take EvoGradAlongGradient"
        )
    sizes = norm(found).item(), norm(exact).item()
    if not sizes[1]:
        return Report(right, (*lines, "the exact hypergradient is zero at this point"))
    cosine = _dot(found, exact) / max(sizes[0] * sizes[1], 1e-300)
    told = f"{name}: cosine {cosine:.3f} with the exact hypergradient, {sizes[0] / sizes[1]:.3g} of"
    lines.append(f"{told} its size{_remark(estimator)}")
    off = norm({n: found[n] - exact[n] for n in exact}).item() / sizes[1]
    exact_kinds = isinstance(estimator, OneStep | HigherT1T2)
    if exact_kinds and not estimator.draw_seeds(torch.Generator()).own and off > TOLERANCE:
        lines.append(
            f"{name} claims that number and is {off:.0%} off: choose another radius (kinks of "
            "ReLU, rounding), or take T1T2"
        )
        right = False
    return Report(right, tuple(lines))


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _inner_step(estimator: Estimator) -> InnerStep:
    """That of the estimator, if it has one; else a step of 0.1."""
    rate = getattr(estimator, "inner_lr", None)
    if isinstance(rate, Optimizer):
        return rate
    if callable(rate) or isinstance(rate, float | int):
        return current(rate)
    return 0.1


def _dot(left: Tensors, right: Tensors) -> float:
    return sum((left[n].double() * right[n].double()).sum().item() for n in left)


def _direction(exact: Tensors) -> dict[str, Tensor]:
    """Of unit length: along ``exact``, with a random part where a tensor's is zero."""
    generator, size = _seeded(), norm(exact)
    direction = {}
    for n, grad in exact.items():
        signs = torch.randint(2, grad.shape, generator=generator).to(grad) * 2 - 1
        direction[n] = grad / size if grad.any() else signs / grad.numel() ** 0.5
    length = norm(direction)
    return {n: d / length for n, d in direction.items()}


def _difference(
    hyper_optimizer: HyperOptimizer,
    train_batch: Any,
    valid_batch: Any,
    inner_step: InnerStep,
    direction: Tensors,
) -> tuple[float, float]:
    """dF/dlambda along ``direction``, and how uncertain it is: by the distance of two radii, and
    by rounding. The caller's own tensors are moved, so that losses that close over them see it."""
    problem, hyper = hyper_optimizer.problem, hyper_optimizer.hyper
    params = problem.params()
    inner, outer = torch.randint(2**62, (2,), generator=_seeded()).tolist()
    before = {n: h.detach().clone() for n, h in hyper.items()}

    def value(radius: float) -> float:
        with torch.no_grad():
            for n, h in hyper.items():
                h.copy_(before[n] + radius * direction[n])
        with own_modes([*params.values(), *hyper.values()]) as at_seed:
            batches, seeds = [train_batch], Seeds([inner], outer)
            at = Point(problem, params, hyper, batches, valid_batch, seeds, at_seed, None)
            return at.outer_loss(at.stepped(inner_step)[1].theta, at.hyper_values).item()

    entries = max(sum(h.numel() for h in hyper.values()), 1)
    scale = max(norm(before).item(), entries**0.5)
    eps = torch.finfo(next(iter(params.values())).dtype).eps
    radius = scale * eps ** (1 / 3)
    try:
        near, far = ((value(r) - value(-r)) / (2 * r) for r in (radius, 3 * radius))
        rounding = 4 * eps * abs(value(0.0)) / radius
    finally:
        with torch.no_grad():
            for n, h in hyper.items():
                h.copy_(before[n])
    return near, abs(near - far) + rounding


def _remark(estimator: Estimator) -> str:
    if isinstance(estimator, EvoGrad):
        return " (a random estimate: its mean has that direction)"
    if isinstance(estimator, SeveralSteps) or hasattr(estimator, "solve"):
        return " (it computes another number than one step's)"
    return ""
