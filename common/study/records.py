"""One measurement as a small JSON file: written in one step, checked when read."""

import json
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from common.files import write_atomic

KIND = "evograd-cost-measurement"

Outcome = Literal["measured", "does not fit", "does not apply", "refused"]


@dataclass(frozen=True)
class Point:
    """Where in the study a case stands: whose room it came from, its figure, its place there."""

    experiment: str
    figure: str
    x: str

    def folder(self) -> Path:
        """Of its measurements, below that of all."""
        return Path(slug(self.experiment), f"{slug(self.figure)}--{slug(self.x)}")


@dataclass(frozen=True)
class Settings:
    """What decides whether a measurement that is there already is the one wanted."""

    size: str
    device: str
    threads: int
    tf32: bool


@dataclass(frozen=True)
class Measurement:
    """Cost of one method in one case, beside the plain step of the same process.

    outcome: "measured"; "does not fit" into memory; "does not apply", by its nature; "refused" by
    torch or by the estimator; with the reason. seconds: one entry a round, of a whole step;
    plain_seconds: of the plain step just before it. peak_bytes: most memory in use during a step
    beyond resident_bytes, which was in use before (parameters, optimiser states, batches); None
    where it cannot be counted. parameters, hyperparameters: entries of theta and lambda. own_steps,
    for the plain step only: the names of the steps that the case brought along.
    """

    point: Point
    method: str
    compiled: bool
    settings: Settings
    outcome: Outcome
    reason: str = ""
    seconds: list[float] = field(default_factory=list)
    plain_seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    plain_peak_bytes: int | None = None
    resident_bytes: int | None = None
    parameters: int = 0
    hyperparameters: int = 0
    own_steps: list[str] = field(default_factory=list)
    wall_seconds: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> str:
        """Its name in tables."""
        return f"{self.method}, compiled" if self.compiled else self.method

    @property
    def time_ratios(self) -> list[float]:
        """Method / plain, round by round."""
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
    path = measurement_path(folder, m.point, m.method, m.compiled)
    return write_atomic(path, json.dumps({"kind": KIND} | asdict(m), indent=1) + "\n")


def read_measurement(path: Path) -> Measurement | None:
    """The measurement in a file; None if the file is missing, damaged or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("kind") != KIND or set(found) != {f.name for f in fields(Measurement)}:
            return None
        found["point"], found["settings"] = Point(**found["point"]), Settings(**found["settings"])
        measurement = Measurement(**found)
        _check(measurement)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return measurement


def _check(measurement: Measurement) -> None:
    """ValueError or TypeError for numbers that no measurement has."""
    both = (measurement.seconds, measurement.plain_seconds)
    if len(both[0]) != len(both[1]) or not all(0 < s < float("inf") for one in both for s in one):
        raise ValueError("seconds must be positive, as many as plain_seconds")
    if (measurement.outcome == "measured") != bool(measurement.seconds):
        raise ValueError("what is measured has seconds, and nothing else has")


def read_measurements(folder: Path) -> list[Measurement]:
    """All whole measurements below a folder, in order of their paths."""
    found = (read_measurement(path) for path in sorted(folder.rglob("*.json")))
    return [measurement for measurement in found if measurement is not None]


def by_device(measurements: Iterable[Measurement]) -> Mapping[str, list[Measurement]]:
    """Device ("cpu", "cuda") -> its measurements."""
    groups: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(measurement.settings.device, []).append(measurement)
    return dict(sorted(groups.items()))
