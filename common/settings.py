"""The settings that every experiment has: dataclasses whose values are checked by pydantic.

    @dataclass(frozen=True, config=STRICT)
    class Config(RunSettings):
        epochs: PositiveInt = 60
        learning_rate: PositiveFloat = 0.1
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9

Settings that exclude each other are checked in ``__post_init__``, which raises ValueError with the
flag's name and the remedy. Whoever makes settings with a value that does not fit gets UserError.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from common.errors import UserError
from common.estimators import ESTIMATORS
from common.experiment import Method, load_experiment
from common.hypergrad import Estimator

ROOT = Path(__file__).resolve().parent.parent
"""The folder of the project, whatever the current one is."""
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Of pydantic: no text is taken for a number."""
RUNTIME_FIELDS = frozenset({"device", "threads", "data_dir", "run_dir", "restart"})
"""Settings that say where and how a run is made, not what it computes: they are not part of its
result, and a checkpoint may be continued with others."""


def _in_float32(value: float) -> float:
    if value and not 1e-38 < abs(value) < 1e38:
        raise ValueError("must be a number of float32: between 1e-38 and 1e38")
    return value


_Float = Annotated[float, AfterValidator(_in_float32)]
PositiveInt = Annotated[int, Field(ge=1, lt=2**31)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**31)]
PositiveFloat = Annotated[_Float, Field(gt=0)]
NonNegativeFloat = Annotated[_Float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class _Checked(type):
    """Of classes whose objects are made with valid values, or UserError says what is wrong."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except ValidationError as error:
            raise UserError(sentence(error, cls.PREFIX)) from None  # type: ignore[attr-defined]


@dataclass(frozen=True, config=STRICT)
class EstimatorSettings(metaclass=_Checked):
    """Options of the hypergradient estimators; each takes some of them."""

    PREFIX: ClassVar[str] = "estimator."

    num_candidates: Annotated[int, Field(ge=2, lt=2**31)] = 2
    """EvoGrad: number K of perturbed copies of the model."""
    sigma: PositiveFloat = 1e-3
    """EvoGrad, anchored: scale of the perturbations."""
    temperature: PositiveFloat = 0.05
    """EvoGrad and its variants: temperature tau of the softmax over the candidates' losses."""
    radius: PositiveFloat = 1e-2
    """Finite difference, along_gradient: distance of the two points from theta, Euclidean."""
    layers: PositiveInt = 1
    """layer_sampled: how many layers' second derivatives are taken, drawn anew at every step."""
    terms: PositiveInt = 5
    """neumann: terms of the series."""
    iterations: PositiveInt = 5
    """implicit_cg: iterations, at most."""
    damping: NonNegativeFloat = 1.0
    """implicit_cg: added to the diagonal of the inner Hessian, which must become positive."""

    def taken_by(self, name: str | None) -> dict[str, Any]:
        """The options that the estimator ``name`` takes; none for None."""
        taken = ESTIMATORS[name].options if name is not None else ()
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in taken}


