"""Run records as a table of pandas, one row per run: for grouping, pairing and counting.

Columns: ``experiment``, ``method``, ``seed``, ``preset``; every setting by its name; metrics as
``final.accuracy``, ``best.accuracy``, ``cost.seconds``; ``record``, the record itself.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from common.errors import UserError
from common.reporting.records import RunRecord


def frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per run, in the order given."""
    return pd.DataFrame([_row(record) for record in records])


def _row(record: RunRecord) -> dict[str, Any]:
    settings = {n: tuple(v) if isinstance(v, list) else v for n, v in record.config.items()}
    return (
        settings
        | {"experiment": record.experiment, "method": record.method, "seed": record.seed}
        | {"preset": record.preset, "record": record}
        | {f"final.{name}": value for name, value in record.final.items()}
        | {f"best.{name}": value["value"] for name, value in record.best.items()}
        | {f"cost.{name}": value for name, value in record.cost.items()}
    )


def pairs(
    runs: pd.DataFrame, metric: str, method: str, against: str, keys: Sequence[str] = ("seed",)
) -> pd.DataFrame:
    """Runs of ``method`` beside those of ``against`` with the same ``keys`` (the seed; an axis):
    columns keys, ``value``, ``reference``, ``difference`` = value - reference.

    metric: a column. Runs without a partner are left out. UserError if two runs of a method have
    the same keys.
    """
    keys = list(keys)
    if runs.empty or metric not in runs:
        return pd.DataFrame(columns=[*keys, "value", "reference", "difference"])
    sides = []
    for name, column in ((method, "value"), (against, "reference")):
        side = runs.loc[runs["method"] == name, [*keys, metric]].dropna()
        twice = side.loc[side.duplicated(keys), keys]
        if len(twice):
            which = ", ".join(f"{key} {twice.iloc[0][key]}" for key in keys)
            raise UserError(f"Two records of {name} have {which}: keep one of them in the folder.")
        sides.append(side.rename(columns={metric: column}))
    both = sides[0].merge(sides[1], on=keys).sort_values(keys, ignore_index=True)
    return both.assign(difference=both["value"] - both["reference"])


def seed_means(both: pd.DataFrame) -> pd.DataFrame:
    """Of pairs, by seed: ``mean`` difference and ``size``, the number of pairs; only seeds with as
    many pairs as the most complete one."""
    means = both.groupby("seed")["difference"].agg(["mean", "size"])
    return means[means["size"] == means["size"].max()]
