"""A metric against training time: which method gets where in the same number of seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.reporting.figures import Figure, figure_style, new_figure, save_figure, series_styles
from common.reporting.records import RunRecord


def training_seconds(records: Sequence[RunRecord]) -> float:
    """Seconds of training in an epoch: the least over the runs of each run's median, without
    evaluation. Other work on a machine only ever adds to it."""
    return min(record.cost["seconds_per_epoch"] for record in records)


def metric_against_seconds(
    groups: Mapping[str, Sequence[RunRecord]],
    metric: str,
    label: str,
    folder: Path,
    stem: str,
    title: str,
) -> Figure:
    """``metric``, a field of the epochs, of every run: methods' runs by label, a style for each."""
    with figure_style():
        fig, axis = new_figure(height=3.0 + 0.17 * (len(groups) + 1) // 2)
        for style, (name, records) in zip(series_styles(len(groups)), groups.items(), strict=True):
            epoch = training_seconds(records)
            seeds = f"{len(records)} run" + "s" * (len(records) > 1)
            for index, record in enumerate(records):
                axis.plot(
                    [epoch * row["epoch"] for row in record.epochs],
                    [row[metric] for row in record.epochs],
                    **style | {"markevery": 0.2, "linewidth": 0.9, "markersize": 3.5},
                    label="_" * (index > 0) + f"{name} ({seeds})",
                )
        axis.set(xlabel="seconds of training", ylabel=label, xlim=(0, None))
        fig.legend(loc="outside lower center", ncols=2)
        shows = (
            f"{label} by epoch against seconds of training, {title}: a line per run. Seconds: "
            "epochs times the least time of an epoch among a method's runs, without evaluation (a "
            "single run may have shared the machine)"
        )
        return save_figure(
            fig, folder, stem, alt=f"{shows}. Lines for {', '.join(groups)}.", caption=f"{shows}."
        )
