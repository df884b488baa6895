"""The study's tables, and its measurements as sections of a report; tables and figures as files."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from pandas import DataFrame

from common.cost_study.case import RELEASED, PublishedCost
from common.cost_study.figures import cost_figure, counted_timed_figure, published_figure
from common.cost_study.records import (
    BY_KEY,
    EVOGRAD,
    HIGHER,
    PLAIN,
    T1T2,
    Measurement,
    Points,
    by_device,
    costs_of,
    machine,
    slug,
)
from common.estimators import ESTIMATORS
from common.reporting import MISSING, Cell, Number, Section, Table, write_tables

INTRO = """
Time and peak memory of one training step with each hypergradient, in units of a plain training
step (forward, backward, update) of the same network in the same process, on synthetic tensors of
the real shapes. "Does not fit" is a result: memory was not enough.
"""
NOT_RUN = "not measured at this size"
AS_RELEASED = {EVOGRAD: RELEASED[0], T1T2: RELEASED[1]}
Order = Sequence[tuple[str, str, str]]
"""Points (experiment, figure, x) in the order wanted."""
Published = Mapping[str, Sequence[PublishedCost]]
"""By experiment."""


def by_figure(
    measurements: Iterable[Measurement], order: Order = ()
) -> dict[tuple[str, str], dict[str, list[Measurement]]]:
    """(experiment, figure) -> points; sorted by ``order``, what is not in it last, and by the table
    of estimators."""
    places, keys = list(order), list(BY_KEY)

    def rank(m: Measurement) -> tuple:
        place = m.experiment, m.figure, m.x
        first = places.index(place) if place in places else len(places)
        return first, m.how == "compiled", keys.index(m.key) if m.key in keys else len(keys)

    figures: dict[tuple[str, str], dict[str, list[Measurement]]] = {}
    for m in sorted(measurements, key=rank):
        points = figures.setdefault((m.experiment, m.figure), {})
        points.setdefault(m.x, []).append(m)
    return figures


def _number(value: float | None, unit: float = 1.0, digits: int = 2) -> Cell:
    return MISSING if value is None else Number(value / unit, digits=digits)


def steps_table(figure: str, points: Points) -> Table:
    """Time (or operations) and megabytes, both also relative to a plain step, by place and row."""
    some = next(iter(points.values()))
    rows, notes = [], ["A method of several inner steps does them all in a step."]
    for x, measurements in points.items():
        sizes = next((m for m in measurements if m.parameters), measurements[0])
        block = f"{x}: {sizes.parameters:,} parameters, {sizes.hyperparameters:,} hyperparameter"
        block += "s" * (sizes.hyperparameters != 1)
        rows += [{"block": block, "step": m.row.label, **_costs(m)} for m in measurements]
        found = {m.key for m in measurements}
        every = {key: row for key, row in BY_KEY.items() if not row.how}
        if missing := [row.label for key, row in every.items() if key not in found]:
            notes.append(f"{x}: {NOT_RUN}: {'; '.join(missing)}.")
    if some[0].device == "counted":
        how = (
            "Operations: of floating-point numbers, in matrix products and convolutions. Both are "
            "counted on shapes alone, and equal on every machine."
        )
    else:
        how = "Medians over rounds in which the method and the plain step took turns."
    return Table(
        f"Cost of a training step: {figure} ({machine(some)})",
        DataFrame(rows),
        f"Hypergradient and base step together, beside a plain training step. {how} Peak: memory "
        "beyond what was in use before the step; in all: with that.",
        tuple(notes),
    )


def _costs(m: Measurement) -> dict[str, Cell]:
    """Of a row, by column."""
    if m.device == "counted":
        cells = {
            "GFLOP": _number(m.operations, 1e9, 1),
            "operations, plain = 1": _number(m.operations_ratio),
        }
    else:
        low, high = m.time_quartiles or (0.0, 0.0)
        known = m.seconds and m.key != PLAIN
        cells = {
            "ms": _number(statistics.median(m.seconds) if m.seconds else None, 1e-3, 1),
            "time, plain = 1": _number(m.time_ratio),
            "quartiles": f"{low:.2f} to {high:.2f}" if known else MISSING,
        }
    note = f"{len(m.seconds)} rounds" if m.seconds else ""
    if not m.known:
        note = m.outcome if not m.reason or m.outcome == "does not fit" else m.reason
    return cells | {
        "peak MB": _number(m.peak_bytes, 1e6, 1),
        "memory, plain = 1": _number(m.memory_ratio),
        "in all MB": _number(m.total_bytes, 1e6, 1),
        "note": note,
    }


def published_table(
    figures: Mapping[tuple[str, str], Points], experiment: str, published: Sequence[PublishedCost]
) -> Table | None:
    """Ratios between methods, the paper's and ours; None if the paper gives none that was
    measured."""
    rows = []
    for entry in published:
        points = figures.get((experiment, entry.figure), {}).get(entry.x, [])
        for below, above in combinations(entry.costs, 2) if points else ():
            ways = {"here": (above, below)}
            ways["as released"] = (AS_RELEASED.get(above, above), AS_RELEASED.get(below, below))
            ways["through higher"] = (HIGHER if above == T1T2 else "", below)
            for place, quantity in enumerate(("time", "memory")):
                theirs = entry.costs[above][1 - place] / entry.costs[below][1 - place]
                row: dict[str, Cell] = {"figure": entry.figure, "at": entry.x}
                row["ratio"] = f"{BY_KEY[above].label} / {BY_KEY[below].label}"
                row |= {"of": quantity, "published": Number(theirs)}
                for way, keys in ways.items():
                    over, under = (costs_of(points, key)[place] for key in keys)
                    row[way] = _number(over / under if over and under else None)
                rows.append(row)
    if not rows:
        return None
    return Table(
        "Ratios of cost, published and here",
        DataFrame(rows),
        "The paper: seconds and gigabytes on a Titan X, training and the loading of data together. "
        "Here: one step on tensors that are there, and all memory of tensors at the peak; counted, "
        "time is floating-point operations. Through higher: the library by which T1-T2 was first "
        "computed.",
    )


def gigabytes_table(points: Points, published: Sequence[PublishedCost]) -> Table:
    """All memory in use by place: the paper's, and each way to take a step."""
    known = {entry.x: entry.costs for entry in published}
    rows = []
    for x, found in points.items():
        row: dict[str, Cell] = {"at": x}
        for key in (EVOGRAD, T1T2):
            costs = known.get(x, {})
            theirs = costs.get(key) or costs.get(AS_RELEASED[key]) or [None]
            row[f"{ESTIMATORS[key.split()[0]].label}, published"] = _number(theirs[0])
            for shown in (AS_RELEASED[key], key):
                row[BY_KEY[shown].label] = _number(costs_of(found, shown)[1], 1e9)
        row[BY_KEY["t1t2_mixed"].label] = _number(costs_of(found, "t1t2_mixed")[1], 1e9)
        rows.append(row)
    return Table(
        "Gigabytes in use at the peak of a step, published and counted",
        DataFrame(rows),
        "Parameters, optimiser states, gradients, batches and everything that a step keeps; not "
        "what a GPU's libraries take for themselves.",
    )


