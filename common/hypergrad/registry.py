"""The one table of the estimators: command lines, studies, pages and tests read it.

A new estimator is one file and one entry here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .along_gradient import EvoGradAlongGradient
from .anchored import AnchoredEvoGrad
from .base import Estimator
from .evograd import EvoGrad
from .finite_difference import FiniteDifference
from .forward_mode import ForwardMode
from .higher_t1t2 import HigherT1T2
from .implicit import ImplicitCG, Neumann
from .layer_sampled import LayerSampled
from .mixed_mode import T1T2MixedMode
from .reversible import Reversible
from .t1t2 import T1T2, T1T2Forward
from .unrolled import SeveralSteps, Unrolled


@dataclass(frozen=True)
class Entry:
    """An estimator as command lines and pages know it.

    name: that of the method. kind: the class. label: in tables and figures. needs, exactness,
    choose: for the page that compares the estimators. applies: where it can be used at all. fixed:
    arguments that make it this entry (EvoGrad's mode). shares: it takes the base step's loss at
    theta (``anchor``).
    """

    name: str
    kind: type[Estimator]
    label: str
    needs: str
    exactness: str
    choose: str
    applies: str = "everywhere"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    shares: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the settings that it takes."""
        return tuple(f.name for f in fields(self.kind) if f.name not in self.fixed)

    @property
    def several_steps(self) -> bool:
        """Whether its inner_batch is a sequence of batches, one for each inner step."""
        return issubclass(self.kind, SeveralSteps)

    def build(self, **settings: Any) -> Estimator:
        """The estimator with those of the settings that it takes; the others are for others."""
        taken = {name: settings[name] for name in self.options if name in settings}
        return self.kind(**taken, **self.fixed)


_SAME_NUMBER = "the same number"
_ONE_STEP = "exact for one unrolled step"
_ALL_STEPS = "exact for k unrolled steps"
_BATCHES = "several batches at a time"
_OPTIMUM = "at an inner optimum, or near it"

ESTIMATORS = {
    entry.name: entry
    for entry in (
        Entry(
            "evograd",
            EvoGrad,
            "EvoGrad",
            needs="first derivatives",
            exactness="an estimate: in expectation the direction of T1T2; noise shrinks as 1 / √K",
            choose="large networks, hyperparameters anywhere; the least memory",
        ),
        Entry(
            "evograd_graph",
            EvoGrad,
            "EvoGrad graph",
            needs="first derivatives; memory for K graphs where lambda acts inside the network",
            exactness=_SAME_NUMBER,
            choose="reading, checking, vmap: the textbook",
            fixed={"mode": "graph"},
        ),
        Entry(
            "evograd_forward",
            EvoGrad,
            "EvoGrad forward",
            needs="forward-mode derivatives of the outer loss",
            exactness=_SAME_NUMBER,
            choose="lambda after the network (loss weights), where even a plain step's memory is "
            "too much",
            fixed={"mode": "forward"},
        ),
        Entry(
            "anchored",
            AnchoredEvoGrad,
            "AnchoredEvoGrad",
            needs="first derivatives",
            exactness="an estimate as EvoGrad's for K = 2",
            choose="a base step that hands over its loss at theta, which saves a forward",
            shares=True,
        ),
        Entry(
            "differences",
            EvoGrad,
            "EvoGrad by differences",
            needs="forward passes (and first derivatives by lambda)",
            exactness="EvoGrad's number up to O(σ²), kinks and rounding",
            choose="no backward pass through the network at all",
            fixed={"mode": "differences"},
        ),
        Entry(
            "anchored_differences",
            EvoGrad,
            "EvoGrad by differences, anchored",
            needs="forward passes (and first derivatives by lambda)",
            exactness="AnchoredEvoGrad's number up to O(σ²), kinks and rounding",
            choose="the cheapest training step: a base step that hands over its loss, and three "
            "forwards",
            fixed={"mode": "differences", "anchored": True},
            shares=True,
        ),
        Entry(
            "along_gradient",
            EvoGradAlongGradient,
            "EvoGradAlongGradient",
            needs="first derivatives; a radius",
            exactness="a central difference along dL_V/dtheta at theta: no sampling noise",
            choose="first order without sampling noise, for the price of EvoGrad",
        ),
        Entry(
            "along_gradient_one_sided",
            EvoGradAlongGradient,
            "EvoGradAlongGradient, one-sided",
            needs="first derivatives; a radius",
            exactness="a one-sided difference along dL_V/dtheta at theta: no sampling noise",
            choose="the default with a base step that hands over its loss",
            fixed={"one_sided": True},
            shares=True,
        ),
        Entry(
            "finite_difference",
            FiniteDifference,
            "FiniteDifference",
            needs="first derivatives; a radius",
            exactness="T1T2 up to O(r²) on smooth networks; kinks (ReLU) and rounding add to it",
            choose="T1T2's number in a plain step's memory, hyperparameters anywhere",
        ),
        Entry(
            "t1t2",
            T1T2,
            "T1T2",
            needs="double backward through every operation",
            exactness=_ONE_STEP,
            choose="the reference, where its memory suffices",
        ),
        Entry(
            "t1t2_higher",
            HigherT1T2,
            "HigherT1T2",
            needs="double backward; the higher library",
            exactness=_ONE_STEP,
            choose="comparing with published timings only",
        ),
        Entry(
            "t1t2_forward",
            T1T2Forward,
            "T1T2Forward",
            needs="forward-mode derivatives of the inner loss; lambda after the network",
            exactness=_ONE_STEP,
            choose="loss weights: the exact number in a plain step's memory",
            applies="lambda after the network",
        ),
        Entry(
            "t1t2_mixed",
            T1T2MixedMode,
            "T1T2MixedMode",
            needs="forward-mode derivatives of every backward that leads to lambda",
            exactness=_ONE_STEP,
            choose="the exact number, lambda anywhere, in about the memory of a backward",
        ),
        Entry(
            "layer_sampled",
            LayerSampled,
            "LayerSampled",
            needs="double backward through the chosen layers",
            exactness="layers drawn at random: unbiased for T1T2; a fixed choice: biased",
            choose="double backward too expensive, and a few layers (the last) that say enough",
        ),
        Entry(
            "unrolled",
            Unrolled,
            "Unrolled",
            needs="double backward; memory for a graph per inner step",
            exactness=_ALL_STEPS,
            choose="short horizons, any number of hyperparameters",
            applies=_BATCHES,
        ),
        Entry(
            "reversible",
            Reversible,
            "Reversible",
            needs="double backward; momentum; gradients reproducible bit for bit",
            exactness="exact for k steps on a grid of 2⁻⁴⁴",
            choose="long horizons, many hyperparameters",
            applies=_BATCHES,
        ),
        Entry(
            "forward_mode",
            ForwardMode,
            "ForwardMode",
            needs="double backward; for every hyperparameter a backward and a vector like theta",
            exactness=_ALL_STEPS,
            choose="long horizons, a handful of hyperparameters",
            applies=_BATCHES,
        ),
        Entry(
            "implicit_cg",
            ImplicitCG,
            "ImplicitCG",
            needs="double backward; an inner optimum with positive curvature",
            exactness="exact at an inner optimum, given enough iterations",
            choose="solved inner problems: no step size, no trajectory",
            applies=_OPTIMUM,
        ),
        Entry(
            "neumann",
            Neumann,
            "Neumann",
            needs="double backward; near an inner optimum; a step size below 2 / |H|",
            exactness="exact at an inner optimum, given enough terms",
            choose="nearly solved inner problems",
            applies=_OPTIMUM,
        ),
    )
}
"""By name, in the order of the tables."""

ONE_BATCH = tuple(name for name, entry in ESTIMATORS.items() if not entry.several_steps)
"""The estimators that a training loop with one batch per step can use."""
