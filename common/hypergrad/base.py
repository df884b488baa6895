"""The template of all estimators: what they share stands here, their mathematics in their files.

A new estimator is a frozen dataclass derived from ``Estimator`` (``InnerSGD`` or ``OneStep``, if it
has an inner step size) with one method, ``estimate``, and an entry in common/estimators.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import Optimizer

from . import checks
from .inner_step import InnerLR, InnerStep, LearnedLR, Stepped, check_inner_step, current, stepped
from .problem import (
    BilevelProblem,
    Grads,
    Hypergradient,
    Tensors,
    added,
    gradients,
    gradients_by_both,
    gradients_or_none,
    leaves,
    moved_by,
    split_like,
    zeros_for_none,
)
from .randomness import AtSeed, draw_seeds, own_modes
from .torch_errors import explained

LossGradient = tuple[Tensor, Grads]
"""L_T without a graph, and dL_T/dlambda."""


def check_positive(**settings: float) -> None:
    """Raise ValueError unless every setting is positive."""
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def check_at_least(least: float, **settings: float) -> None:
    """Raise ValueError unless every setting is at least ``least``."""
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
    leaves (not inside torch.func.vmap). The losses take any part of theta in place of its values
    here. They replay their seeds, so the same parameters give the same number. given: the base
    step's loss at theta. outer_values: L_V and its direct term where an estimator keeps several.
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
        self.given: GivenAnchor = None
        self.outer_values: list[LossGradient] = []
        # Values without a graph; copies of inference tensors, which cannot have one.
        self.values, self.hyper_values = (
            {n: t.clone() if t.is_inference() else t.detach() for n, t in tensors.items()}
            for tensors in (params, hyper)
        )
        trained = [n for n, p in params.items() if p.requires_grad] or list(params)
        self.params = {n: params[n] for n in trained}
        self.theta = {n: self.values[n] for n in trained}
        # Under torch.func's transforms, and on shapes alone, tensors have no values to look at.
        inside = torch._C._functorch.peek_interpreter_stack() is not None
        self.hyper = {} if inside else leaves(self.hyper_values)
        first = next(iter(params.values()))
        self.transformed = inside or isinstance(first, FakeTensor)
        on_cpu = first.is_cpu
        self.check_finite = (on_cpu if finite is None else finite) and not self.transformed
        self.examination = checks.examination_of(problem)

    def inner_loss(
        self, theta: Tensors, hyper: Tensors | None = None, step: int = 0, variation: int = 0
    ) -> Tensor:
        """L_T at ``theta`` on the batch of ``step``, under the caller's autocast, with a graph to
        ``hyper`` (None: to lambda); ``variation`` changes the seed."""
        at = {**self.values, **theta}, {**(self.hyper if hyper is None else hyper)}
        with self.at_seed(self.seeds.inner[step] ^ variation):
            loss = self.problem.inner_loss(*at, self.inner_batches[step])
        return checks.check_scalar(self.examination.names["inner_loss"], loss, self.check_finite)

    def outer_loss(self, theta: Tensors, hyper: Tensors | None = None) -> Tensor:
        """L_V at ``theta``, the rest as ``inner_loss``."""
        at = {**self.values, **theta}, {**(self.hyper if hyper is None else hyper)}
        with self.at_seed(self.seeds.outer):
            loss = self.problem.outer_loss(*at, self.outer_batch)
        return checks.check_scalar(self.examination.names["outer_loss"], loss, self.check_finite)

    def moved(
        self, by: Tensors | Tensor, setting: str, value: float, scale: float | Tensor = 1.0
    ) -> dict[str, Tensor]:
        """theta + scale * by, a vector or tensors by name; ValueError if rounding takes it.
        setting, value: what sets its size."""
        by = split_like(by, self.theta) if isinstance(by, Tensor) else by
        total = {n: moved_by(t, by[n], scale) for n, t in self.theta.items()}
        if (setting, value) not in self.examination.resolved and not self.transformed:
            self.examination.check_resolution(
                (setting, value), self.theta, total, by, scale, self.hyper_values
            )
        return total

    def outer_step(self, theta: Tensors) -> tuple[Tensor, dict[str, Tensor], Tensors | None]:
        """L_V at ``theta``, dL_V/dtheta there, and the direct term (None if there is none)."""
        theta = leaves(theta)
        loss = self.outer_loss(theta)
        g, by_hyper = gradients_by_both(loss, theta, self.hyper)
        none = all(grad is None for grad in by_hyper.values())
        direct = None if none else zeros_for_none(by_hyper, self.hyper)
        return loss.detach(), zeros_for_none(g, theta), direct

    def stepped(self, inner_lr: InnerStep) -> tuple[Tensor, Stepped]:
        """L_T at theta, and the inner step from there, both without a graph."""
        start = leaves(self.theta)
        loss = self.inner_loss(start, self.hyper_values)
        return loss.detach(), stepped(inner_lr, self.params, self.theta, gradients(loss, start))

    def hyper_gradient(self, theta: Tensors, variation: int = 0) -> LossGradient:
        """L_T and dL_T/dlambda at ``theta``; its graph is gone afterwards."""
        loss = self.inner_loss(theta, variation=variation)
        return loss.detach(), gradients_or_none(loss, self.hyper)

    def anchor(self) -> LossGradient:
        """L_T and dL_T/dlambda at theta, from the base step if it has ``given`` them. A function is
        called at the inner loss's seed, so its dropout masks are those of the candidates."""
        given = self.given
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
    params: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Estimator(ABC):
    """dL_V/dlambda of a bilevel problem; the subclasses say by which formula, and their cost.

    check_finite: NotFiniteError for losses and hypergradients that are infinite or no numbers; None
    looks on a CPU only, since on a GPU it would have to wait for it.
    """

    several_steps: ClassVar[bool] = False
    """Whether inner_batch is a sequence, of a batch for each inner step."""

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
        found = checks.examination_of(problem)
        for what, tensors in (("params", params), ("hyper", hyper)):
            if not found.passed or type(tensors) is not dict:
                checks.check_tensors(what, tensors)
        batches = inner_batch if self.several_steps else [inner_batch]
        seeds = self.draw_seeds(generator)
        with own_modes([*params.values(), *hyper.values()]) as at_seed:
            finite = self.check_finite
            at = Point(problem, params, hyper, batches, outer_batch, seeds, at_seed, finite)
            if not at.transformed:
                if not found.passed:
                    found.examine(at)
                if not (found.inner_depends or self.acts_on_steps):
                    raise ValueError(found.unused_hyper())
            try:
                estimate = self.estimate(at, **given)
            except RuntimeError as error:
                if (known := explained(error, type(self).__name__, found)) is None:
                    raise
                raise known from error
            if found.buffers:
                found.check_buffers()
            grads = zeros_for_none(estimate.indirect, at.hyper_values)
            if estimate.direct is not None:
                grads = added(grads, estimate.direct)
            if at.check_finite:
                for name, grad in grads.items():
                    checks.check_finite(f"the hypergradient of {name!r}", grad)
        return Hypergradient(grads, estimate.outer_loss, estimate.diagnostics, estimate.params)

    @property
    def acts_on_steps(self) -> bool:
        """Whether lambda acts on the inner steps themselves, past the inner loss."""
        return isinstance(getattr(self, "inner_lr", None), LearnedLR)

    @abstractmethod
    def estimate(self, at: Point) -> Estimate:
        """The formula of the class, at one point."""

    def draw_seeds(self, generator: torch.Generator | None) -> Seeds:
        """The seeds of a call, in one draw."""
        inner, outer = draw_seeds(2, generator)
        return Seeds([inner], outer)


@dataclass(frozen=True)
class InnerSGD(Estimator):
    """An estimator whose inner step, or steps, are SGD. inner_lr: eta."""

    learns_rates: ClassVar[bool] = False
    """Whether inner_lr may be a LearnedLR."""
    takes_optimizers: ClassVar[bool] = False
    """Whether it may be the training's optimiser."""

    inner_lr: InnerLR | InnerStep

    def __post_init__(self) -> None:
        check_inner_step(self.inner_lr, self.takes_optimizers, self.learns_rates)

    @property
    def eta(self) -> float:
        """The inner step size now."""
        assert not isinstance(self.inner_lr, LearnedLR | Optimizer)  # which Unrolled takes apart
        return current(self.inner_lr)


@dataclass(frozen=True)
class OneStep(Estimator):
    """An estimator of one inner step, of SGD or of the training's optimiser (see ``T1T2``)."""

    inner_lr: InnerStep

    def __post_init__(self) -> None:
        check_inner_step(self.inner_lr, optimizers=True)
