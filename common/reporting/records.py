"""Run records: one JSON file per run, with what a table needs and what makes it trusted.

A record holds settings, metrics and cost, and versions, device, commit and checksums of the data.
It is consistent or refused, see ``RunRecord.check``.
"""

import itertools
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from common.errors import UserError
from common.reporting.record_files import (
    Finite,
    Inconsistent,
    JsonObject,
    NotNegative,
    Record,
    load,
    load_folder,
    save,
)

# Names of metrics whose values have bounds, whatever the experiment: percentages; correlations
# and cosines; what cannot be negative.
_BOUNDS = (
    (re.compile(r"(^|_)(accuracy|f1|ci95)(_|$)"), 0.0, 100.0),
    (re.compile(r"(^|_)(correlation|cosine)(_|$)"), -1.0 - 1e-9, 1.0 + 1e-9),
    (re.compile(r"(^|_)(norm|distance|moved|sd|seconds|bytes)(_|$)"), 0.0, float("inf")),
)
_NEEDED_PROVENANCE = ("python", "torch", "device", "started", "finished")


class Named(dict):
    """Values by name; a name that is missing is the user's error, since the record lacks it."""

    def __missing__(self, name: str) -> Any:
        known = ", ".join(map(str, self)) or "nothing"
        raise UserError(
            f"A run record lacks {name!r} (it has {known}): repeat that run with this version."
        )


def _named(value: dict[str, Any]) -> Named:
    return Named(value)


Name = Annotated[str, Field(min_length=1)]
Numbers = Annotated[dict[str, Finite], AfterValidator(_named)]
Series = Annotated[dict[str, list[Finite]], AfterValidator(_named)]


