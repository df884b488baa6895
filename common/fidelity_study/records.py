"""Fidelity records: what the study measured at one moment of a training, a JSON file each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from common.reporting.records import (
    Finite,
    JsonObject,
    NotNegative,
    Positive,
    Record,
    Strict,
    load_folder,
)

STAGES = ("start", "middle", "end")


def _cosine(value: float) -> float:
    if not -1 - 1e-9 <= value <= 1 + 1e-9:
        raise ValueError("is no cosine")
    return value


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("is no share")
    return value


Cosine = Annotated[Finite, AfterValidator(_cosine)]
Share = Annotated[Finite, AfterValidator(_share)]
Name = Annotated[str, Field(min_length=1)]


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


def read_fidelity(folder: Path, experiments: Sequence[str] = ()) -> list[FidelityRecord]:
    """All records below a folder: of one experiment after the other (in the order given), stages in
    the order of training, then other sizes in theirs."""
    order = {name: index for index, name in enumerate(experiments)}

    def place(record: FidelityRecord) -> tuple:
        stage = record.axis == "stage"
        number = STAGES.index(record.x) if stage else int(record.x)
        rank = order.get(record.experiment, len(order))
        return rank, record.experiment, not stage, record.axis, number

    return sorted(load_folder(folder, FidelityRecord), key=place)
