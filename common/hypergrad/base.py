"""The template of all estimators: what they share stands here, their mathematics in their files.

A new estimator is a frozen dataclass derived from ``Estimator`` (``InnerSGD`` or ``OneStep``, if it
has an inner step size) with one method, ``estimate``, and an entry in common/estimators.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import checks
from .inner_step import InnerLR, InnerStep, LearnedLR, Stepped, check_inner_step, current, stepped
from .problem import (
    UNUSED_HYPER,
    BilevelProblem,
    Grads,
    Hypergradient,
    Tensors,
    added,
    gradients,
    gradients_or_none,
    leaves,
    outer_step,
    zeros_for_none,
)
from .randomness import AtSeed, draw_seeds, own_modes

LossGradient = tuple[Tensor, Grads]
"""L_T without a graph, and dL_T/dlambda."""


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
    """What the base step knows of L_T at theta: ``loss`` on the same batch, without a graph, and
    ``grads``, dL_T/dlambda. Asked for together with dL_T/dtheta they cost the base step nothing, or
    (loss weights) a backward through what follows the network."""

    loss: Tensor
    grads: Grads


GivenAnchor = Anchor | Callable[[], Anchor] | None
"""An anchor, or a function that makes it, called when and as the estimator needs it."""


@dataclass(frozen=True)
class Seeds:
    """Of one call: for the inner loss, one per step; for the outer loss; for perturbations."""

    inner: Sequence[int]
    outer: int
    own: Sequence[int] = ()


class Point:
    """theta and lambda on one pair of batches, for the length of one call of an estimator.

    theta: the parameters to differentiate by, without a graph; frozen ones (requires_grad False)
    count only if all are. params: the caller's own tensors of the same names. hyper: lambda as
    leaves. The losses take any part of theta in place of its values here. They replay their seeds,
    so the same parameters give the same number.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        params: Tensors,
        hyper: Tensors,
        inner_batches: Sequence[Any],
        outer_batch: Any,
        seeds: Seeds,
        at_seed: AtSeed,
        finite: bool | None,
    ) -> None:
        self.problem, self.inner_batches, self.outer_batch = problem, inner_batches, outer_batch
        self.seeds, self.at_seed = seeds, at_seed
        self.values, self.hyper_values = _plain(params), _plain(hyper)
        trained = [n for n, p in params.items() if p.requires_grad] or list(params)
        self.params = {n: params[n] for n in trained}
        self.theta = {n: self.values[n] for n in trained}
        self.originals = [*params.values(), *hyper.values()]
        # Under torch.func's transforms, tensors have no values to look at.
        self.transformed = torch._C._functorch.peek_interpreter_stack() is not None
        on_cpu = self.originals[0].device.type == "cpu"
        self.check_finite = (on_cpu if finite is None else finite) and not self.transformed
        self.examination = checks.examination_of(problem)

    @cached_property
    def hyper(self) -> dict[str, Tensor]:
        """lambda as leaves that require a gradient (not possible inside torch.func.vmap)."""
        return leaves(self.hyper_values)

    def evaluate(
        self, loss: Callable[..., Tensor], seed: int, theta: Tensors, hyper: Tensors, batch: Any
    ) -> Tensor:
        """A loss of the problem at any part of theta, seeded, under the caller's autocast."""
        with self.at_seed(seed):
            return loss(self.values | dict(theta), dict(hyper), batch)

    def inner_loss(
        self, theta: Tensors, hyper: Tensors | None = None, step: int = 0, variation: int = 0
    ) -> Tensor:
        """L_T at ``theta`` on the batch of ``step``, with a graph to ``hyper`` (None: to lambda);
        ``variation`` changes the seed."""
        hyper, seed = self.hyper if hyper is None else hyper, self.seeds.inner[step] ^ variation
        batch = self.inner_batches[step]
        loss = self.evaluate(self.problem.inner_loss, seed, theta, hyper, batch)
        return checks.check_scalar("inner_loss", loss, self.check_finite)

    def outer_loss(self, theta: Tensors, hyper: Tensors | None = None) -> Tensor:
        """L_V at ``theta``, with a graph to ``hyper`` (None: to lambda)."""
        hyper, seed = self.hyper if hyper is None else hyper, self.seeds.outer
        loss = self.evaluate(self.problem.outer_loss, seed, theta, hyper, self.outer_batch)
        return checks.check_scalar("outer_loss", loss, self.check_finite)

    def refuse_compiled(self, loss: str, derivative: str) -> None:
        """ValueError if torch.compile has made the loss, whose functions lack the derivative."""
        if loss in self.examination.compiled:
            raise ValueError(
                f"this estimator needs {derivative} of {loss}, which a loss compiled by "
                "torch.compile does not have: hand over the loss uncompiled, or take an estimator "
                "of first derivatives (EvoGradAlongGradient, FiniteDifference)"
            )

    def moved(
        self, theta: Tensors, by: Tensors, setting: str, value: float, scale: float | Tensor = 1.0
    ) -> dict[str, Tensor]:
        """theta + scale * by; ValueError if rounding takes it. setting, value: what sets it."""
        total = added(theta, by, scale)
        if not self.transformed:
            self.examination.check_resolution((setting, value), theta, total, by, scale)
        return total

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

    def anchor(self, given: GivenAnchor) -> LossGradient:
        """L_T and dL_T/dlambda at theta, from the base step if it hands them over. A function is
        called at the inner loss's seed, so its dropout masks are those of the candidates."""
        if given is None:
            return self.hyper_gradient(self.theta)
        if callable(given):
            with self.at_seed(self.seeds.inner[0]):
                given = given()
        return given.loss.detach(), given.grads


