"""The label-noise experiment's tables and figures, from its run records."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.report import (
    Group,
    as_planned,
    by_place,
    comparisons,
    difference,
    labelled,
    measured,
    metric_number,
    number,
    panels,
    step_costs,
    table_of_runs,
    written_section,
)
from common.reporting import (
    Cell,
    Figure,
    Published,
    RunRecord,
    Section,
    Table,
    comparison_table,
    draw_runs,
    figure_style,
    legend_below,
    metric_against_seconds,
    new_figure,
    published_value,
    save_figure,
    series_styles,
)
from metaweightnet.config import EXPERIMENT
from metaweightnet.findings import answers, asked, lines_figure
from metaweightnet.monitor import HISTOGRAM_BINS, HISTOGRAM_MAX, LOSS_GRID
from metaweightnet.train import FINE_TUNING_RATE, FINE_TUNING_STEPS

Setting = tuple[str, str]
"""Data set, and noise with its level and the number of clean images."""
Groups = Mapping[Setting, Group]
Column = Callable[[Group, str], Cell]
METHODS = EXPERIMENT.methods
_PLAIN, _EXACT = METHODS[EXPERIMENT.baseline].label, METHODS["t1t2_forward"].label
_COMPARED = (EXPERIMENT.baseline, "evograd", "along_gradient", "t1t2_forward")
"""Methods of the figure against seconds."""
_DARK, _PALE = ({**style, "marker": ""} for style in series_styles(2))
_ALIKE = 0.1
"""Relative weights that differ by less are called equal: both are 1 in plain training."""
_PLACES = ("data", "noise")
_INTRO = """
A classifier learns from images of which many are labelled wrongly. A small network, the weight
net, turns each image's loss into its weight; it is learned from a few clean images, by EvoGrad or
by **T1-T2**, the exact hypergradient of one unrolled training step.

**Plain training** gives all images the same weight, **clean images alone** trains on nothing else,
a **frozen random weight net** never learns, **sign flipped** learns the opposite of EvoGrad's
hypergradient: without a gap to these the hypergradient has no effect. Accuracy is that on the test
images at the last epoch unless said otherwise. Weights are relative: plain training gives each
image 1.
"""


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the tables into ``folder``."""
    everything = records
    if preset == "study":
        records = [record for record in records if not asked(record.config)]
    groups = by_setting(records)
    tables: dict[str, Table] = {}
    if records:
        tables["summary"] = summary_table(groups)
        tables["accuracy"] = accuracy_table(groups, preset)
        if any("meta_accuracy" in record.final for record in records):
            tables["clean-images"] = clean_images_table(groups)
        tables["differences"] = difference_table(groups)
        tables["weights"] = weights_table(groups)
    for dataset in dict.fromkeys(dataset for dataset, _ in groups):
        title = f"Label noise: cost of one training step ({dataset})"
        own = [record for record in records if record.config["dataset"] == dataset]
        tables[f"cost-{dataset}"] = step_costs(EXPERIMENT, title, own)
    figures = [f for setting, group in groups.items() for f in _figures(setting, group, folder)]
    if sizes := _by_clean_images(records):
        shows = (
            "Test accuracy on MNIST with 60 % uniform label noise by the number of clean images: "
            "learned weights, and the simplest uses of the same images."
        )
        figures.insert(0, lines_figure(sizes, folder, "clean-images", "clean images", shows))
    if preset == "study":
        more, drawn = answers(everything, folder)
        tables, figures = tables | more, figures + drawn
    return written_section(EXPERIMENT, _INTRO, preset, records, tables, figures, folder)


def by_setting(records: Iterable[RunRecord]) -> dict[Setting, Group]:
    """Runs by data set and noise, and by label."""
    return by_place(EXPERIMENT, records, setting_of)


def setting_of(config: Mapping[str, Any]) -> Setting:
    """Data set, and noise with its level and the number of clean images, of a run."""
    detail = config["human_labels"] if config["noise"] == "human" else config["noise_level"]
    return config["dataset"], f"{config['noise']} {detail}, {config['meta_size']} clean"


