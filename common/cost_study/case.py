"""What an experiment hands to the cost study: a bilevel problem at real shapes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from common.hypergrad.problem import BilevelProblem, Tensors

Size = Literal["small", "paper"]
"""small: what two CPU cores measure in minutes; paper: everything the paper's figures show."""

Step = Callable[[], object]
"""A whole training step, always on the same tensors."""


@dataclass(frozen=True)
class CostProblem:
    """A case on its device, ready to be measured.

    plain_step: an ordinary training step of the network, forward, backward and update, without
        meta-learning: what every cost is divided by.
    base_step: the training step that follows (or precedes) the meta step in a meta-learning
        iteration; a method's step is its hypergradient and this.
    optimizer: that of the base step, where an estimator may take the base step's loss; such a step
        is forward and backward of ``problem.inner_loss`` and this optimizer's step.
    inner_lr: T1-T2's inner step size, as a number.
    perturb: EvoGrad's ``perturb``.
    excluded: estimator -> why it does not apply here, in a few words for the table.
    steps: key of a row -> whole step, for what "hypergradient, then base_step" does not describe.
    """

    problem: BilevelProblem
    params: Tensors
    hyper: Tensors
    inner_batch: Any
    outer_batch: Any
    plain_step: Step
    base_step: Step
    inner_lr: float
    optimizer: torch.optim.Optimizer | None = None
    perturb: Callable[[str], bool] | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, Step] = field(default_factory=dict)


@dataclass(frozen=True)
class CostCase:
    """One point of a figure: built only when its turn comes, on synthetic tensors.

    figure: the figure or table it belongs to ("ResNet-32 by width"); x: its place there
    ("width 2"). all_methods: whether every method is measured here, or the main ones only.
    own: keys of the built problem's ``steps``. shared: whether estimators take the base step's
    loss, so that there are rows for that.
    """

    figure: str
    x: str
    build: Callable[[torch.device], CostProblem]
    all_methods: bool = True
    own: tuple[str, ...] = ()
    shared: bool = False


@dataclass(frozen=True)
class PublishedCost:
    """What the paper measured at one point (figure, x) of its figure ``where``.

    costs: key of a row here -> (gigabytes in use, seconds), for whatever amount of work the paper
    took, since only ratios between methods are compared; in the order plain (if there), EvoGrad,
    T1-T2.
    """

    figure: str
    x: str
    costs: Mapping[str, tuple[float, float]]
    where: str