@dataclass(frozen=True)
class Estimate:
    """What an estimator has found. direct: dL_V/dlambda at fixed theta, None if lambda does not
    occur in L_V."""

    outer_loss: Tensor
    indirect: Grads
    direct: Tensors | None = None
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimator(ABC):
    """dL_V/dlambda of a bilevel problem; the subclasses say by which formula, and their cost.

    check_finite: NotFiniteError for losses and hypergradients that are infinite or no numbers; None
    looks on a CPU only, since on a GPU it would have to wait for it.
    """

    check_finite: bool | None = field(default=None, kw_only=True)

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

        generator: draws the seeds of the call; None is torch's global CPU generator. given: further
        arguments of ``estimate``. The first call with a problem evaluates both losses once more, to
        find mistakes that would make the number wrong (ValueError, TypeError; see checks.py).
        """
        for what, tensors in (("params", params), ("hyper", hyper)):
            checks.check_tensors(what, tensors, known=checks.examination_of(problem).passed)
        batches, seeds = self.inner_batches(inner_batch), self.draw_seeds(generator)
        with own_modes([*params.values(), *hyper.values()]) as at_seed:
            finite = self.check_finite
            at = Point(problem, params, hyper, batches, outer_batch, seeds, at_seed, finite)
            self._examine(at)
            with at.examination.buffers_watched():
                found = self.estimate(at, **given)
            grads = zeros_for_none(found.indirect, at.hyper_values)
            if found.direct is not None:
                grads = added(grads, found.direct)
            if at.check_finite:
                for name, grad in grads.items():
                    checks.check_finite(f"the hypergradient of {name!r}", grad)
        return Hypergradient(grads, found.outer_loss, found.diagnostics)

    def _examine(self, at: Point) -> None:
        """Looks for mistakes in a problem that is new."""
        found = at.examination
        if not found.passed and not at.transformed:
            theta = leaves(at.theta)
            for name, loss in (("inner_loss", at.inner_loss), ("outer_loss", at.outer_loss)):
                found.look_at(name, loss, theta, at.hyper, at.originals)
            found.passed = True
        # lambda may also act on the inner steps alone.
        rates = isinstance(getattr(self, "inner_lr", None), LearnedLR)
        if not (found.depends or rates or at.transformed):
            raise ValueError(UNUSED_HYPER)

    @abstractmethod
    def estimate(self, at: Point) -> Estimate:
        """The formula of the class, at one point."""

    def inner_batches(self, inner_batch: Any) -> Sequence[Any]:
        """The batches of the inner steps."""
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
        check_inner_step(self.inner_lr, learned=self.learns_rates)

    @property
    def eta(self) -> float:
        """The inner step size now."""
        assert not isinstance(self.inner_lr, LearnedLR)  # whose values Unrolled takes
        return current(self.inner_lr)


@dataclass(frozen=True)
class OneStep(Estimator):
    """An estimator of one inner step, of SGD or of the training's optimiser (see ``T1T2``)."""

    inner_lr: InnerStep

    def __post_init__(self) -> None:
        check_inner_step(self.inner_lr, optimizers=True)


def _plain(tensors: Tensors) -> dict[str, Tensor]:
    """The values without a graph; copies of inference tensors, which cannot have one."""
    return {n: t.clone() if t.is_inference() else t.detach() for n, t in tensors.items()}