def published_accuracy(config: Mapping[str, Any]) -> Published | None:
    """Table 4's value; None where the paper has none (other noise, other methods)."""
    level, row = str(config["noise_level"]), METHODS[config["method"]].published
    if config["noise"] != "flip" or level not in ("0.0", "0.2", "0.4") or row is None:
        return None
    return published_value(EXPERIMENT.name, config["dataset"], level, row)


def accuracy_table(groups: Groups, preset: str) -> Table:
    """Table 4: published and measured; at the paper's size also cells without runs."""
    planned = EXPERIMENT.planned(preset)
    everywhere = {setting_of(c.result_settings()) for c in planned if preset == "paper"}
    places = sorted({*groups, *everywhere})
    return comparison_table(
        "Label noise: test accuracy (%)",
        comparisons(EXPERIMENT, places, groups, planned, setting_of, published_accuracy),
        (*_PLACES, "method"),
        "At the last epoch (the paper's Table 4).",
        preset == "paper",
        "Plain training is compared with the paper's baseline, and T1-T2, however it is computed, "
        "with T1-T2 in the paper's pipeline.",
    )


def stopped_accuracy(run: RunRecord) -> float:
    """Test accuracy at the first epoch with the highest accuracy on the clean images."""
    return max(run.epochs, key=lambda row: row["meta_accuracy"])["accuracy"]


