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


_BATCHES, _OPTIMUM = "several batches at a time", "at an inner optimum, or near it"

# fmt: off
_ENTRIES = (
    Entry("evograd", EvoGrad, "EvoGrad", "first derivatives",
          "an estimate: in expectation the direction of T1T2; noise shrinks as 1 / √K",
          "large networks, hyperparameters anywhere; the least memory"),
    Entry("evograd_graph", EvoGrad, "EvoGrad graph",
          "first derivatives; memory for K graphs where lambda acts inside the network",
          "the same number", "reading, checking, vmap: the textbook", fixed={"mode": "graph"}),
    Entry("evograd_forward", EvoGrad, "EvoGrad forward",
          "forward-mode derivatives of the outer loss", "the same number",
          "lambda after the network (loss weights), where even a plain step's memory is too much",
          fixed={"mode": "forward"}),
    Entry("anchored", AnchoredEvoGrad, "AnchoredEvoGrad", "first derivatives",
          "an estimate as EvoGrad's for K = 2",
          "a base step that hands over its loss at theta, which saves a forward", shares=True),
    Entry("differences", EvoGrad, "EvoGrad by differences",
          "forward passes (and first derivatives by lambda)",
          "EvoGrad's number up to O(σ²), kinks and rounding",
          "no backward pass through the network at all", fixed={"mode": "differences"}),
    Entry("anchored_differences", EvoGrad, "EvoGrad by differences, anchored",
          "forward passes (and first derivatives by lambda)",
          "AnchoredEvoGrad's number up to O(σ²), kinks and rounding",
          "the cheapest training step: a base step that hands over its loss, and three forwards",
          fixed={"mode": "differences", "anchored": True}, shares=True),
    Entry("along_gradient", EvoGradAlongGradient, "EvoGradAlongGradient",
          "first derivatives; a radius",
          "a central difference along dL_V/dtheta at theta: no sampling noise",
          "first order without sampling noise, for the price of EvoGrad"),
    Entry("along_gradient_one_sided", EvoGradAlongGradient, "EvoGradAlongGradient, one-sided",
          "first derivatives; a radius",
          "a one-sided difference along dL_V/dtheta at theta: no sampling noise",
          "the default with a base step that hands over its loss", fixed={"one_sided": True},
          shares=True),
    Entry("finite_difference", FiniteDifference, "FiniteDifference", "first derivatives; a radius",
          "T1T2 up to O(r²) on smooth networks; kinks (ReLU) and rounding add to it",
          "T1T2's number in a plain step's memory, hyperparameters anywhere"),
    Entry("t1t2", T1T2, "T1T2", "double backward through every operation",
          "exact for one unrolled step", "the reference, where its memory suffices"),
    Entry("t1t2_higher", HigherT1T2, "HigherT1T2", "double backward; the higher library",
          "exact for one unrolled step", "comparing with published timings only"),
    Entry("t1t2_forward", T1T2Forward, "T1T2Forward",
          "forward-mode derivatives of the inner loss; lambda after the network",
          "exact for one unrolled step", "loss weights: the exact number in a plain step's memory",
          applies="lambda after the network"),
    Entry("t1t2_mixed", T1T2MixedMode, "T1T2MixedMode",
          "forward-mode derivatives of every backward that leads to lambda",
          "exact for one unrolled step",
          "the exact number, lambda anywhere, in about the memory of a backward"),
    Entry("layer_sampled", LayerSampled, "LayerSampled",
          "double backward through the chosen layers",
          "layers drawn at random: unbiased for T1T2; a fixed choice: biased",
          "double backward too expensive, and a few layers (the last) that say enough"),
    Entry("unrolled", Unrolled, "Unrolled", "double backward; memory for a graph per inner step",
          "exact for k unrolled steps", "short horizons, any number of hyperparameters",
          applies=_BATCHES),
    Entry("reversible", Reversible, "Reversible",
          "double backward; momentum; gradients reproducible bit for bit",
          "exact for k steps on a grid of 2⁻⁴⁴", "long horizons, many hyperparameters",
          applies=_BATCHES),
    Entry("forward_mode", ForwardMode, "ForwardMode",
          "double backward; for every hyperparameter a backward and a vector like theta",
          "exact for k unrolled steps", "long horizons, a handful of hyperparameters",
          applies=_BATCHES),
    Entry("implicit_cg", ImplicitCG, "ImplicitCG",
          "double backward; an inner optimum with positive curvature",
          "exact at an inner optimum, given enough iterations",
          "solved inner problems: no step size, no trajectory", applies=_OPTIMUM),
    Entry("neumann", Neumann, "Neumann",
          "double backward; near an inner optimum; a step size below 2 / |H|",
          "exact at an inner optimum, given enough terms", "nearly solved inner problems",
          applies=_OPTIMUM),
)
# fmt: on
ESTIMATORS = {entry.name: entry for entry in _ENTRIES}
"""By name, in the order of the tables."""

ONE_BATCH = tuple(name for name, entry in ESTIMATORS.items() if not entry.several_steps)
"""The estimators that a training loop with one batch per step can use."""
