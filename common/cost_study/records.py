"""Cost measurements: one small JSON file each, written and read as every record is."""

import re
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from common.errors import UserError
from common.reporting.records import (
    JsonObject,
    NotNegative,
    Positive,
    Record,
    Strict,
    load,
    save,
)

Outcome = Literal["measured", "does not fit", "does not apply", "refused"]
Bytes = Annotated[int, Field(ge=0)] | None
Name = Annotated[str, Field(min_length=1)]


class Point(Strict):
    """Where in the study a case stands: its experiment, its figure, its place there."""

    experiment: Name
    figure: Name
    x: Name

    def folder(self) -> Path:
        """Of its measurements, below that of all."""
        return Path(slug(self.experiment), f"{slug(self.figure)}--{slug(self.x)}")


class Settings(Strict):
    """What decides whether a measurement that is there already is the one wanted."""

    size: Literal["small", "paper"]
    device: Name
    threads: Annotated[int, Field(ge=1)]


class Measurement(Record):
    """Cost of one method in one case, beside the plain step of the same process.

    outcome: "measured"; "does not fit" into memory; "does not apply", by its nature; "refused" by
    torch or by the estimator; with the reason. seconds: one entry a round, of a whole step;
    plain_seconds: of the plain step just before it. peak_bytes: most memory in use during a step
    beyond resident_bytes, which was in use before (parameters, optimiser states, batches); None
    where it cannot be counted. parameters, hyperparameters: entries of theta and lambda.
    """

    KIND: ClassVar[str] = "evograd-cost-measurement"

    point: Point
    method: Name
    compiled: bool
    settings: Settings
    outcome: Outcome
    reason: str = ""
    seconds: list[Positive] = Field(default_factory=list)
    plain_seconds: list[Positive] = Field(default_factory=list)
    peak_bytes: Bytes = None
    plain_peak_bytes: Bytes = None
    resident_bytes: Bytes = None
    parameters: int = Field(default=0, ge=0)
    hyperparameters: int = Field(default=0, ge=0)
    wall_seconds: NotNegative = 0.0
    provenance: JsonObject = Field(default_factory=dict)

    @property
    def row(self) -> str:
        """Its name in tables."""
        return f"{self.method}, compiled" if self.compiled else self.method

    @property
    def is_plain(self) -> bool:
        """Whether this is the plain step itself, whose ratios are 1 by definition."""
        return self.method == "plain" and not self.compiled

    @property
    def time_ratios(self) -> list[float]:
        """Method / plain, round by round."""
        if self.is_plain:
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


def slug(text: str) -> str:
    """A name for files: "EvoGrad, K = 2" -> "evograd-k-2"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def measurement_path(folder: Path, point: Point, method: str, compiled: bool) -> Path:
    return folder / point.folder() / f"{slug(method)}{'-compiled' if compiled else ''}.json"


def write_measurement(measurement: Measurement, folder: Path) -> Path:
    """Writes it to its place below ``folder``."""
    m = measurement
    return save(m, measurement_path(folder, m.point, m.method, m.compiled))


def read_measurements(folder: Path) -> list[Measurement]:
    """All measurements below a folder, in order of their paths; UserError for any other JSON file,
    and for a measurement that is not in its own place."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        m = load(path, Measurement)
        place = measurement_path(Path(), m.point, m.method, m.compiled)
        if path.parts[-len(place.parts) :] != place.parts:
            raise UserError(f"{path} holds the measurement of {place}: move it there or delete it.")
        found.append(m)
    return found


def by_device(measurements: Iterable[Measurement]) -> Mapping[str, list[Measurement]]:
    """Device ("cpu", "cuda") -> its measurements."""
    groups: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(measurement.settings.device, []).append(measurement)
    return dict(sorted(groups.items()))