def _with_clean(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """Those that know their accuracy on the clean images; older ones do not."""
    return [run for run in runs if "meta_accuracy" in run.final]


def _minus(reference: str) -> Column:
    """A column of differences in accuracy from a reference, between runs of the same seed."""

    def cell(group: Group, name: str) -> Cell:
        runs = labelled(EXPERIMENT, [*group[name], *group.get(reference, ())])
        return number(measured(difference(EXPERIMENT, runs, name, reference)), signed=True)

    return cell


def _equal(group: Group, name: str) -> str:
    """How many of the runs have learned equal weights."""
    learned = [run.final for run in group[name] if "meta_loss" in run.final]
    alike = [f for f in learned if abs(f["weight_right"] - f["weight_wrong"]) < _ALIKE]
    return f"{len(alike)} of {len(learned)}" if learned else "–"


_RUNS: dict[str, Column] = {"runs": lambda group, name: str(len(group[name]))}
_USES: dict[str, Column] = {
    "last %": lambda group, name: metric_number(group[name], "accuracy"),
    "stopped %": lambda group, name: number(
        measured(map(stopped_accuracy, _with_clean(group[name])))
    ),
    "fine-tuned %": lambda group, name: metric_number(
        _with_clean(group[name]), "fine_tuned_accuracy"
    ),
    "failed": _equal,
}
_USES_CAPTION = (
    "Test accuracy at the last epoch; at the epoch with the highest accuracy on the clean images; "
    f"after {FINE_TUNING_STEPS} further steps on the clean images (SGD, rate "
    f"{FINE_TUNING_RATE:g}). Failed: runs whose weight net ended with equal weights."
)


def summary_table(groups: Groups) -> Table:
    """The README's: MNIST with the fewest clean images, else the first setting; the planned runs
    and those in which the weight net sees something else, if half as many as of another method."""

    def clean(setting: Setting) -> tuple[bool, int]:
        return setting[0] != "mnist", int(setting[1].split(", ")[1].split()[0])

    setting = min(groups, key=clean)
    group = as_planned(EXPERIMENT, groups[setting], "vnet_input", "log_loss")
    most = max((len(own) for own in group.values()), default=0)
    group = {name: own for name, own in group.items() if 2 * len(own) >= most}
    return table_of_runs(
        f"Label noise: {setting[0]}, {setting[1]} images",
        (),
        {(): group},
        {**_RUNS, f"− {_PLAIN.lower()}": _minus(_PLAIN), **_USES},
        f"{_USES_CAPTION} − {_PLAIN.lower()}: difference at the last epoch between runs of the "
        "same seed.",
    )


def difference_table(groups: Groups) -> Table:
    """Accuracy minus plain training's, and minus the exact hypergradient's, seed by seed."""
    return table_of_runs(
        "Label noise: differences between methods, in points of accuracy",
        _PLACES,
        groups,
        {**_RUNS, f"− {_PLAIN.lower()}": _minus(_PLAIN), f"− {_EXACT}": _minus(_EXACT)},
        "Mean over seeds of the difference between runs of the same seed, which have the same "
        "data, the same wrong labels and the same start; last epoch.",
    )


def clean_images_table(groups: Groups) -> Table:
    """Every method beside the simplest uses of the same clean images."""
    kept = {
        setting: {name: runs for name, own in group.items() if (runs := _with_clean(own))}
        for setting, group in groups.items()
    }
    title = "Label noise: what else the clean images are good for"
    return table_of_runs(title, _PLACES, kept, {**_RUNS, **_USES}, _USES_CAPTION)


def weights_table(groups: Groups) -> Table:
    """Last and best epoch, and whether the weight net has learned anything."""

    def final(metric: str) -> Column:
        return lambda group, name: metric_number(group[name], metric, digits=3)

    return table_of_runs(
        "Label noise: last and best epoch, and what the weight net has learned",
        _PLACES,
        groups,
        {
            "last %": _USES["last %"],
            "best %": lambda group, name: metric_number(group[name], "accuracy", source="best"),
            "weight, right labels": final("weight_right"),
            "weight, wrong labels": final("weight_wrong"),
            "weight net moved": final("moved"),
            "equal weights": _equal,
        },
        "Best: the epoch with the highest test accuracy, an oracle choice: it needs test labels. "
        "Weights: relative, mean over the last epoch. Moved: Euclidean distance of the weight "
        "net's parameters from their start. Equal weights: runs whose weight net ended constant "
        f"(right and wrong labels weigh the same, to within {_ALIKE:g}).",
    )


def _by_clean_images(records: Sequence[RunRecord]) -> dict[str, dict[float, list[float]]]:
    """Accuracies on MNIST of the planned settings by number of clean images, for each method and
    each simple use of the clean images, on the seeds that all its numbers have; empty unless there
    are several numbers."""
    rows = []
    for run in records:
        config = run.config
        if config["dataset"] != "mnist" or EXPERIMENT.differences(config):
            continue
        values = {EXPERIMENT.label(config): run.final["accuracy"]}
        if run.method == EXPERIMENT.baseline and "meta_accuracy" in run.final:
            values[f"{_PLAIN}, stopped"] = stopped_accuracy(run)
            values[f"{_PLAIN}, fine-tuned"] = run.final["fine_tuned_accuracy"]
        rows += [(name, config["meta_size"], run.seed, value) for name, value in values.items()]
    found = pd.DataFrame(rows, columns=["name", "size", "seed", "accuracy"])
    lines = {}
    for name, own in found.groupby("name"):
        table = own.pivot_table("accuracy", "seed", "size").dropna()
        if len(table.columns) > 1 and len(table):
            lines[str(name)] = {size: values.tolist() for size, values in table.items()}
    return lines


def _figures(setting: Setting, group: Group, folder: Path) -> Iterator[Figure]:
    """The figures of one data set with one noise, into ``folder``."""
    where, ending = f"{setting[0]}, noise {setting[1]}", "-".join(setting)
    ending = ending.replace(",", "").replace(" ", "-")
    weighted = {name: runs for name, runs in group.items() if "weight_end" in runs[0].curves}
    learned = {name: runs for name, runs in weighted.items() if "meta_loss" in runs[0].final}

    def saved(fig: Any, stem: str, shows: str, layout: str) -> Figure:
        caption = f"{shows}. {where}."
        alt = f"{caption} Drawn as {layout}."
        return save_figure(fig, folder, f"{stem}-{ending}", alt, caption)

    def accuracy(axis: Any, runs: Sequence[RunRecord]) -> None:
        plain = group.get(_PLAIN, [])
        for own, style, label in ((plain, _PALE, _PLAIN.lower()), (runs, _DARK, "method")):
            if own:
                draw_runs(axis, own, "accuracy", style, label)

    shown: list[Any] = [
        (group, "accuracy", accuracy, ("epoch", "accuracy (%)"),
         "Test accuracy by epoch, every run (thin) and their median, beside plain training"),
        (weighted, "weight-function", _functions, ("loss", "V(loss)"),
         "The weight as a function of the loss, at the start and at the end of training, one pair "
         "of lines per seed (a batch's weights are normalised, so only ratios along a line "
         "matter)"),
        (weighted, "weights", _histograms, ("relative weight", "share"),
         "Relative weights of samples with right and with wrong labels in the last epoch as shares "
         "of these samples, all seeds together (the last bin holds all larger ones)"),
    ]  # fmt: skip
    for runs, stem, draw, labels, shows in shown:
        if runs:
            with figure_style():
                fig, axes = panels(list(runs))
                for axis, own in zip(axes, runs.values(), strict=True):
                    draw(axis, own)
                    axis.set(xlabel=labels[0], ylabel=labels[1])
                    axis.label_outer()
                legend_below(fig, axes[-1])
                yield saved(fig, stem, shows, f"a panel for each of {', '.join(runs)}")
    if moved := as_planned(EXPERIMENT, learned):
        with figure_style():
            shows = (
                "Left: norm of the hypergradient that the weight net's optimiser is given, mean "
                "over the epoch. Right: distance of the weight net from its start. Every run "
                "(thin) and their median; other settings than the planned ones are in the tables"
            )
            yield saved(_movement(moved), "movement", shows, f"lines for {', '.join(moved)}")
    compared = as_planned(EXPERIMENT, group, "estimator.num_candidates")
    compared = {name: runs for name, runs in compared.items() if runs[0].method in _COMPARED}
    if learned and compared:
        label, stem = "test accuracy (%)", f"seconds-{ending}"
        yield metric_against_seconds(compared, "accuracy", label, folder, stem, where)


def _functions(axis: Any, runs: Sequence[RunRecord]) -> None:
    for run in runs:
        for name, style in (("start", _PALE), ("end", _DARK)):
            label = name if run is runs[0] else None
            axis.plot(LOSS_GRID.numpy(), run.curves[f"weight_{name}"], **style, lw=0.9, label=label)
    axis.set_ylim(-0.03, 1.03)


def _histograms(axis: Any, runs: Sequence[RunRecord]) -> None:
    edges = np.linspace(0, HISTOGRAM_MAX, HISTOGRAM_BINS + 1)
    for name, style in (("right", _DARK), ("wrong", _PALE)):
        counts = np.sum([run.curves[f"histogram_{name}"] for run in runs], axis=0)
        if counts.sum():
            look = {key: style[key] for key in ("color", "linestyle")}
            axis.stairs(counts / counts.sum(), edges, **look, label=f"{name} labels")
    axis.set_yscale("symlog", linthresh=0.01, linscale=0.5)
    axis.set_ylim(0, 1)


def _movement(group: Group) -> Any:
    """Norm of the hypergradient and distance of the weight net, a style per method."""
    quantities = {"hypergradient_norm": "hypergradient norm", "moved": "distance moved"}
    fig, axes = new_figure(columns=2)
    for axis, (metric, label) in zip(axes, quantities.items(), strict=True):
        for style, (name, runs) in zip(series_styles(len(group)), group.items(), strict=True):
            draw_runs(axis, runs, metric, style, name)
        axis.set(xlabel="epoch", ylabel=label, yscale="log")
    legend_below(fig, axes[0])
    return fig
