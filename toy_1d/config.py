"""Settings and presets of the one-dimensional illustration."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

from common.bounds import Bounds, PositiveFloat, PositiveInt
from common.experiment import Experiment, Method
from common.settings import EstimatorSettings

METHODS = {"evograd": Method("EvoGrad", "evograd")}


@dataclass(frozen=True)
class Config(EstimatorSettings):
    """Both figures of the illustration. Defaults: the paper's."""

    experiment: ClassVar[str] = "toy_1d"
    methods: ClassVar[Mapping[str, Method]] = METHODS

    candidates: tuple[Annotated[int, Bounds(least=2)], ...] = (2, 10, 100)
    """EvoGrad: the numbers K of candidates, one panel each (instead of --num-candidates)."""
    sigma: float = 1.0
    """EvoGrad: scale of the perturbations."""
    temperature: float = 0.5
    """EvoGrad: temperature tau of the softmax over the candidates' losses."""
    perturbation: Literal["sign", "gaussian"] = "gaussian"
    """EvoGrad: sigma * sign(N(0, I)) or sigma * N(0, I)."""
    lambdas: PositiveInt = 100
    """Estimates: values of lambda, evenly from 0.1 to 2."""
    trials: PositiveInt = 100
    """Estimates: draws of x and of the perturbations for each lambda."""
    steps: PositiveInt = 5
    """Trajectories: steps from each starting point."""
    learning_rate: PositiveFloat = 0.1
    """Trajectories: step size for x (SGD on the inner loss) and for lambda."""

    def validate(self) -> Self:
        super().validate()
        for count in self.candidates:
            replace(self, num_candidates=count).estimator("evograd", inner_lr=1.0)
        return self


# The whole experiment takes seconds at the paper's size, so every preset has that size.
PRESETS = {name: replace(Config(), preset=name) for name in ("quick", "smoke", "paper")}


def planned_runs(preset: str) -> list[Config]:
    """The one run behind both figures."""
    return [PRESETS[preset]]


EXPERIMENT = Experiment(
    name="toy_1d",
    title="One-dimensional illustration",
    description="EvoGrad's hypergradient beside the exact one, in one dimension. Takes seconds.",
    methods=METHODS,
    presets=PRESETS,
    planned=planned_runs,
    metric="correlation_2",
    baseline="evograd",
)
