"""Looking up what the fidelity study's records hold."""

from collections.abc import Iterable, Mapping
from typing import Any

from common.reporting import Number
from common.reporting.tables import MISSING

Record = Mapping[str, Any]
NAMES = {"rotation": "Rotation", "metaweightnet": "Label noise"}
STAGES = ("start", "middle", "end")
CANDIDATE, HELD = "candidate", "held"


def stage_records(records: Iterable[Record], experiment: str) -> dict[str, Record]:
    """Stage -> record, in the order of training."""
    found = {
        record["x"]: record
        for record in records
        if record["experiment"] == experiment and record["axis"] == "stage"
    }
    return {stage: found[stage] for stage in STAGES if stage in found}


def find(record: Record, series: str, x: float | str, reading: str | None = None) -> Any:
    """The row of a setting; the paper's reading by default; None if it was not measured."""
    reading = record["readings"][0] if reading is None else reading
    for row in record["rows"]:
        if (row["series"], row["x"], row["reading"]) == (series, x, reading):
            return row
    return None


def number(row: Any, name: str, digits: int = 2, scale: float = 1.0) -> Number | str:
    """A measure with its standard error, where there is one; a dash where there is no row."""
    if row is None:
        return MISSING
    error = row.get(f"{name}_se")
    spread = error * scale if error is not None and row["draws"] >= 8 else None
    return Number(row[name] * scale, spread, digits)
