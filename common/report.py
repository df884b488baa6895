"""What the reports of all experiments share: ordered runs, rows, differences, panels, the section.

A place says where runs belong in the tables, apart from their method: the data set and its noise,
the languages, the unseen domain. A label is the method with the settings that are not the planned
ones, see ``Experiment.label``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import pandas as pd

from common.experiment import Experiment
from common.reporting import (
    MISSING,
    Cell,
    Comparison,
    Figure,
    Measured,
    Number,
    Published,
    RunRecord,
    Section,
    Table,
    collect_metric,
    cost_table,
    new_figure,
    write_tables,
)
from common.reporting.frame import frame, pairs
from common.settings import RunSettings

Place = tuple[Any, ...]
Placing = Callable[[Mapping[str, Any]], Place]
"""The place of a run, from its settings."""
Group = dict[str, list[RunRecord]]
"""Runs by label."""
INTERVAL_NOTE = "±: half-width of the 95 % confidence interval of the mean, by Student's t."
_COST_NOTES = (
    "Bytes are exact. ms: of the least disturbed run. Runs may have shared the machine; the cost "
    "study measures methods in turns.",
)


def by_place(
    experiment: Experiment,
    records: Iterable[RunRecord],
    place: Placing,
    order: Placing | None = None,
) -> dict[Place, Group]:
    """Runs by place and label: places sorted (by ``order`` if given), methods in the experiment's
    order, runs by seed."""
    methods = list(experiment.methods)

    def rank(record: RunRecord) -> tuple[Any, ...]:
        config = record.config
        method = methods.index(record.method)
        return (order or place)(config), method, experiment.variant(config), record.seed

    groups: dict[Place, Group] = {}
    for record in sorted(records, key=rank):
        group = groups.setdefault(place(record.config), {})
        group.setdefault(experiment.label(record.config), []).append(record)
    return groups


def by_label(experiment: Experiment, records: Iterable[RunRecord]) -> Group:
    """Runs by label, whatever their place."""
    return by_place(experiment, records, lambda config: ()).get((), {})


def as_planned(experiment: Experiment, group: Group, *allowed: str) -> Group:
    """The runs whose settings are the planned ones, but for those allowed to differ."""
    return {
        label: runs
        for label, runs in group.items()
        if experiment.differences(runs[0].config).keys() <= {*allowed}
    }


def comparisons(
    experiment: Experiment,
    places: Iterable[Place],
    groups: Mapping[Place, Group],
    planned: Iterable[RunSettings],
    place: Placing,
    published: Callable[[Mapping[str, Any]], Published | None],
    ci95: str | None = None,
) -> list[Comparison]:
    """The paper's values and the measured ones: at each place what was run, then what is planned
    and was not run. Runs whose settings are not the planned ones have no published value.

    ci95: see ``collect_metric``.
    """
    plan = [config.result_settings() for config in planned]
    counts = Counter((place(config), experiment.label(config)) for config in plan)
    configs = {(place(config), experiment.label(config)): config for config in plan}
    rows = []
    for where in places:
        group = groups.get(where, {})
        for label in dict.fromkeys([*group, *(name for found, name in counts if found == where)]):
            runs = group.get(label, [])
            config = runs[0].config if runs else configs[where, label]
            stated = None if experiment.variant(config) else published(config)
            ours = collect_metric(runs, experiment.metric, ci95=ci95)
            rows.append(((*where, label), stated, ours, counts[where, label] or None))
    return rows


def number(measured: Measured | None, digits: int = 2, signed: bool = False) -> Number | str:
    """Mean ± half the 95 % interval for a table; a dash without a measurement."""
    if measured is None:
        return MISSING
    return Number(measured.mean, measured.ci95, digits, signed, sd=measured.sd)


def metric_number(
    runs: Sequence[RunRecord],
    metric: str,
    digits: int = 2,
    source: Literal["final", "best"] = "final",
) -> Number | str:
    """A metric's mean ± half its 95 % interval over runs; a dash if they do not have it."""
    if not runs or metric not in getattr(runs[0], source):
        return MISSING
    return number(collect_metric(runs, metric, source), digits=digits)


