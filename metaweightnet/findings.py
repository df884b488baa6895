"""What users ask about learned weights, at the primary setting: a table and a figure a question.

Each question changes one thing in the planned runs of the same seeds; see ``QUESTIONS``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from common.report import interval_table, metric_number
from common.reporting import (
    MISSING,
    Figure,
    RunRecord,
    Table,
    figure_style,
    legend_below,
    new_figure,
    save_figure,
    series_styles,
)
from metaweightnet.config import EXPERIMENT, QUESTIONS

Lines = Mapping[str, Mapping[float, Sequence[float]]]
"""Accuracies by name of the line and by x."""
_WHERE = "MNIST, 60 % uniform noise, 100 clean images"
_SHOWN = ("plain", "evograd", "along_gradient", "t1t2_forward")
_LABELS = {name: method.label for name, method in EXPERIMENT.methods.items()}
_ASKED = [{k: list(v) if isinstance(v, tuple) else v for k, v in q.items()} for q in QUESTIONS]


class Question(NamedTuple):
    """A question about a setting, whose planned value is a run like any other.

    key: the setting that answers it. of: what the table shows of their values. x: the horizontal
    axis, from a run and the costs of a step; None: no figure.
    """

    title: str
    key: str
    of: Callable[[Mapping[str, Any]], str]
    x: Callable[[RunRecord, Mapping[str, float]], float] | None = None
    xlabel: str = ""


def _trainings(run: RunRecord, costs: Mapping[str, float]) -> float:
    """The cost of a training in plain trainings of the planned number of epochs."""
    steps = 1 + (costs[run.method] - 1) / run.config["every"]
    return round(steps * run.config["epochs"] / EXPERIMENT.presets["study"].epochs, 2)


_FOUND = (
    Question(
        "A meta step every m steps", "every", lambda c: f"m = {c['every']}", _trainings,
        "cost of the training, in plain trainings (m = 10, 5, 2, 1)",
    ),
    Question(
        "Equal time", "epochs", lambda c: f"{c['epochs']} epochs", _trainings,
        "cost of the training, in plain trainings",
    ),
    Question(
        "Number of hyperparameters", "meta_hidden", lambda c: f"{3 * c['meta_hidden'] + 1:,}",
        lambda run, costs: 3 * run.config["meta_hidden"] + 1, "parameters of the weight net",
    ),
    Question(
        "Size of EvoGrad's noise", "estimator.sigma",
        lambda c: f"sigma = {c['estimator']['sigma']:g}" if "sigma" in c["estimator"] else MISSING,
        lambda run, costs: run.config["estimator"].get("sigma"), "sigma",
    ),
    Question(
        "What the weight net sees", "log_loss",
        lambda c: "log of the loss" if c["log_loss"] else "the loss",
    ),
    Question(
        "The weight net's optimiser", "meta_optimizer",
        lambda c: "SGD, as in the paper" if c["meta_optimizer"] == "sgd" else "AdamW",
    ),
)  # fmt: skip


def asked(config: Mapping[str, Any]) -> bool:
    """Whether a run's settings are those of a question."""
    return {"method": config["method"], **EXPERIMENT.differences(config)} in _ASKED


def answers(records: Sequence[RunRecord], folder: Path) -> tuple[dict[str, Table], list[Figure]]:
    """The table of all questions, and a figure for those about a number; nothing without runs."""
    runs = [r for r in records if asked(r.config)]
    if not runs:
        return {}, []
    seeds, place = {r.seed for r in runs}, EXPERIMENT.place(runs[0].config)
    as_planned = [r for r in records if not EXPERIMENT.differences(r.config)]
    planned = [r for r in as_planned if r.seed in seeds and EXPERIMENT.place(r.config) == place]
    # A step of each method in plain steps, each of the least disturbed run.
    least: dict[str, float] = {}
    for run in as_planned:
        if run.config["dataset"] == place["dataset"] and "seconds" in run.cost:
            least[run.method] = min(run.cost["seconds"], least.get(run.method, math.inf))
    costs = {method: seconds / least[EXPERIMENT.baseline] for method, seconds in least.items()}
    rows, figures = [], []
    for title, key, value_of, x, xlabel in _FOUND:
        own = [r for r in runs if key in EXPERIMENT.differences(r.config)]
        methods = _SHOWN if x is _trainings else {r.method for r in own}
        own = [r for r in planned if own and r.method in methods] + own
        for value in dict.fromkeys(value_of(r.config) for r in own):
            at = [r for r in own if value_of(r.config) == value]
            cells = (metric_number([r for r in at if r.method == m], "accuracy") for m in _SHOWN)
            rows.append((title, value, *cells))
        if own and x:
            lines: dict[str, dict[float, list[float]]] = {}
            for run in own:
                line = lines.setdefault(_LABELS[run.method], {})
                line.setdefault(x(run, costs), []).append(run.final["accuracy"])
            stem = f"question-{key.split('.')[-1].replace('_', '-')}"
            figures.append(lines_figure(lines, folder, stem, xlabel, f"{title}: {_WHERE}."))
    table = interval_table(
        "What changes the answer: test accuracy (%) at the last epoch",
        ("question", "setting", *(_LABELS[m] for m in _SHOWN)),
        rows,
        f"{_WHERE}, seeds {min(seeds)} to {max(seeds)}.",
    )
    return {"questions": table}, figures


def lines_figure(lines: Lines, folder: Path, stem: str, xlabel: str, shows: str) -> Figure:
    """Accuracy against a number, a line a name through the medians, a dot a run."""
    with figure_style():
        fig, axis = new_figure(height=3.2)
        for style, (name, values) in zip(series_styles(len(lines)), lines.items(), strict=True):
            order = sorted(values)
            axis.plot(order, [median(values[x]) for x in order], **style, label=name)
            for x in order:
                axis.plot([x] * len(values[x]), values[x], ".", color=style["color"], ms=2.5)
        axis.set(xlabel=xlabel, ylabel="test accuracy (%)")
        ticks = sorted({x for values in lines.values() for x in values})
        if ticks[-1] >= 10 * ticks[0]:
            axis.set_xscale("log")
            axis.set_xticks(ticks, [f"{x:,g}" for x in ticks])
            axis.minorticks_off()
        legend_below(fig, axis)
        caption = f"{shows} Dots: runs; lines: their medians."
        alt = f"{caption} Lines for {', '.join(lines)}."
        return save_figure(fig, folder, stem, alt, caption)
