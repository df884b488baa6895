"""The registry of estimators: command lines, studies, pages and tests read it.

A new estimator is one file in common/hypergrad and one entry here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from common.hypergrad import (
    T1T2,
    AnchoredEvoGrad,
    AnchoredEvoGradDifferences,
    Estimator,
    EvoGrad,
    EvoGradAlongGradient,
    EvoGradDifferences,
    EvoGradForward,
    EvoGradGraph,
    FiniteDifference,
    ForwardMode,
    HigherT1T2,
    ImplicitCG,
    LayerSampled,
    Neumann,
    Reversible,
    T1T2Forward,
    T1T2MixedMode,
    Unrolled,
)
from common.hypergrad.unrolled import SeveralSteps


@dataclass(frozen=True)
class Entry:
    """An estimator as command lines and pages know it.

    name: that of the method. kind: the class. label: in tables and figures. needs, exactness,
    choose: for the page that compares the estimators. fixed: arguments that make it this entry.
    shares: it takes the base step's loss at theta (``anchor``).
    """

    name: str
    kind: type[Estimator]
    label: str
    needs: str
    exactness: str
    choose: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    shares: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the settings that it takes."""
        return tuple(f.name for f in fields(self.kind) if f.name not in self.fixed)

    def build(self, **settings: Any) -> Estimator:
        """The estimator with those of the settings that it takes; the others are for others."""
        taken = {name: settings[name] for name in self.options if name in settings}
        return self.kind(**taken, **self.fixed)


_EXACT = "exact for one unrolled step"
_BY_FORWARDS = "forward passes (and first derivatives by lambda)"
_BY_RADIUS = "first derivatives; a radius"
# Its scale is that of the experiments' settings, radius^2 / temperature.
_SOFTMAX: dict[str, Any] = {"inner_lr": None}

# fmt: off
_ENTRIES = (
    Entry("evograd", EvoGrad, "EvoGrad", "first derivatives",
          "an estimate: in expectation the direction of T1T2; noise shrinks as 1 / √K",
          "large networks, hyperparameters anywhere; the least memory"),
    Entry("evograd_graph", EvoGradGraph, "EvoGrad graph",
          "first derivatives; memory for K graphs where lambda acts inside the network",
          "the same number", "reading, checking, vmap: the textbook"),
    Entry("evograd_forward", EvoGradForward, "EvoGrad forward",
          "forward-mode derivatives of the outer loss", "the same number",
          "lambda after the network (loss weights), where even a plain step's memory is too much"),
    Entry("anchored", AnchoredEvoGrad, "AnchoredEvoGrad", "first derivatives",
          "an estimate as EvoGrad's for K = 2",
          "a base step that hands over its loss at theta, which saves a forward", shares=True),
    Entry("differences", EvoGradDifferences, "EvoGrad by differences", _BY_FORWARDS,
          "EvoGrad's number up to O(σ²), kinks and rounding",
          "no backward pass through the network at all"),
    Entry("anchored_differences", AnchoredEvoGradDifferences,
          "EvoGrad by differences, anchored", _BY_FORWARDS,
          "AnchoredEvoGrad's number up to O(σ²), kinks and rounding",
          "the cheapest training step: a base step that hands over its loss, and three forwards",
          shares=True),
    Entry("along_gradient", EvoGradAlongGradient, "EvoGradAlongGradient", _BY_RADIUS,
          "a central difference along dL_V/dtheta at theta: no sampling noise",
          "first order without sampling noise, for the price of EvoGrad", fixed=_SOFTMAX),
    Entry("along_gradient_one_sided", EvoGradAlongGradient, "EvoGradAlongGradient, one-sided",
          _BY_RADIUS, "a one-sided difference along dL_V/dtheta at theta: no sampling noise",
          "the default with a base step that hands over its loss",
          fixed={"one_sided": True, **_SOFTMAX}, shares=True),
    Entry("finite_difference", FiniteDifference, "FiniteDifference", _BY_RADIUS,
          "T1T2 up to O(r²) on smooth networks; kinks (ReLU) and rounding add to it",
          "T1T2's number in a plain step's memory, hyperparameters anywhere"),
    Entry("t1t2", T1T2, "T1T2", "double backward through every operation", _EXACT,
          "the reference, where its memory suffices"),
    Entry("t1t2_higher", HigherT1T2, "HigherT1T2", "double backward; the higher library", _EXACT,
          "comparing with published timings only"),
    Entry("t1t2_forward", T1T2Forward, "T1T2Forward",
          "forward-mode derivatives of the inner loss; lambda after the network", _EXACT,
          "loss weights: the exact number in a plain step's memory"),
    Entry("t1t2_mixed", T1T2MixedMode, "T1T2MixedMode",
          "forward-mode derivatives of every backward that leads to lambda", _EXACT,
          "the exact number, lambda anywhere, in about the memory of a backward"),
    Entry("layer_sampled", LayerSampled, "LayerSampled",
          "double backward through the chosen layers",
          "layers drawn at random: unbiased for T1T2; a fixed choice: biased",
          "double backward too expensive, and a few layers (the last) that say enough"),
    Entry("unrolled", Unrolled, "Unrolled", "double backward; memory for a graph per inner step",
          "exact for k unrolled steps", "short horizons, any number of hyperparameters"),
    Entry("reversible", Reversible, "Reversible",
          "double backward; momentum; gradients reproducible bit for bit",
          "exact for k steps on a grid of 2⁻⁴⁴", "long horizons, many hyperparameters"),
    Entry("forward_mode", ForwardMode, "ForwardMode",
          "double backward; for every hyperparameter a backward and a vector like theta",
          "exact for k unrolled steps", "long horizons, a handful of hyperparameters"),
    Entry("implicit_cg", ImplicitCG, "ImplicitCG",
          "double backward; an inner optimum with positive curvature",
          "exact at an inner optimum, given enough iterations",
          "solved inner problems: no step size, no trajectory"),
    Entry("neumann", Neumann, "Neumann",
          "double backward; near an inner optimum; a step size below 2 / |H|",
          "exact at an inner optimum, given enough terms", "nearly solved inner problems"),
)
# fmt: on
ESTIMATORS = {entry.name: entry for entry in _ENTRIES}
"""By name, in the order of the tables."""

ONE_BATCH = tuple(n for n, entry in ESTIMATORS.items() if not issubclass(entry.kind, SeveralSteps))
"""The estimators that a training loop with one batch per step can use; the others take a sequence
of batches, one for each inner step."""
