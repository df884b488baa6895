"""Fidelity records: what the study measured at one moment of a training, a JSON file each."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from common.reporting import MISSING, Number
from common.reporting.records import (
    Finite,
    JsonObject,
    Name,
    NotNegative,
    Positive,
    Record,
    Strict,
    load_folder,
)

STAGES = ("start", "middle", "end")
Cosine = Annotated[Finite, Field(ge=-1 - 1e-9, le=1 + 1e-9)]
Share = Annotated[Finite, Field(ge=0, le=1)]


class Agreement(Strict):
    """Estimates of one setting against the exact hypergradients, see ``compare`` for the measures.

    reading: how the inner loss is understood; precision: float32 or bfloat16 against the same draw
    in float64. A row has one of the two.
    """

    series: Name
    x: Finite | str
    reading: str | None = None
    precision: Literal["float32", "bfloat16"] | None = None
    cosine: Cosine
    cosine_se: NotNegative | None
    sign_agreement: Share
    sign_agreement_se: NotNegative | None
    norm_ratio: NotNegative
    expected_ratio: Positive
    gain: Finite
    gain_se: NotNegative | None
    mean_cosine: Cosine
    draws: int = Field(ge=1)

    def number(self, name: str, digits: int = 2, scale: float = 1.0) -> Number:
        """A measure with its standard error, where there is one."""
        error = getattr(self, f"{name}_se")
        spread = error * scale if error is not None and self.draws >= 8 else None
        return Number(getattr(self, name) * scale, spread, digits)


class Prediction(Strict):
    """What the effective dimension predicts for a number of candidates."""

    cosine: Cosine
    sign_agreement: Share
    norm_ratio: Positive


class Staleness(Strict):
    """Cosine of the exact hypergradients now and m training steps later (0: other batches)."""

    m: int = Field(ge=0)
    cosine: Cosine


class FidelityRecord(Record):
    """How close every estimator gets to the exact hypergradient at one moment of a training.

    axis: what the moments of a series differ in ("stage", "width" ...); x: this one's place.
    predictions: candidates K -> prediction, and ``dimensions``, the effective dimension for each
    pair of batches. Precision and staleness are measured at stages only, costs at the last one.
    costs: name of a step -> one measurement a round; fidelity_of: name of a step -> series and x of
    the row that says how close its hypergradient is.
    """

    KIND: ClassVar[str] = "evograd-fidelity-record"

    experiment: Name
    axis: Name
    x: Name
    inner_lr: Positive
    parameters: int = Field(ge=1)
    hyperparameters: int = Field(ge=1)
    readings: list[str] = Field(min_length=1)
    noise_prediction: str
    options: JsonObject
    exact_norm: Positive
    rows: list[Agreement] = Field(min_length=1)
    predictions: dict[str, Prediction | list[Positive]]
    precision: list[Agreement] = Field(default_factory=list)
    staleness: list[Staleness] = Field(default_factory=list)
    costs: dict[Name, list[dict[Name, NotNegative]]] = Field(default_factory=dict)
    fidelity_of: dict[Name, list[Finite | str]] = Field(default_factory=dict)
    preset: Name
    provenance: JsonObject

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.experiment}-{self.axis}-{self.x}"

    @property
    def studies(self) -> Any:
        """``studies.py`` of its experiment, with the words for tables."""
        return importlib.import_module(f"{self.experiment}.studies")

    @property
    def place(self) -> str:
        """As it is read: "Rotation, stage end"."""
        return f"{self.studies.TITLE}, {self.axis.replace('_', ' ')} {self.x}"

    @property
    def measure(self) -> str:
        """The measure that says most: with one hyperparameter the sign is all there is."""
        return "sign_agreement" if self.hyperparameters == 1 else "cosine"

    @property
    def heading(self) -> str:
        """Of a column of ``cell``."""
        return "sign %" if self.hyperparameters == 1 else "cosine"

    def series(self, series: str, reading: str | None = None) -> dict[Any, Agreement]:
        """x -> row of a series; with the paper's reading by default."""
        reading = self.readings[0] if reading is None else reading
        return {r.x: r for r in self.rows if (r.series, r.reading) == (series, reading)}

    def cell(self, series: str, x: float | str, reading: str | None = None) -> Number | str:
        """``measure`` at a setting, the sign agreement in per cent; a dash if it was not
        measured."""
        row = self.series(series, reading).get(x)
        share = self.hyperparameters == 1
        return row.number(self.measure, *((0, 100) if share else (2, 1))) if row else MISSING


def read_fidelity(folder: Path, experiments: Sequence[str] = ()) -> list[FidelityRecord]:
    """All records below a folder: of one experiment after the other (in the order given), stages in
    the order of training, then other sizes in theirs."""

    def place(record: FidelityRecord) -> tuple:
        stage, name = record.axis == "stage", record.experiment
        number = STAGES.index(record.x) if stage else int(record.x)
        rank = experiments.index(name) if name in experiments else len(experiments)
        return rank, name, not stage, record.axis, number

    return sorted(load_folder(folder, FidelityRecord), key=place)