@dataclass(frozen=True, config=STRICT)
class RunSettings(metaclass=_Checked):
    """Settings of one run: one method, one seed. Experiments add theirs."""

    PREFIX: ClassVar[str] = ""
    experiment: ClassVar[str]
    methods: ClassVar[Mapping[str, Method]]
    runtime_fields: ClassVar[frozenset[str]] = RUNTIME_FIELDS

    method: str = "evograd"
    """What is run; the methods are listed above."""
    seed: Seed = 1
    """Seed of everything random in the run."""
    preset: str = "paper"
    """Which defaults the other settings have: smoke (seconds), quick (minutes), paper."""
    device: str = "auto"
    """Where to compute: auto (CUDA if there), cpu, cuda, cuda:N."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 1
    """CPU threads of torch (0: its choice). The number decides the last digits of results: a run
    that is continued keeps the number it began with, and the record holds it."""
    log_every: PositiveInt = 5
    """Iterations between two logged values (progress bar, metrics.jsonl, traces of the record)."""
    data_dir: Path | None = None
    """A folder that holds the data set already; else EVOGRAD_DATA, the cache, a download."""
    run_dir: Path | None = None
    """Folder of this run; default runs/EXPERIMENT/PRESET/RUN-NAME."""
    restart: bool = False
    """Begin anew, replacing what the run's folder holds."""
    every: PositiveInt = 1
    """A meta step in the first training step and in every m-th after it; the others are base steps
    alone."""
    estimator: EstimatorSettings = EstimatorSettings()
    """Options of the hypergradient estimators."""

    def __post_init__(self) -> None:
        if self.method not in self.methods:
            raise ValueError(f"--method {self.method} is unknown: use {', '.join(self.methods)}")

    def run_name(self) -> str:
        """Tells this run from the others of its preset."""
        return load_experiment(self.experiment).run_name(self.result_settings())

    def directory(self) -> Path:
        """Where the run keeps its checkpoint, metrics and record."""
        if self.run_dir is not None:
            return self.run_dir.expanduser()
        return ROOT / "runs" / self.experiment / self.preset / self.run_name()

    def result_settings(self) -> dict[str, Any]:
        """The settings that decide the result, as plain JSON values for records and checkpoints;
        ``estimator`` has those options that the method's estimator takes."""
        chosen = {n: v for n, v in vars(self).items() if n not in self.runtime_fields}
        chosen["estimator"] = self.estimator.taken_by(self.methods[self.method].estimator)
        return {n: list(v) if isinstance(v, tuple) else v for n, v in chosen.items()}

    def differences(self) -> dict[str, Any]:
        """The settings, by dotted key, that differ from the experiment's planned ones."""
        return load_experiment(self.experiment).differences(self.result_settings())

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """These settings with others, by dotted key: {"estimator.sigma": 0.01, "epochs": 3}."""
        prefix = EstimatorSettings.PREFIX
        inner = {k.removeprefix(prefix): v for k, v in changes.items() if k.startswith(prefix)}
        outer = {k: v for k, v in changes.items() if not k.startswith(prefix)}
        if inner:
            outer["estimator"] = replace(self.estimator, **inner)
        return replace(self, **outer)

    def make_estimator(
        self,
        inner_lr: float | Callable[[], float],
        perturb: Callable[[str], bool] | None = None,
        **others: Any,
    ) -> Estimator | None:
        """The estimator of the run's method; None for a method without one. others: options that
        are no settings, for the estimators that take them."""
        name = self.methods[self.method].estimator
        if name is None:
            return None
        options = vars(self.estimator) | others
        return ESTIMATORS[name].build(**options, inner_lr=inner_lr, perturb=perturb)

    @classmethod
    def from_result_settings(cls, settings: Mapping[str, Any]) -> Self:
        """The settings of a record or checkpoint. UserError unless they are those that
        ``result_settings`` would give: all of them, and of the same types."""
        try:
            made = TypeAdapter(cls).validate_json(json.dumps(settings), strict=True)
        except ValidationError as error:
            raise UserError(sentence(error)) from None
        if missing := set(flat(made.result_settings())) ^ set(flat(settings)):
            raise UserError(f"{min(missing)} is missing or does not belong to {made.method}")
        return made


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, Mapping)
        found |= {f"{name}.{k}": v for k, v in value.items()} if inner else {name: value}
    return found


def sentence(error: ValidationError, prefix: str = "") -> str:
    """What is wrong with the first wrong setting: "--train-size 0: must be at least 1"."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    message = message.replace("greater than or equal to", "at least")
    message = message.replace("less than or equal to", "at most")
    names = [str(part) for part in first["loc"] if isinstance(part, str)]
    if not names:  # of __post_init__
        return message
    value = first["input"]
    value = f"{value:g}" if isinstance(value, float) and math.isfinite(value) else value
    flag = (prefix + ".".join(names)).replace("_", "-")
    return f"--{flag} {value}: {message}"
