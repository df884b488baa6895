"""A metric against training time: which method gets where in the same number of seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from common.reporting.figures import Figure, figure_style, new_figure, save_figure, series_styles
from common.reporting.records import RunRecord


def training_seconds(records: Sequence[RunRecord], steps_per_epoch: int) -> list[float]:
    """Seconds of training at the end of each epoch, without evaluation.

    Epoch × steps per epoch × the time of a step: the least over the runs of the median that each
    measures after its training. Other work on a machine only ever adds to it.
    """
    step = min(record.cost["seconds"] for record in records)
    epochs = min(len(record.epochs) for record in records)
    return [step * steps_per_epoch * row["epoch"] for row in records[0].epochs[:epochs]]


def metric_against_seconds(
    groups: Mapping[str, Sequence[RunRecord]],
    metric: str,
    label: str,
    steps_per_epoch: int,
    folder: Path,
    stem: str,
    title: str,
) -> Figure:
    """A line for each group of runs (method's label -> its seeds): the mean over the seeds of
    ``metric``, a field of the epochs."""
    with figure_style():
        fig, axis = new_figure(height=3.0)
        for style, (name, records) in zip(series_styles(len(groups)), groups.items(), strict=True):
            seconds = training_seconds(records, steps_per_epoch)
            values = [fmean(r.epochs[i][metric] for r in records) for i in range(len(seconds))]
            seeds = f"{len(records)} seed" + "s" * (len(records) > 1)
            axis.plot(seconds, values, **style, label=f"{name} ({seeds})")
        axis.set(xlabel="seconds of training", ylabel=label, xlim=(0, None))
        fig.legend(loc="outside lower center", ncols=2)
        shows = (
            f"{label} by epoch against seconds of training, {title}: means over seeds. Seconds: "
            "steps times the time of a step as measured by the least disturbed run (a single run "
            "may have shared the machine); evaluation is left out"
        )
        return save_figure(
            fig, folder, stem, alt=f"{shows}. Lines for {', '.join(groups)}.", caption=f"{shows}."
        )
