"""Cost measurements: one small JSON file each, written and read as every record is."""

import re
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from common.cost_study.rows import How, Row
from common.reporting.records import (
    JsonObject,
    NotNegative,
    Positive,
    Record,
    load_folder,
    save,
)

Outcome = Literal["measured", "counted", "does not fit", "does not apply", "refused"]
Name = Annotated[str, Field(min_length=1)]


class Measurement(Record):
    """Cost of one row of one case, beside the plain step of the same process.

    experiment, figure, x: the case; method, options, how: the row. device: "cpu", "cuda", or
    "counted", on shapes alone. outcome: "measured" or "counted"; "does not fit" into memory; "does
    not apply", by its nature; "refused" by torch or by the estimator; with the reason. seconds: one
    entry a round, of a whole step; plain_seconds: of the plain step just before it. operations: of
    floating-point numbers, in matrix products and convolutions. peak_bytes: most memory in use
    during a step beyond resident_bytes, which was in use before (parameters, optimiser states,
    batches); None where it cannot be counted. parameters, hyperparameters: entries of theta and
    lambda.
    """

    KIND: ClassVar[str] = "evograd-cost-measurement"

    experiment: Name
    figure: Name
    x: Name
    method: Name
    options: JsonObject
    how: How
    size: Literal["small", "paper"]
    device: Name
    threads: Annotated[int, Field(ge=1)]
    outcome: Outcome
    reason: str = ""
    seconds: list[Positive] = Field(default_factory=list)
    plain_seconds: list[Positive] = Field(default_factory=list)
    operations: int | None = None
    plain_operations: int | None = None
    peak_bytes: int | None = None
    plain_peak_bytes: int | None = None
    resident_bytes: int | None = None
    parameters: Annotated[int, Field(ge=0)] = 0
    hyperparameters: Annotated[int, Field(ge=0)] = 0
    wall_seconds: NotNegative = 0.0
    provenance: JsonObject = Field(default_factory=dict)

    @property
    def row(self) -> Row:
        return Row(self.method, self.options, self.how)

    @property
    def key(self) -> str:
        return self.row.key

    @property
    def known(self) -> bool:
        """Whether there are numbers."""
        return self.outcome in ("measured", "counted")

    @property
    def time_ratios(self) -> list[float]:
        """Method / plain, round by round; the plain step's own are 1 by definition."""
        if self.key == "plain":
            return [1.0 for _ in self.seconds]
        return [a / b for a, b in zip(self.seconds, self.plain_seconds, strict=True)]

    @property
    def time_ratio(self) -> float | None:
        return statistics.median(self.time_ratios) if self.seconds else None

    @property
    def time_quartiles(self) -> tuple[float, float] | None:
        """Lower and upper quartile of the ratio over rounds."""
        ratios = self.time_ratios
        if len(ratios) < 2:
            return (ratios[0], ratios[0]) if ratios else None
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, high

    @property
    def operations_ratio(self) -> float | None:
        """Operations, method / plain."""
        return self.operations / self.plain_operations if self.operations else None

    @property
    def memory_ratio(self) -> float | None:
        """Peak beyond what was resident, method / plain."""
        if not self.peak_bytes or not self.plain_peak_bytes:
            return None
        return self.peak_bytes / self.plain_peak_bytes

    @property
    def total_bytes(self) -> int | None:
        """All that is in use at the peak."""
        if self.peak_bytes is None or self.resident_bytes is None:
            return None
        return self.peak_bytes + self.resident_bytes

    def path(self, folder: Path) -> Path:
        """Its file below a folder."""
        place = f"{slug(self.figure)}--{slug(self.x)}"
        return folder / slug(self.experiment) / place / f"{slug(self.key)}.json"


def slug(text: str) -> str:
    """A name for files: "ResNet-10, 1 shot" -> "resnet-10-1-shot"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write_measurement(measurement: Measurement, folder: Path) -> Path:
    """Writes it to its place below ``folder``."""
    return save(measurement, measurement.path(folder))


def read_measurements(folder: Path) -> list[Measurement]:
    """All measurements below a folder, in order of their paths."""
    return load_folder(folder, Measurement)


def by_device(measurements: Iterable[Measurement]) -> Mapping[str, list[Measurement]]:
    """Device ("cpu", "cuda", "counted") -> its measurements."""
    groups: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(measurement.device, []).append(measurement)
    return dict(sorted(groups.items()))