def estimators_table(
    measurements: Sequence[Measurement], references: Mapping[str, tuple[str, str, str]]
) -> Table:
    """What every estimator needs, costs and is for.

    references: short title -> the case (experiment, figure, x) that stands for it. An estimator's
    cost is that of its first row.
    """
    found = {(m.experiment, m.figure, m.x, m.key): m for m in measurements}
    rows = []
    for name, entry in ESTIMATORS.items():
        first = next(row for row in BY_KEY.values() if row.method == name and not row.how)
        cells: dict[str, Cell] = {
            "estimator": first.label, "needs": entry.needs, "exactness": entry.exactness
        }  # fmt: skip
        for title, point in references.items():
            m = found.get((*point, first.key))
            pair: list[Cell] = [m.outcome if m else NOT_RUN] * 2
            if m and m.known:
                pair = [_number(m.time_ratio), _number(m.memory_ratio)]
            cells |= {f"time, {title}": pair[0], f"memory, {title}": pair[1]}
        rows.append(cells | {"choose it for": entry.choose})
    return Table(
        "Hypergradient estimators",
        DataFrame(rows),
        "Time and memory: those of a training step with the hypergradient, in units of a plain "
        "training step"
        + (f" ({machine(measurements)})" if measurements else "")
        + "; memory beyond what was in use before.",
    )


def sections(
    measurements: Sequence[Measurement], order: Order, published: Published, folder: Path
) -> list[Section]:
    """One section for each device, and one of what was counted beside what was timed and what the
    paper says; tables and figures in ``folder``, the files' names ending with the device."""
    groups = by_device(measurements)
    figures = {device: by_figure(found, order) for device, found in groups.items()}
    made = [_section(device, own, published, folder) for device, own in figures.items()]
    timed = next((device for device in ("cuda", "cpu") if device in groups), "")
    of_both = groups.get("counted", []), groups.get(timed, [])
    pictures = [counted_timed_figure(*of_both, folder, "counted-timed")]
    if measurements and measurements[0].size == "paper":
        for experiment, entries in published.items():
            for figure in dict.fromkeys(entry.figure for entry in entries):
                beside = [entry for entry in entries if entry.figure == figure]
                counted, seconds = (
                    figures.get(d, {}).get((experiment, figure), {}) for d in ("counted", timed)
                )
                stem = slug(beside[0].where)
                pictures.append(published_figure(counted, seconds, beside, folder, stem))
    shown = tuple(filter(None, pictures))
    return [*made, Section("Counted, timed and published", "", {}, shown, folder)]


def _section(
    device: str, figures: Mapping[tuple[str, str], Points], published: Published, folder: Path
) -> Section:
    tables, pictures = {}, []
    for (experiment, figure), points in figures.items():
        stem = f"{slug(figure)}-{device}"
        tables[stem] = steps_table(figure, points)
        pictures.append(cost_figure(figure, points, folder, stem))
        beside = [p for p in published.get(experiment, ()) if p.figure == figure]
        size = next(iter(points.values()))[0].size
        # Of a CPU the bytes are those that are counted.
        if beside and size == "paper" and device != "cpu":
            tables[f"{slug(figure)}-published-{device}"] = gigabytes_table(points, beside)
    for experiment, entries in published.items():
        if (table := published_table(figures, experiment, entries)) is not None:
            tables[f"{slug(experiment)}-published-{device}"] = table
    write_tables(tables, folder)
    title = f"Cost of hypergradients: {device}"
    return Section(title, INTRO, tables, tuple(filter(None, pictures)), folder)
