"""Settings and presets of the one-dimensional illustration."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn

from pydantic import Field
from pydantic.dataclasses import dataclass

from common.experiment import Experiment, Method
from common.settings import STRICT, EstimatorSettings, PositiveFloat, PositiveInt, RunSettings

if TYPE_CHECKING:
    from common.reporting import RunRecord

METHODS = {"evograd": Method("EvoGrad", "evograd")}


@dataclass(frozen=True, config=STRICT)
class Config(RunSettings):
    """Both figures of the illustration. Defaults: the paper's."""

    experiment: ClassVar[str] = "toy_1d"
    methods: ClassVar[Mapping[str, Method]] = METHODS

    estimator: EstimatorSettings = EstimatorSettings(sigma=1.0, temperature=0.5)
    """EvoGrad's options; the perturbations are sigma * N(0, 1)."""
    candidates: tuple[Annotated[int, Field(ge=2, lt=2**31)], ...] = (2, 10, 100)
    """EvoGrad: the numbers K of candidates, one panel each."""
    lambdas: PositiveInt = 100
    """Estimates: values of lambda, evenly from 0.1 to 2."""
    trials: PositiveInt = 100
    """Estimates: draws of x and of the perturbations for each lambda."""
    steps: PositiveInt = 5
    """Trajectories: steps from each starting point."""
    learning_rate: PositiveFloat = 0.1
    """Trajectories: step size for x (SGD on the inner loss) and for lambda."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimator.num_candidates != EstimatorSettings().num_candidates or self.every != 1:
            raise ValueError(
                "--estimator.num-candidates and --every do nothing here: use --candidates"
            )


# The whole experiment takes seconds at the paper's size, so every preset has that size.
PRESETS = {name: replace(Config(), preset=name) for name in ("quick", "smoke", "paper")}


class Toy1D(Experiment):
    name = "toy_1d"
    title = "One-dimensional illustration"
    description = "EvoGrad's hypergradient beside the exact one, in one dimension. Takes seconds."
    config = Config
    methods = METHODS
    presets = PRESETS
    metric = best_metric = "correlation_2"
    baseline = "evograd"

    def planned(self, preset: str) -> list[Config]:
        """The one run behind both figures."""
        return [PRESETS[preset]]

    def task(self, config: Any, device: Any) -> NoReturn:
        raise NotImplementedError("one computation, without a training loop: see run")

    def run(self, config: Config) -> "RunRecord":
        from toy_1d.train import run

        return run(config)


EXPERIMENT = Toy1D()