class RunRecord(Record):
    """One run: one experiment, one method, one seed."""

    KIND: ClassVar[str] = "evograd-run-record"

    experiment: Name
    method: Name
    seed: int = Field(ge=0, lt=2**32)
    preset: Name
    config: Annotated[JsonObject, AfterValidator(_named)]
    """Every setting that decides the result."""
    epochs: list[Numbers]
    """Metrics by epoch, each row with ``epoch``; the first may be epoch 0, before training."""
    traces: Series
    """Series by iteration, of equal lengths, with ``iteration``."""
    final: Numbers
    """Metrics at the last epoch."""
    best: Annotated[dict[str, Numbers], AfterValidator(_named)]
    """Metric -> its largest ``value`` and the first ``epoch`` that had it."""
    cost: Annotated[dict[str, NotNegative], AfterValidator(_named)]
    """Of one training step, in seconds and bytes; {} where no step is measured."""
    data: dict[str, Name]
    """File or split -> its checksum or size."""
    provenance: JsonObject
    """``collect_provenance()``, device, started, finished and wall_seconds."""
    curves: Series = Field(default_factory=Named)
    """Series for figures, of any length."""

    @property
    def planned_epochs(self) -> int | None:
        """The last epoch by the run's settings (``epochs``, or ``steps`` where there are none)."""
        planned = self.config.get("epochs", self.config.get("steps"))
        return planned if type(planned) is int else None

    def check(self) -> None:
        """Raises Inconsistent unless

        method, seed and preset are those of the settings; epochs follow each other up to the
        planned one; final values are the last epoch's, or have other names than its; the best
        values are those of their epochs; traces are as long as their iterations, which rise;
        metrics lie within what their names allow; the provenance says with what and when.
        """
        for name in ("method", "seed", "preset"):
            if self.config.get(name) != getattr(self, name):
                raise Inconsistent(
                    f"{name} is {getattr(self, name)!r}, but {self.config.get(name)!r} in config"
                )
        self._check_epochs()
        self._check_final_and_best()
        self._check_traces()
        for place, values in {"final": self.final, "epochs": self.epochs[-1]}.items():
            for name, value in values.items():
                for pattern, low, high in _BOUNDS:
                    if pattern.search(name) and not low <= value <= high:
                        raise Inconsistent(f"{place}.{name} is {value}, out of its range")
        self._check_cost_and_provenance()

    def _check_epochs(self) -> None:
        numbers = [row.get("epoch") for row in self.epochs]
        if not numbers or numbers[0] not in (0, 1):
            raise Inconsistent("epochs do not begin with epoch 1 (or 0)")
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise Inconsistent(f"epochs are numbered {numbers}, not one after the other")
        if self.planned_epochs is None or numbers[-1] != self.planned_epochs:
            raise Inconsistent(f"epochs end at {numbers[-1]}, planned are {self.planned_epochs}")

    def _check_final_and_best(self) -> None:
        last = {name: value for name, value in self.epochs[-1].items() if name != "epoch"}
        trained = bool(last.keys() & self.final.keys())
        if trained and last != self.final:
            names = [n for n in {**last, **self.final} if last.get(n) != self.final.get(n)]
            raise Inconsistent(f"final and the last epoch disagree in {', '.join(names)}")
        if not self.final or trained != bool(self.best):
            raise Inconsistent("final or best is empty")
        for metric, best in self.best.items():
            rows = {row["epoch"]: row[metric] for row in self.epochs if metric in row}
            largest = {"value": max(rows.values()), "epoch": max(rows, key=rows.get)} if rows else 0
            if best != largest:
                raise Inconsistent(f"best.{metric} is {best}, by the epochs it is {largest}")

    def _check_traces(self) -> None:
        lengths = {name: len(series) for name, series in self.traces.items()}
        if not lengths.get("iteration"):
            raise Inconsistent('traces have no series "iteration"')
        if len(set(lengths.values())) > 1:
            raise Inconsistent(f"traces have different lengths ({lengths})")
        iterations = self.traces["iteration"]
        if any(a >= b for a, b in itertools.pairwise(iterations)):
            raise Inconsistent("traces.iteration does not rise")

    def _check_cost_and_provenance(self) -> None:
        cost, order = self.cost, ("seconds_low", "seconds", "seconds_high")
        known = [cost[name] for name in order if name in cost]
        if known != sorted(known) or cost.get("repeats", 1) < 1:
            raise Inconsistent("cost: the median is not between its quartiles, or repeats is 0")
        for name in _NEEDED_PROVENANCE:
            if not isinstance(self.provenance.get(name), str):
                raise Inconsistent(f"provenance does not say {name}")
        wall = self.provenance.get("wall_seconds", 0)
        if isinstance(wall, bool) or not isinstance(wall, int | float) or wall < 0:
            raise Inconsistent(f"provenance.wall_seconds is {wall!r}")
        times = [self.provenance[name] for name in ("started", "finished")]
        try:
            began, ended = map(datetime.fromisoformat, times)
        except ValueError:
            raise Inconsistent(f"provenance: {times} are not times") from None
        if began > ended:
            raise Inconsistent(f"provenance: finished {times[1]} is before started {times[0]}")


def write_record(record: RunRecord, path: str | Path) -> Path:
    """Writes the record in one step; UserError for one that is not valid."""
    return save(record, path)


def read_record(path: str | Path) -> RunRecord:
    """Reads one run record; UserError, naming the file, if it is missing or not valid."""
    return load(path, RunRecord)


def read_records(
    folder: str | Path, experiment: str | None = None, preset: str | None = None
) -> list[RunRecord]:
    """Every run record under ``folder`` (recursively, sorted by path); a missing folder has none.

    UserError for a JSON file that is no valid run record, or one of another experiment or preset
    than given: leaving it out without a word would change a table.
    """
    records = load_folder(folder, RunRecord)
    for record in records:
        for name, wanted in (("experiment", experiment), ("preset", preset)):
            if wanted is not None and getattr(record, name) != wanted:
                raise UserError(
                    f"{folder} holds a record of {name} {getattr(record, name)} (method "
                    f"{record.method}, seed {record.seed}) among those of {wanted}: move it away."
                )
    return records
