"""The template of all estimators: what they share stands here, their mathematics in their files.

A new estimator is a frozen dataclass derived from ``Estimator`` (or ``InnerSGD``, if it has an
inner step size) with one method, ``estimate``, and an entry in registry.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from .inner_step import InnerLR, InnerStep, LearnedLR, Stepped, check_inner_step, stepped
from .problem import (
    BilevelProblem,
    Hypergradient,
    Tensors,
    added,
    check_dependence,
    detached,
    gradients,
    gradients_or_none,
    leaves,
    outer_step,
    zeros_for_none,
)
from .randomness import draw_seeds, replayed_randomness

LossGradient = tuple[Tensor, Mapping[str, Tensor | None]]
"""L_T without a graph, and dL_T/dlambda by name, None where L_T does not depend on it."""


def check_positive(**settings: float) -> None:
    """ValueError for the first of the settings that is not above zero (or is no number)."""
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def check_at_least(least: float, **settings: float) -> None:
    """ValueError for the first of the settings that is below ``least`` (or is no number)."""
    for name, value in settings.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True)
class Anchor:
    """What the base step knows of L_T at theta.

    loss: L_T(theta, lambda) on the same batch, without a graph. grads: dL_T/dlambda by name, None
    where nothing leads. Asked for together with dL_T/dtheta they cost the base step nothing, or
    (loss weights) a backward through what follows the network.
    """

    loss: Tensor
    grads: Mapping[str, Tensor | None]


@dataclass(frozen=True)
class Seeds:
    """Of one call. inner: of the inner loss, one per step; outer: of the outer loss; own: what the
    estimator draws from besides (perturbations)."""

    inner: Sequence[int]
    outer: int
    own: Sequence[int] = ()


class Point:
    """theta and lambda on one pair of batches, for the length of one call of an estimator.

    theta: the parameters to differentiate by, without a graph. hyper: lambda as leaves. The losses
    take any part of theta in place of its values here, and replay their seeds, so that the same
    parameters give the same number.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        params: Tensors,
        hyper: Tensors,
        inner_batches: Sequence[Any],
        outer_batch: Any,
        seeds: Seeds,
        replay: Callable[[int], None],
    ) -> None:
        self.problem, self.inner_batches, self.outer_batch = problem, inner_batches, outer_batch
        self.seeds, self.replay = seeds, replay
        self.params, self.theta = params, detached(params)
        self.hyper_values = detached(hyper)

    @cached_property
    def hyper(self) -> dict[str, Tensor]:
        """lambda as leaves that require a gradient (not possible inside torch.func.vmap)."""
        return leaves(self.hyper_values)

    def inner_loss(
        self, theta: Tensors, hyper: Tensors | None = None, step: int = 0, variation: int = 0
    ) -> Tensor:
        """L_T at ``theta`` on the batch of ``step``, with a graph to ``hyper`` (None: to lambda).

        variation: changes the seed, for other randomness inside the loss.
        """
        self.replay(self.seeds.inner[step] ^ variation)
        hyper = self.hyper if hyper is None else hyper
        return self.problem.inner_loss(
            self.theta | dict(theta), dict(hyper), self.inner_batches[step]
        )

    def outer_loss(self, theta: Tensors, hyper: Tensors | None = None) -> Tensor:
        """L_V at ``theta``, with a graph to ``hyper`` (None: to lambda)."""
        self.replay(self.seeds.outer)
        hyper = self.hyper if hyper is None else hyper
        return self.problem.outer_loss(self.theta | dict(theta), dict(hyper), self.outer_batch)

    def outer_step(self, theta: Tensors) -> tuple[Tensor, dict[str, Tensor], Tensors | None]:
        """L_V at ``theta``, dL_V/dtheta there, and the direct term (None if there is none)."""
        return outer_step(self.outer_loss, theta, self.hyper)

    def stepped(self, inner_lr: InnerStep) -> tuple[Tensor, Stepped]:
        """L_T at theta, and the inner step from there, both without a graph."""
        start = leaves(self.theta)
        loss = self.inner_loss(start, self.hyper_values)
        return loss.detach(), stepped(inner_lr, self.params, self.theta, gradients(loss, start))

    def hyper_gradient(self, theta: Tensors, variation: int = 0) -> LossGradient:
        """L_T and dL_T/dlambda at ``theta``; its graph is gone afterwards."""
        loss = self.inner_loss(theta, variation=variation)
        return loss.detach(), gradients_or_none(loss, self.hyper)

    def anchor(self, given: Anchor | Callable[[], Anchor] | None) -> LossGradient:
        """L_T and dL_T/dlambda at theta, from the base step if it hands them over.

        A function is called with the generators at the inner loss's seed, so that its dropout masks
        are those of the candidates.
        """
        if given is None:
            return self.hyper_gradient(self.theta)
        if callable(given):
            self.replay(self.seeds.inner[0])
            given = given()
        return given.loss.detach(), given.grads


