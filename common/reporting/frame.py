"""Run records as a table of pandas, one row per run: for grouping, pairing and counting.

Columns: ``experiment``, ``method``, ``seed``, ``preset``; every setting by its name; metrics as
``final.accuracy``, ``best.accuracy``, ``cost.seconds``; ``record``, the record itself.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import pandas as pd

from common.reporting.records import RunRecord
from common.reporting.statistics import Measured


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

    metric: a column. Runs without a partner are left out; of several with the same keys the mean
    counts.
    """
    keys = list(keys)
    if runs.empty or metric not in runs:
        return pd.DataFrame(columns=[*keys, "value", "reference", "difference"])
    value, reference = (
        runs[runs["method"] == name].dropna(subset=metric).groupby(keys)[metric].mean()
        for name in (method, against)
    )
    both = pd.concat({"value": value, "reference": reference}, axis=1, join="inner")
    both = both.sort_index().reset_index()
    return both.assign(difference=both["value"] - both["reference"])


def seed_means(both: pd.DataFrame) -> pd.DataFrame:
    """Of pairs, by seed: ``mean`` difference and ``size``, the number of pairs; only seeds with as
    many pairs as the most complete one."""
    means = both.groupby("seed")["difference"].agg(["mean", "size"])
    return means[means["size"] == means["size"].max()]


def collect_metric(
    records: Iterable[RunRecord],
    metric: str,
    source: Literal["final", "best"] = "final",
    ci95: str | None = None,
) -> Measured | None:
    """The metric of every run of one cell of a table, as Measured; None without runs.

    `source` says whether the last epoch or the best one is meant; `ci95` names the metric with
    the half-width within a run.
    """
    runs = sorted(records, key=lambda record: record.seed)
    if not runs:
        return None
    values = (r.final[metric] if source == "final" else r.best[metric]["value"] for r in runs)
    within = runs[0].final[ci95] if ci95 is not None and len(runs) == 1 else None
    return Measured(tuple(values), within)
