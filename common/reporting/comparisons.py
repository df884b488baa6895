"""Tables that every experiment has: published beside measured, and what a training step costs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from common.reporting.published import Published
from common.reporting.statistics import Measured
from common.reporting.tables import MISSING, PLUS_MINUS, Cell, Number, Table

Comparison = tuple[tuple[str, ...], Published | None, Measured | None, int | None]
"""A row: its labels, the published value, the measured one, how many runs make it complete."""


def comparison_table(
    title: str,
    rows: Sequence[Comparison],
    labels: Sequence[str],
    caption: str,
    same_size: bool,
    *notes: str,
) -> Table:
    """Published beside measured, and measured minus published at the paper's size and data. ± is
    half a 95 % interval; where the paper gives standard deviations, those of either side. Notes say
    which. labels: names of the columns of labels."""
    found = [stated for _, stated, _, _ in rows if stated is not None]
    deviations = any(value.kind == "sd" for value in found)
    population = any(value.population for value in found if value.kind == "sd")
    cells = []
    for label, stated, ours, planned in rows:
        published: Cell = MISSING
        measured: Cell = MISSING
        difference: Cell = MISSING
        if stated is not None:
            published = Number(stated.mean, stated.spread, mark="*" if stated.copied else "")
        if ours is not None:
            deviation = ours.population_sd if population else ours.sd
            spread = deviation if deviations else ours.ci95
            measured = Number(ours.mean, spread, sd=None if deviations else ours.sd)
        if stated is not None and ours is not None and same_size:
            difference = Number(ours.mean - stated.mean, signed=True)
        cells.append(
            (*label, published, measured, runs_text(ours.n if ours else 0, planned), difference)
        )
    what = []
    if found and not same_size:
        what.append("The published values are of another size or other data: no differences.")
    if deviations:
        kind = "population" if population else "sample"
        what.append(f"{PLUS_MINUS}, as in the paper: {kind} standard deviation over runs.")
    elif found or any(ours is not None and ours.n > 1 for _, _, ours, _ in rows):
        what.append(
            f"{PLUS_MINUS}: half-width of the 95 % confidence interval; published and single "
            "runs: over test episodes, if any; several runs: of their mean, by Student's t."
        )
    if any(value.copied for value in found):
        what.append("*: quoted by the paper from another paper, whose pipeline it comes from.")
    columns = [*labels, "published", "measured", "runs", "difference"]
    return Table(title, pd.DataFrame(cells, columns=columns), caption, (*what, *notes))


def runs_text(present: int, planned: int | None) -> str:
    """How many runs are there: "3 of 5"; "3" where no number was planned or there are more."""
    return str(present) if planned is None or present > planned else f"{present} of {planned}"


def cost_table(
    title: str,
    costs: Mapping[str, Sequence[Mapping[str, Any]]],
    baseline: str,
    caption: str = "",
    notes: Sequence[str] = (),
) -> Table:
    """Milliseconds and peak megabytes per step, and both relative to ``baseline``.

    Milliseconds are the least of the steady measurements, those whose quartiles differ by at most a
    fifth, since other work on a machine only adds to them; megabytes the median of all.

    costs: name of the row -> its measurements, each with ``seconds``, its quartiles
    ``seconds_low`` and ``seconds_high``, and ``peak_bytes`` (such as the ``cost`` of run records);
    rows without any are left out.
    """
    steps = {
        name: (
            min((c["seconds"] for c in found if _is_steady(c)), default=None),
            statistics.median(c["peak_bytes"] for c in found),
        )
        for name, found in costs.items()
        if found
    }
    reference = steps.get(baseline, (None, None))
    rows = []
    for name, (seconds, peak) in steps.items():
        times, memory = (
            Number(value / of) if value is not None and of else MISSING
            for value, of in zip((seconds, peak), reference, strict=True)
        )
        milliseconds = MISSING if seconds is None else Number(1e3 * seconds, digits=1)
        megabytes = Number(peak / 1e6, digits=1)
        rows.append((name, milliseconds, times, megabytes, memory, str(len(costs[name]))))
    if any(seconds is None for seconds, _ in steps.values()):
        notes = (*notes, f"{MISSING}: no measurement whose quartiles differ by at most a fifth.")
    of = f"× {baseline.split(' (')[0].lower()}"
    data = pd.DataFrame(rows, columns=["step", "ms", of, "peak MB", of, "measured"])
    return Table(title, data, caption, tuple(notes))


def _is_steady(cost: Mapping[str, Any]) -> bool:
    """Whether the quartiles of a step's seconds differ by at most a fifth."""
    return cost.get("seconds_high", math.inf) <= 1.2 * cost.get("seconds_low", 0.0)
