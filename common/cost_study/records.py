"""The rows of the study and their measurements: one small JSON file each."""

import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from common.cost_study.case import CostCase, Size
from common.estimators import ESTIMATORS
from common.reporting.records import (
    JsonObject,
    Name,
    NotNegative,
    Positive,
    Record,
    load_folder,
)

How = Literal["", "shared", "released", "compiled"]
PLAIN, EVOGRAD, T1T2, HIGHER = "plain", "evograd num_candidates=2", "t1t2", "t1t2_higher"
_HOW = {
    "": "", "shared": "sharing the base step", "released": "as released", "compiled": "compiled"
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What is measured: the plain step, or a step with an estimator (by its name in the registry)
    at some options.

    how: "": hypergradient, then base step; shared: what both need is computed once; released: as in
    the authors' code; compiled: as "", under torch.compile.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    how: How = ""

    @property
    def key(self) -> str:
        """As it is typed, and found in tables: "evograd num_candidates=2 released"."""
        return " ".join(filter(None, [self.method, *self._words, self.how]))

    @property
    def label(self) -> str:
        """As it is read."""
        name = ESTIMATORS[self.method].label if self.method in ESTIMATORS else self.method
        return ", ".join(filter(None, (" ".join([name, *self._words]), _HOW[self.how])))

    @property
    def _words(self) -> list[str]:
        return [f"{name}={value}" for name, value in self.options.items()]


_CANDIDATES = [{"num_candidates": count} for count in (2, 4, 16)]
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    **dict.fromkeys(("evograd", "evograd_graph", "evograd_forward"), _CANDIDATES),
    **{name: [{"steps": 4}] for name in ("unrolled", "reversible", "forward_mode")},
    "layer_sampled": [{"layers": "last"}],
    "implicit_cg": [{"iterations": 4}],
    "neumann": [{"terms": 4}],
}
ALL = [Row(name, options) for name in ESTIMATORS for options in _OPTIONS.get(name, [{}])]
"""The rows of all estimators, in the order of the tables; the first of an estimator's stands for
all of them."""
MAIN = (EVOGRAD, "along_gradient", "finite_difference", T1T2, HIGHER, "t1t2_forward", "t1t2_mixed")
"""Measured in every case."""
COMPILED = (PLAIN, EVOGRAD, "finite_difference", T1T2)
BY_KEY = {
    row.key: row
    for row in (
        Row(PLAIN),
        *(Row(name, how="shared") for name, entry in ESTIMATORS.items() if entry.shares),
        *(Row("evograd", _CANDIDATES[0], how) for how in ("shared", "released")),
        Row(T1T2, how="released"),
        *ALL,
    )
}
"""All rows but the compiled ones, in the order of the tables."""


def rows_of(case: CostCase, compiled: bool = False) -> Iterator[Row]:
    """The rows of a case, in the order of the tables."""
    for key, row in BY_KEY.items():
        own = key in case.own or (case.shared and row.how == "shared" and not row.options)
        if own or key == PLAIN or (not row.how and (key in MAIN or case.all_methods)):
            yield row
    for row in (BY_KEY[key] for key in COMPILED if compiled):
        yield Row(row.method, row.options, "compiled")


def named(key: str, word: str) -> bool:
    """Whether a word stands for a row: it is the row's key, or no row's and in this one's."""
    return key == word or (word not in BY_KEY and word in key)


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
    size: Size
    device: Name
    threads: int = Field(ge=1)
    outcome: Literal["measured", "counted", "does not fit", "does not apply", "refused"]
    reason: str = ""
    seconds: list[Positive] = Field(default_factory=list)
    plain_seconds: list[Positive] = Field(default_factory=list)
    operations: int | None = None
    plain_operations: int | None = None
    peak_bytes: int | None = None
    plain_peak_bytes: int | None = None
    resident_bytes: int | None = None
    parameters: int = Field(default=0, ge=0)
    hyperparameters: int = Field(default=0, ge=0)
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
        if self.key == PLAIN:
            return [1.0 for _ in self.seconds]
        return [a / b for a, b in zip(self.seconds, self.plain_seconds, strict=True)]

    @property
    def time_ratio(self) -> float | None:
        return statistics.median(self.time_ratios) if self.seconds else None

    @property
    def time_quartiles(self) -> tuple[float, float] | None:
        """Lower and upper quartile of the ratio over rounds."""
        if len(self.seconds) < 2:
            return (self.time_ratio, self.time_ratio) if self.seconds else None
        low, _, high = statistics.quantiles(self.time_ratios, n=4, method="inclusive")
        return low, high

    @property
    def operations_ratio(self) -> float | None:
        """Operations, method / plain."""
        return self.operations / self.plain_operations if self.operations else None

    @property
    def memory_ratio(self) -> float | None:
        """Peak beyond what was resident, method / plain."""
        known = self.peak_bytes and self.plain_peak_bytes
        return self.peak_bytes / self.plain_peak_bytes if known else None

    @property
    def total_bytes(self) -> int | None:
        """All that is in use at the peak."""
        known = None not in (self.peak_bytes, self.resident_bytes)
        return self.peak_bytes + self.resident_bytes if known else None

    def path(self, folder: Path) -> Path:
        """Its file below a folder."""
        place = f"{slug(self.figure)}--{slug(self.x)}"
        return folder / slug(self.experiment) / place / f"{slug(self.key)}.json"


def slug(text: str) -> str:
    """A name for files: "ResNet-10, 1 shot" -> "resnet-10-1-shot"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def read_measurements(folder: Path) -> list[Measurement]:
    """All measurements below a folder, in order of their paths."""
    return load_folder(folder, Measurement)


def by_device(measurements: Iterable[Measurement]) -> dict[str, list[Measurement]]:
    """Device ("cpu", "cuda", "counted") -> its measurements."""
    groups: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(measurement.device, []).append(measurement)
    return dict(sorted(groups.items()))


Points = Mapping[str, Sequence[Measurement]]
"""Place in a figure -> its measurements, in the order of the tables."""


def machine(measurements: Sequence[Measurement]) -> str:
    """On what, for captions: "cpu, 2 threads", "NVIDIA H200", "counted"."""
    first = measurements[0]
    if first.device == "cpu":
        return f"cpu, {first.threads} threads"
    return ", ".join(first.provenance.get("devices") or [first.device])


def costs_of(points: Sequence[Measurement], key: str) -> tuple[float | None, float | None]:
    """Time in plain steps (operations where only those were counted) and all bytes in use, as the
    paper counts; None where there are none."""
    m = next((m for m in points if m.key == key and m.known), None)
    if m is None:
        return None, None
    return (m.time_ratio if m.seconds else m.operations_ratio), m.total_bytes