def interval_table(
    title: str, columns: Sequence[str], rows: Sequence[Any], caption: str, *notes: str
) -> Table:
    """A table in which ± is half a 95 % interval, with a note that says so."""
    return Table(title, pd.DataFrame(rows, columns=list(columns)), caption, (INTERVAL_NOTE, *notes))


def table_of_runs(
    title: str,
    places: Sequence[str],
    groups: Mapping[Place, Group],
    cells: Mapping[str, Callable[[Group, str], Cell]],
    caption: str,
    *notes: str,
) -> Table:
    """An ``interval_table`` with a row for every place and label: the place, in columns named
    ``places``, the label, and what each of ``cells``, by column, gives for the place's runs and the
    label."""
    rows = [
        (*place, label, *(cell(group, label) for cell in cells.values()))
        for place, group in groups.items()
        for label in group
    ]
    return interval_table(title, (*places, "method", *cells), rows, caption, *notes)


def labelled(experiment: Experiment, records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per run as in ``frame``, with the label in column ``method``."""
    runs = frame(records)
    return runs.assign(method=[experiment.label(record.config) for record in runs["record"]])


def difference(
    experiment: Experiment, runs: pd.DataFrame, label: str, reference: str, *keys: str
) -> pd.Series:
    """The metric of ``label`` minus that of ``reference`` in runs with the same seed and ``keys``,
    by which it is indexed. runs: as from ``labelled``. Empty for the reference itself."""
    keys = (*keys, "seed")
    other = reference if reference != label else ""
    found = pairs(runs, f"final.{experiment.metric}", label, other, keys)
    return found.set_index(list(keys))["difference"]


def measured(values: Iterable[float]) -> Measured | None:
    """The values as Measured; None without any."""
    values = tuple(values)
    return Measured(values) if values else None


def step_costs(
    experiment: Experiment,
    title: str,
    records: Sequence[RunRecord],
    setting: Callable[[Mapping[str, Any]], str] = lambda config: "",
) -> Table:
    """The cost of a training step by label, relative to the baseline. setting: the name of the one
    that a run has; only the setting with most runs is shown."""
    names = [setting(record.config) for record in records]
    most = max(sorted(set(names)), key=names.count)
    shown = [record for record, name in zip(records, names, strict=True) if name == most]
    measured_runs = (record for record in shown if "seconds" in record.cost)
    costs = {
        label: [record.cost for record in runs]
        for label, runs in by_label(experiment, measured_runs).items()
    }
    baseline = experiment.methods[experiment.baseline].label
    caption = (
        f"Base step and meta step together{', ' * bool(most)}{most}. Peak: memory beyond what was "
        "in use before the step."
    )
    return cost_table(title, costs, baseline, caption, _COST_NOTES)


def panels(
    titles: Sequence[str], columns: int = 3, height: float = 1.25, share: bool = True
) -> tuple[Any, list[Any]]:
    """A figure with a panel for each title, in rows; its axes, which are shared by default."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    fig, axes = new_figure(
        rows, columns, height=0.3 + height * rows, sharex=share, sharey=share, squeeze=False
    )
    for axis in axes.flat[len(titles) :]:
        axis.set_visible(False)
    for axis, title in zip(axes.flat, titles, strict=False):
        title = fill(title.replace("estimator.", ""), 87 // columns, break_on_hyphens=False)
        axis.set_title(title, fontsize=6.5)
    return fig, list(axes.flat[: len(titles)])


def written_section(
    experiment: Experiment,
    intro: str,
    preset: str,
    records: Sequence[RunRecord],
    tables: Mapping[str, Table],
    figures: Sequence[Figure],
    folder: Path,
) -> Section:
    """The experiment's section; writes the tables into ``folder`` under their names."""
    write_tables(tables, folder)
    planned = len(experiment.planned(preset))
    return Section(experiment.title, intro, tables, tuple(figures), folder, len(records), planned)
