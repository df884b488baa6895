"""The study's tables: costs of a figure, published beside measured, and the page on estimators."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from pandas import DataFrame

from common.cost_study.case import PublishedCost
from common.cost_study.records import Measurement
from common.cost_study.released import RELEASED
from common.cost_study.rows import BY_KEY, EVOGRAD, HIGHER, ORDER, PLAIN, RANK, T1T2
from common.estimators import ESTIMATORS
from common.reporting import MISSING, Cell, Number, Table

Points = Mapping[str, Sequence[Measurement]]
"""Place in a figure -> its measurements, in the order of the tables."""
NOT_RUN = "not measured at this size"
AS_RELEASED = {EVOGRAD: RELEASED[0], T1T2: RELEASED[1]}


def by_figure(
    measurements: Iterable[Measurement], order: Sequence[tuple[str, str, str]] = ()
) -> dict[tuple[str, str], dict[str, list[Measurement]]]:
    """(experiment, figure) -> points; sorted by ``order``, of (experiment, figure, x), what is not
    in it last, and by the table of estimators."""
    places = {point: index for index, point in enumerate(order)}

    def rank(m: Measurement) -> tuple:
        place = places.get((m.experiment, m.figure, m.x), len(places))
        return place, m.how == "compiled", RANK.get(m.key, len(RANK))

    figures: dict[tuple[str, str], dict[str, list[Measurement]]] = {}
    for m in sorted(measurements, key=rank):
        points = figures.setdefault((m.experiment, m.figure), {})
        points.setdefault(m.x, []).append(m)
    return figures


def machine(measurements: Sequence[Measurement]) -> str:
    """On what, for captions: "cpu, 2 threads", "NVIDIA H200", "counted"."""
    first = measurements[0]
    if first.device == "cpu":
        return f"cpu, {first.threads} threads"
    return ", ".join(first.provenance.get("devices") or [first.device])


def steps_table(figure: str, points: Points) -> Table:
    """Time (or operations) and megabytes, both also relative to a plain step, by place and row."""
    some = next(iter(points.values()))
    rows, notes = [], ["A method of several inner steps does them all in a step."]
    for x, measurements in points.items():
        sizes = next((m for m in measurements if m.parameters), measurements[0])
        plural = "s" * (sizes.hyperparameters != 1)
        block = f"{x}: {sizes.parameters:,} parameters, "
        block += f"{sizes.hyperparameters:,} hyperparameter{plural}"
        rows += [{"block": block, **_cost_row(m)} for m in measurements]
        found = {m.key for m in measurements}
        if missing := [row.label for row in ORDER if not row.how and row.key not in found]:
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


def _cost_row(m: Measurement) -> dict[str, Cell]:
    row: dict[str, Cell] = {"step": m.row.label}
    low, high = m.time_quartiles or (0.0, 0.0)
    if m.device == "counted":
        row["GFLOP"] = _number(m.operations, 1e9, 1)
        row["operations, plain = 1"] = _number(m.operations_ratio)
    else:
        row["ms"] = _number(statistics.median(m.seconds) if m.seconds else None, 1e-3, 1)
        row["time, plain = 1"] = _number(m.time_ratio)
        known = m.seconds and m.key != PLAIN
        row["quartiles"] = f"{low:.2f} to {high:.2f}" if known else MISSING
    row["peak MB"] = _number(m.peak_bytes, 1e6, 1)
    row["memory, plain = 1"] = _number(m.memory_ratio)
    row["in all MB"] = _number(m.total_bytes, 1e6, 1)
    note = f"{len(m.seconds)} rounds" if m.seconds else ""
    if not m.known:
        note = m.outcome if not m.reason or m.outcome == "does not fit" else m.reason
    return row | {"note": note}


def _number(value: float | None, unit: float = 1.0, digits: int = 2) -> Cell:
    return MISSING if value is None else Number(value / unit, digits=digits)


def costs_of(points: Sequence[Measurement], key: str) -> tuple[float | None, float | None]:
    """Time in plain steps (operations where only those were counted) and all bytes in use, as the
    paper counts; None where there are none."""
    m = next((m for m in points if m.key == key and m.known), None)
    if m is None:
        return None, None
    return (m.time_ratio if m.seconds else m.operations_ratio), m.total_bytes


def ratio(
    points: Sequence[Measurement], above: str, below: str
) -> tuple[float | None, float | None]:
    """Time and memory of one row by another's."""
    pairs = zip(costs_of(points, above), costs_of(points, below), strict=True)
    time, memory = (a / b if a and b else None for a, b in pairs)
    return time, memory


def published_table(
    figures: Mapping[tuple[str, str], Points], experiment: str, published: Sequence[PublishedCost]
) -> Table | None:
    """Ratios between methods, the paper's and ours; None if the paper gives none that was
    measured."""
    rows = []
    for entry in published:
        points = figures.get((experiment, entry.figure), {}).get(entry.x, [])
        for below, above in combinations(entry.costs, 2) if points else ():
            released = (AS_RELEASED.get(above, above), AS_RELEASED.get(below, below))
            kinds = {
                "here": ratio(points, above, below),
                "as released": ratio(points, *released),
                "through higher": ratio(points, HIGHER, below) if above == T1T2 else (None, None),
            }
            for place, quantity in enumerate(("time", "memory")):
                theirs = entry.costs[above][1 - place] / entry.costs[below][1 - place]
                ours = {name: _number(found[place]) for name, found in kinds.items()}
                rows.append(
                    {
                        "figure": entry.figure,
                        "at": entry.x,
                        "ratio": f"{BY_KEY[above].label} / {BY_KEY[below].label}",
                        "of": quantity,
                        "published": Number(theirs),
                        **ours,
                    }
                )
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
            theirs = costs.get(key) or costs.get(AS_RELEASED[key])
            name = ESTIMATORS[key.split()[0]].label
            row[f"{name}, published"] = _number(theirs[0] if theirs else None)
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
            time, memory = f"time, {title}", f"memory, {title}"
            if m is None or not m.known:
                cells[time] = cells[memory] = m.outcome if m else NOT_RUN
            else:
                cells[time], cells[memory] = _number(m.time_ratio), _number(m.memory_ratio)
        rows.append(cells | {"choose it for": entry.choose})
    return Table(
        "Hypergradient estimators",
        DataFrame(rows),
        "Time and memory: those of a training step with the hypergradient, in units of a plain "
        "training step"
        + (f" ({machine(measurements)})" if measurements else "")
        + "; memory beyond what was in use before.",
    )
