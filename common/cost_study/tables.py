"""The study's tables: costs of a figure, published beside measured, and the page on estimators."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from pandas import DataFrame

from common.cost_study.case import PublishedCost
from common.cost_study.methods import METHODS, NOT_RUN, PLAIN, methods_of
from common.cost_study.records import Measurement, Point
from common.estimators import ESTIMATORS
from common.reporting import MISSING, Cell, Number, Table

EVOGRAD, T1T2, HIGHER = "EvoGrad, K = 2", "T1T2", "HigherT1T2"

Figures = dict[tuple[str, str], dict[str, list[Measurement]]]
"""(experiment, figure) -> place in the figure -> its measurements, in the order of the tables."""


def by_figure(measurements: Iterable[Measurement], order: Sequence[Point] = ()) -> Figures:
    """Sorted by ``order`` (points that are not in it follow) and by the table of estimators."""
    places = {point: index for index, point in enumerate(order)}
    ranks = {name: index for index, name in enumerate([PLAIN, *(m.name for m in METHODS)])}

    def key(m: Measurement) -> tuple:
        return (places.get(m.point, len(places)), m.compiled, ranks.get(m.method, len(ranks)))

    figures: Figures = {}
    for m in sorted(measurements, key=key):
        points = figures.setdefault((m.point.experiment, m.point.figure), {})
        points.setdefault(m.point.x, []).append(m)
    return figures


def machine(measurements: Sequence[Measurement]) -> str:
    """On what, for captions: "cpu, 2 threads", "NVIDIA H200"."""
    first = measurements[0]
    if first.settings.device == "cpu":
        return f"cpu, {first.settings.threads} threads"
    return ", ".join(first.provenance.get("devices") or [first.settings.device])


def steps_table(figure: str, points: Mapping[str, Sequence[Measurement]]) -> Table:
    """Milliseconds, megabytes, and both relative to a plain step, by place and method."""
    rows: list = []
    for x, measurements in points.items():
        sizes = next((m for m in measurements if m.parameters), measurements[0])
        plural = "s" * (sizes.hyperparameters != 1)
        counts = (
            f"{sizes.parameters:,} parameters, {sizes.hyperparameters:,} hyperparameter{plural}"
        )
        rows += [(f"{x}: {counts}", *_cost_row(m)) for m in measurements]
    some = next(iter(points.values()))
    notes = ["K: EvoGrad's candidates. A method of several inner steps does them all in a step."]
    for x, measurements in points.items():
        found = {m.method for m in measurements}
        if missing := [m.name for m in METHODS if m.name not in found]:
            notes.append(f"{x}: {NOT_RUN}: {'; '.join(missing)}.")
    columns = ["block", "step", "ms", "× plain", "quartiles", "peak MB", "× plain", "note"]
    return Table(
        f"Cost of a training step: {figure} ({machine(some)})",
        DataFrame(rows, columns=columns),
        caption="Hypergradient and base step together, beside a plain training step; medians over "
        "rounds in which the method and the plain step took turns. Peak: memory beyond what was in "
        "use before the step.",
        notes=tuple(notes),
    )


def _cost_row(m: Measurement) -> tuple[Cell, ...]:
    if m.outcome != "measured":
        note = m.outcome if not m.reason or m.outcome == "does not fit" else m.reason
        return (m.row, *[MISSING] * 5, note)
    low, high = m.time_quartiles
    milliseconds = 1e3 * statistics.median(m.seconds)
    peak = MISSING if m.peak_bytes is None else Number(m.peak_bytes / 1e6, digits=1)
    rounds = f"{len(m.seconds)} rounds"
    quartiles = MISSING if m.is_plain else f"{low:.2f} to {high:.2f}"
    times, memory = Number(m.time_ratio), _number(m.memory_ratio)
    return (m.row, Number(milliseconds, digits=1), times, quartiles, peak, memory, rounds)


def _number(value: float | None) -> Cell:
    return MISSING if value is None else Number(value)


def ratio(
    points: Sequence[Measurement], numerator: str, denominator: str
) -> tuple[float | None, float | None]:
    """Time and memory in use (all of it, as the paper counts) of one method by another's; None
    where one of them was not measured."""
    found = {m.row: m for m in points if m.outcome == "measured"}
    if numerator not in found or denominator not in found:
        return None, None
    above, below = found[numerator], found[denominator]
    times = above.time_ratio / below.time_ratio
    if not above.total_bytes or not below.total_bytes:
        return times, None
    return times, above.total_bytes / below.total_bytes


def published_table(
    figures: Figures, experiment: str, published: Sequence[PublishedCost]
) -> Table | None:
    """Ratios between methods, the paper's and measured; None if the paper gives none that was
    measured."""
    rows = []
    for entry in published:
        points = figures.get((experiment, entry.figure), {}).get(entry.x, [])
        if not points:
            continue
        for below, above in combinations(entry.costs, 2):
            measured = ratio(points, above, below)
            higher = ratio(points, HIGHER, below) if above == T1T2 else (None, None)
            for index, quantity in ((1, "time"), (0, "memory")):
                rows.append(
                    (
                        entry.figure,
                        entry.x,
                        f"{above} / {below}",
                        quantity,
                        Number(entry.costs[above][index] / entry.costs[below][index]),
                        _number(measured[1 - index]),
                        _number(higher[1 - index]),
                    )
                )
    if not rows:
        return None
    columns = ["figure", "at", "ratio", "of", "published", "measured", "through higher"]
    return Table(
        "Ratios of cost, published and measured",
        DataFrame(rows, columns=columns),
        caption="The paper: seconds and gigabytes on a Titan X, training and the loading of data "
        "together. Here: one step on tensors that are there, and all memory of tensors at the "
        "peak. The last column takes HigherT1T2, the way the paper's T1-T2 was computed.",
    )


def estimators_table(measurements: Sequence[Measurement], references: Mapping[str, Point]) -> Table:
    """What every estimator needs, costs and is for.

    references: short title -> the case that stands for it. An estimator's cost is that of its
    first method.
    """
    columns = ["estimator", "needs", "exactness"]
    for title in references:
        columns += [f"time, {title}", f"memory, {title}"]
    found = {(m.point, m.row): m for m in measurements}
    rows = []
    for name, entry in ESTIMATORS.items():
        title = methods_of(name)[0].name
        costs: list[Cell] = []
        for point in references.values():
            m = found.get((point, title))
            if m is None or m.outcome != "measured":
                costs += [m.outcome if m else NOT_RUN] * 2
            else:
                costs += [_number(m.time_ratio), _number(m.memory_ratio)]
        rows.append((title, entry.needs, entry.exactness, *costs, entry.choose))
    return Table(
        "Hypergradient estimators",
        DataFrame(rows, columns=[*columns, "choose it for"]),
        caption="Time and memory: those of a training step with the hypergradient, in units of a "
        "plain training step"
        + (f" ({machine(measurements)})" if measurements else "")
        + "; memory beyond what was in use before.",
    )
