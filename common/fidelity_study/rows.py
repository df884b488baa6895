"""Looking up what the fidelity study's records hold."""

import importlib
from collections.abc import Iterable

from common.fidelity_study.records import STAGES, Agreement, FidelityRecord
from common.reporting import MISSING, Number


def titles(records: Iterable[FidelityRecord]) -> dict[str, str]:
    """Experiment -> its title (of its fidelity.py), in the order of the records."""
    names = dict.fromkeys(record.experiment for record in records)
    return {name: importlib.import_module(f"{name}.studies").TITLE for name in names}


def reading_label(record: FidelityRecord, reading: str) -> str:
    """What the experiment calls a reading of its inner loss."""
    labels = getattr(importlib.import_module(f"{record.experiment}.studies"), "READINGS", {})
    return labels.get(reading, reading)


def measure_of(record: FidelityRecord) -> str:
    """The measure that says most: with one hyperparameter the sign is all there is."""
    return "sign_agreement" if record.hyperparameters == 1 else "cosine"


def stage_records(records: Iterable[FidelityRecord], experiment: str) -> dict[str, FidelityRecord]:
    """Stage -> record, in the order of training."""
    found = {r.x: r for r in records if r.experiment == experiment and r.axis == "stage"}
    return {stage: found[stage] for stage in STAGES if stage in found}


def find(
    record: FidelityRecord, series: str, x: float | str, reading: str | None = None
) -> Agreement | None:
    """The row of a setting; the paper's reading by default; None if it was not measured."""
    reading = record.readings[0] if reading is None else reading
    place = (series, x, reading)
    return next((row for row in record.rows if (row.series, row.x, row.reading) == place), None)


def number(row: Agreement | None, name: str, digits: int = 2, scale: float = 1.0) -> Number | str:
    """A measure with its standard error, where there is one; a dash where there is no row."""
    if row is None:
        return MISSING
    error = getattr(row, f"{name}_se")
    spread = error * scale if error is not None and row.draws >= 8 else None
    return Number(getattr(row, name) * scale, spread, digits)


def main_number(record: FidelityRecord, row: Agreement | None) -> Number | str:
    """``measure_of`` in a cell: the sign agreement in per cent, or the cosine."""
    share = measure_of(record) == "sign_agreement"
    return number(row, measure_of(record), 0 if share else 2, 100 if share else 1)


def main_heading(record: FidelityRecord) -> str:
    return "sign %" if measure_of(record) == "sign_agreement" else "cosine"
