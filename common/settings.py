"""The settings that every experiment has, and the hypergradient estimators by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from common.bounds import (
    THREADS,
    Bounds,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    check_settings,
)
from common.errors import UserError
from common.estimators import ESTIMATORS
from common.experiment import Method
from common.hypergrad import Estimator

ROOT = Path(__file__).resolve().parent.parent
"""The folder of the project, whatever the current one is."""


@dataclass(frozen=True)
class RunSettings:
    """Settings of one run: one method, one seed. Experiments add theirs."""

    experiment: ClassVar[str]
    methods: ClassVar[Mapping[str, Method]]
    # Settings that say where and how a run is carried out, not what it computes: a checkpoint may
    # be continued with others.
    carrying_out: ClassVar[frozenset[str]] = frozenset(
        {"device", "threads", "data_dir", "run_dir", "restart", "tensorboard"}
    )

    method: str = "evograd"
    """What is run; the methods are listed above."""
    seed: Annotated[int, Bounds(least=0, most=2**32 - 1)] = 1
    """Seed of everything random in the run."""
    preset: str = "paper"
    """Which defaults the other settings have: smoke (seconds), quick (minutes), paper."""
    device: str = "auto"
    """Where to compute: auto (CUDA if there), cpu, cuda, cuda:N."""
    threads: Annotated[int, THREADS] = 1
    """CPU threads of torch (0: its choice). The number decides the last digits of results: a run
    that is continued keeps the number it began with, and the record holds it."""
    tf32: bool = False
    """Let a GPU round float32 products to TF32."""
    log_every: PositiveInt = 5
    """Iterations between two logged values (progress bar, metrics.jsonl, traces of the record)."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard."""
    data_dir: Path | None = None
    """A folder that holds the data set already; else EVOGRAD_DATA, the cache, a download."""
    run_dir: Path | None = None
    """Folder of this run; default runs/EXPERIMENT/PRESET/RUN-NAME."""
    restart: bool = False
    """Begin anew, replacing what the run's folder holds."""

    def run_name(self) -> str:
        """Tells this run from the others of its preset; experiments with more axes add them."""
        return f"{self.method}-seed{self.seed}"

    def directory(self) -> Path:
        """Where the run keeps its checkpoint, metrics and record."""
        return self.run_dir or ROOT / "runs" / self.experiment / self.preset / self.run_name()

    def deciding(self) -> dict[str, Any]:
        """The settings that decide the result, as plain values for records and checkpoints."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in chosen.items()
            if name not in self.carrying_out
        }

    def validate(self) -> Self:
        """Returns self; raises UserError, naming the setting, if the settings make no sense."""
        if self.method not in self.methods:
            raise UserError(f"--method {self.method} is unknown: use {', '.join(self.methods)}")
        check_settings(self)
        return self


# Options of the estimators whose setting has a different name.
_SETTINGS = {
    "mode": "evograd_mode",
    "layers": "sampled_layers",
    "iterations": "cg_iterations",
    "damping": "cg_damping",
    "terms": "neumann_terms",
}


@dataclass(frozen=True)
class EstimatorSettings(RunSettings):
    """Settings of the hypergradient estimators."""

    num_candidates: Annotated[int, Bounds(least=2)] = 2
    """EvoGrad: number K of perturbed copies of the model."""
    sigma: PositiveFloat = 1e-3
    """EvoGrad, anchored: scale of the perturbations."""
    temperature: PositiveFloat = 0.05
    """EvoGrad and its variants: temperature tau of the softmax over the candidates' losses."""
    perturbation: Literal["sign", "gaussian"] = "sign"
    """EvoGrad, anchored: sigma * sign(N(0, I)) or sigma * N(0, I)."""
    antithetic: bool = False
    """EvoGrad: candidates in mirrored pairs, theta + eps and theta - eps."""
    evograd_mode: Literal["streaming", "graph", "forward", "differences"] = "streaming"
    """EvoGrad: how the same number is computed; graph needs memory for K graphs; differences is
    approximate, from forward passes alone."""
    radius: PositiveFloat = 1e-2
    """Finite difference, along_gradient: distance of the two points from theta, Euclidean."""
    share_base_step: bool = False
    """The base step hands over its loss and its gradient by lambda, so that the meta step, taken at
    the same parameters, saves a forward pass: anchored, anchored_differences and
    along_gradient_one_sided."""
    sampled_layers: PositiveInt = 1
    """layer_sampled: how many layers' second derivatives are taken, drawn anew at every step."""
    neumann_terms: PositiveInt = 5
    """neumann: terms of the series."""
    cg_iterations: PositiveInt = 5
    """implicit_cg: iterations, at most."""
    cg_damping: NonNegativeFloat = 1.0
    """implicit_cg: added to the diagonal of the inner Hessian, which must become positive."""

    def estimator(
        self,
        name: str,
        inner_lr: float | Callable[[], float],
        perturb: Callable[[str], bool] | None = None,
    ) -> Estimator:
        """The estimator of method ``name``; UserError names a setting it refuses.

        Its options are the settings of the same name, also those that an experiment adds.
        """
        entry = ESTIMATORS[name]
        own = {f.name for f in fields(self)}
        names = {option: _SETTINGS.get(option, option) for option in entry.options}
        chosen = {o: getattr(self, setting) for o, setting in names.items() if setting in own}
        try:
            return entry.build(**chosen, inner_lr=inner_lr, perturb=perturb)
        except ValueError as error:
            option, _, reason = str(error).partition(" ")
            if option not in chosen:
                raise
            raise UserError(f"--{names[option].replace('_', '-')} {reason}") from None

    def method_estimator(
        self,
        inner_lr: float | Callable[[], float],
        perturb: Callable[[str], bool] | None = None,
    ) -> Estimator | None:
        """The estimator of the run's method; None for a method without a meta step."""
        name = self.methods[self.method].estimator
        return None if name is None else self.estimator(name, inner_lr, perturb)

    def validate(self) -> Self:
        super().validate()
        name = self.methods[self.method].estimator
        if self.share_base_step and (name is None or not ESTIMATORS[name].shares):
            able = ", ".join(n for n, entry in ESTIMATORS.items() if entry.shares)
            raise UserError(f"--share-base-step is for the estimators {able}, not {self.method}")
        if name is not None:
            self.estimator(name, inner_lr=1.0)
        return self
