"""Makes the report of all finished runs of a preset: tables, figures, one HTML file.

python -m scripts.report --preset quick

First the answer (claims, metric against seconds), then whether the runs have the numbers of those
that the project ships, then every experiment.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

from common import claim_tables, claims
from common.claim_evidence import Kept, shipped
from common.command import run_command
from common.errors import UserError
from common.experiment import Experiment, load_experiment
from common.files import check_writable
from common.report import Group, as_planned, by_label
from common.reporting import (
    Figure,
    RunRecord,
    Section,
    Table,
    epoch_seconds,
    figure_style,
    legend_below,
    new_figure,
    save_figure,
    series_styles,
    utc_now,
    write_report,
    write_tables,
)
from common.reporting.forest import forest_plot
from common.settings import ROOT
from scripts.experiments import EXPERIMENTS

_INTRO = """
EvoGrad takes the gradient of the validation loss with respect to hyperparameters by one step of an
evolutionary update, without second-order derivatives; **T1-T2** is the exact hypergradient of one
unrolled training step. In the few-shot experiment, **FT** trains feature-wise transformations on
the training loss, **LFT** learns them by hypergradients. Filled marks: runs that the project ships;
open blue marks: the runs of this report. Written
"""
_SHOWN = ("evograd", "t1t2", "t1t2_forward")
"""Estimators beside the baseline; of the two ways to compute T1-T2 the first that was run."""
_CLOSE = 1e-3
"""Relative difference of metrics up to which runs are equal to the last digits."""
_MADE_WITH = ("torch", "device", "cpu", "torch_threads")
Runs = Mapping[str, Sequence[RunRecord]]
"""By experiment."""


@dataclass(frozen=True)
class Options:
    """Which runs, and where the report goes."""

    preset: str = "quick"
    """smoke, quick, study or paper."""
    records: Path = ROOT / "runs"
    """Where the runs are."""
    output: Path | None = None
    """Default: runs/report/PRESET."""


def main(argv: Sequence[str] | None = None) -> None:
    options = tyro.cli(Options, args=argv, prog="python -m scripts.report", description=__doc__)
    output = options.output or ROOT / "runs" / "report" / options.preset
    check_writable(output)
    own: dict[str, list[RunRecord]] = {}
    sections: list[Section] = []
    problems = []
    for name in EXPERIMENTS:
        experiment, own[name] = load_experiment(name), []
        try:
            records = experiment.records(options.preset, options.records / name / options.preset)
            if records:
                sections.append(experiment.section(records, options.preset, output / name))
                own[name] = records
        except UserError as error:  # the others are shown
            problems.append(f"the report lacks {name}: {error}")
    if sections:
        print("\n".join(write_page(options.preset, own, sections, output)), flush=True)
    elif not problems:
        raise UserError(
            f"{options.records} holds no finished runs of preset {options.preset}: "
            "run scripts/reproduce.sh first"
        )
    for problem in problems[1:]:
        print(problem, file=sys.stderr)
    if problems:
        raise UserError(problems[0])


def write_page(preset: str, own: Runs, sections: Sequence[Section], output: Path) -> list[str]:
    """Writes ``output``/index.html; returns its first screen in lines of text, and where it is."""
    experiments = [load_experiment(name) for name in own]
    results = ROOT / "results"
    judged = claims.judge(shipped(results, list(own)))
    sentence = claim_tables.sentence(judged)
    mine = Kept({(name, preset): runs for name, runs in own.items()})
    rows = claim_tables.forest_rows(judged, mine, preset)
    figures = [forest_plot(rows, output / "claims"), seconds_figure(own, output)]
    known = {
        e.name: e.records(preset, results / e.name / preset / "records")
        for e in experiments
        if preset in e.presets
    }
    tables = {"same-numbers": same_numbers(own, known)}
    write_tables(tables, output)
    path = write_report(
        [
            claim_tables.section(judged, output / "claims"),
            Section("Your runs", tables=tables, folder=output),
            *sections,
        ],
        output / "index.html",
        f"EvoGrad, reproduced (preset {preset})",
        [record.provenance for records in own.values() for record in records],
        f"**{sentence}** {_INTRO.strip()} {utc_now()}.",
        [figure for figure in figures if figure is not None],
    )
    return [sentence, *map(str, rows), f"report: {path}"]


def seconds_figure(runs: Runs, folder: Path) -> Figure | None:
    """The final metric of every run against its seconds of training: a panel for each experiment,
    at the place with most runs. None without runs."""
    chosen = [(e, _main_runs(e, runs[e.name])) for e in map(load_experiment, runs)]
    chosen = [(experiment, groups) for experiment, groups in chosen if groups]
    if not chosen:
        return None
    series = dict.fromkeys(kind for _, groups in chosen for kind in groups)
    styles = dict(zip(series, series_styles(len(series)), strict=True))
    columns = min(2, len(chosen))
    with figure_style():
        rows = -(-len(chosen) // columns)
        fig, axes = new_figure(rows, columns, width=4.4, height=0.2 + 1.5 * rows, squeeze=False)
        for axis in axes.flat[len(chosen) :]:
            axis.set_visible(False)
        for axis, (experiment, groups) in zip(axes.flat, chosen, strict=False):
            for kind, found in groups.items():
                x = [epoch_seconds(found) * r.epochs[-1]["epoch"] for r in found]
                y = [r.final[experiment.metric] for r in found]
                axis.plot(x, y, **styles[kind] | {"linestyle": "none"})
            axis.set_title(experiment.title.split(" (")[0], fontsize=6.5)
            axis.set(xlabel="seconds", ylabel=experiment.metric.replace("_", " "))
            axis.set_xlim(left=0)
        for kind, style in styles.items():
            axes.flat[0].plot([], [], **style | {"linestyle": "none"}, label=kind)
        legend_below(fig, axes.flat[0])
        shows = (
            "Each run: its metric (%) at the end against the seconds of training (of its method's "
            "least disturbed run), at the data set, domain or language with most runs"
        )
        panels = ", ".join(experiment.title for experiment, _ in chosen)
        alt = f"{shows}; panels: {panels}; for {', '.join(series)}."
        return save_figure(fig, folder, "seconds", alt=alt, caption=f"{shows}.")


def _main_runs(experiment: Experiment, records: Sequence[RunRecord]) -> Group:
    """Runs with planned settings of baseline, EvoGrad and T1-T2, at the place with most of them."""
    kinds = {experiment.baseline: "baseline"}
    for name, method in experiment.methods.items():
        if method.estimator in _SHOWN and name.removeprefix("lft_") in _SHOWN:
            kinds[name] = "EvoGrad" if method.estimator == "evograd" else "T1-T2"
    planned = as_planned(experiment, by_label(experiment, records)).values()
    places: dict[str, Group] = {}
    for record in (r for runs in planned for r in runs if "seconds_per_epoch" in r.cost):
        if record.method in kinds:
            place = str(experiment.place(record.config))
            places.setdefault(place, {}).setdefault(kinds[record.method], []).append(record)
    return max(places.values(), key=lambda group: sum(map(len, group.values())), default={})


def same_numbers(own: Runs, shipped: Runs) -> Table:
    """Own runs beside shipped ones with the same settings: how many have the same final metrics."""
    rows = []
    for experiment in map(load_experiment, own):
        known = {experiment.run_name(r.config): r for r in shipped.get(experiment.name, ())}
        named = [(record, experiment.run_name(record.config)) for record in own[experiment.name]]
        pairs = [(record, known[name]) for record, name in named if name in known]
        if pairs:
            far = [_distance(mine.final, theirs.final) for mine, theirs in pairs]
            made = {
                f"{key} {mine.provenance.get(key)} instead of {theirs.provenance.get(key)}"
                for (mine, theirs), distance in zip(pairs, far, strict=True)
                for key in _MADE_WITH
                if distance > 0 and mine.provenance.get(key) != theirs.provenance.get(key)
            }
            equal, close = sum(d == 0 for d in far), sum(0 < d <= _CLOSE for d in far)
            counts = equal, close, len(pairs) - equal - close
            because = "; ".join(sorted(made)) or ("not known" if any(far) else "–")
            rows.append((experiment.title, str(len(pairs)), *map(str, counts), because))
    columns = ["experiment", "runs", "same numbers", "to the last digits", "different", "because"]
    return Table(
        "Your runs and those that the project ships",
        pd.DataFrame(rows, columns=columns),
        f"Runs with the same settings and seeds. To the last digits: within {_CLOSE:g} of a "
        "metric's value.",
    )


def _distance(mine: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """The largest relative difference of a metric; infinite if one lacks it."""
    if mine.keys() != theirs.keys():
        return float("inf")
    return max((abs(mine[k] - theirs[k]) / max(abs(theirs[k]), 1e-12) for k in mine), default=0.0)


if __name__ == "__main__":
    run_command(main)