@dataclass(frozen=True)
class Estimate:
    """What an estimator has found.

    indirect: by hyperparameter, None where nothing leads. direct: dL_V/dlambda at fixed theta, None
    if L_V has no lambda in it. reached: gradients that are all None only if lambda is not used at
    all, where ``indirect`` itself does not tell.
    """

    outer_loss: Tensor
    indirect: Mapping[str, Tensor | None]
    direct: Tensors | None = None
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    reached: Sequence[Mapping[str, Tensor | None]] | None = None


class Estimator(ABC):
    """dL_V/dlambda of a bilevel problem; the subclasses say by which formula, and their cost."""

    def __call__(
        self,
        problem: BilevelProblem,
        params: Tensors,
        hyper: Tensors,
        inner_batch: Any,
        outer_batch: Any,
        generator: torch.Generator | None = None,
        **given: Any,
    ) -> Hypergradient:
        """The hypergradient at ``params`` (theta) and ``hyper`` (lambda).

        generator: draws the seeds of the call; None is torch's global CPU generator. given: what
        ``estimate`` takes besides. Raises ValueError if nothing depends on ``hyper``.
        """
        batches = self.inner_batches(inner_batch)
        seeds = self.draw_seeds(generator)
        with replayed_randomness([*params.values(), *hyper.values()]) as replay:
            at = Point(problem, params, hyper, batches, outer_batch, seeds, replay)
            found = self.estimate(at, **given)
        reached = [found.indirect] if found.reached is None else found.reached
        check_dependence(*reached, found.direct)
        grads = zeros_for_none(found.indirect, hyper)
        if found.direct is not None:
            grads = added(grads, found.direct)
        return Hypergradient(grads, found.outer_loss, found.diagnostics)

    @abstractmethod
    def estimate(self, at: Point) -> Estimate:
        """The formula of the class, at one point."""

    def inner_batches(self, inner_batch: Any) -> Sequence[Any]:
        """The batches of the inner steps: one, but for estimators of several steps."""
        return [inner_batch]

    def draw_seeds(self, generator: torch.Generator | None) -> Seeds:
        """The seeds of a call, in one draw."""
        inner, outer = draw_seeds(2, generator)
        return Seeds([inner], outer)


@dataclass(frozen=True)
class InnerSGD(Estimator):
    """An estimator whose inner step, or steps, are SGD. inner_lr: eta."""

    learns_rates: ClassVar[bool] = False
    """Whether inner_lr may be a LearnedLR."""

    inner_lr: InnerLR

    def __post_init__(self) -> None:
        if isinstance(self.inner_lr, LearnedLR):
            if not self.learns_rates:
                raise ValueError("inner_lr may be a LearnedLR in Unrolled and ForwardMode only")
        elif not callable(self.inner_lr):
            check_positive(inner_lr=self.inner_lr)

    @property
    def eta(self) -> float:
        """The inner step size now."""
        return self.inner_lr() if callable(self.inner_lr) else self.inner_lr


@dataclass(frozen=True)
class OneStep(Estimator):
    """An estimator of one inner step. inner_lr: its step size (SGD), or the training's optimiser
    (SGD, Adam, AdamW), whose step it then is: theta' and its Jacobian, see inner_step.py."""

    inner_lr: InnerStep

    def __post_init__(self) -> None:
        check_inner_step(self.inner_lr)
