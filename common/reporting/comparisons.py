"""Tables that every experiment has: published beside measured, and what a training step costs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from common.reporting.published import Published
from common.reporting.statistics import Measured, Verdict, judge
from common.reporting.tables import BLOCK, MISSING, PLUS_MINUS, Cell, Number, Table

_APART = "At another size or on other data: shown for orientation, not judged"


@dataclass(frozen=True)
class Comparison:
    """One row of a comparison table: what was published and what was measured for one setting."""

    label: str | tuple[str, ...]  # one entry per label column
    published: Published | None
    measured: Measured | None
    planned: int | None = None  # runs that make the row complete
    comparable: bool = True  # same size and data as the paper; only such rows are judged

    @property
    def verdict(self) -> Verdict:
        """``judge``, for comparable rows."""
        return judge(self.published, self.measured) if self.comparable else "not judged"


def comparison_table(
    title: str,
    rows: Sequence[Comparison],
    *,
    label_columns: tuple[str, ...] = ("",),
    caption: str = "",
    notes: Sequence[str] = (),
) -> Table:
    """Published beside measured, and measured minus published. Rows that are not comparable follow
    in a block of their own, without a verdict. ± is half a 95 % interval; where the paper gives
    standard deviations, those of either side. Notes say which."""
    found = [row.published for row in rows if row.published is not None]
    deviations = [value for value in found if value.kind == "sd"]
    population = any(value.population for value in deviations)
    cells = []
    for row in sorted(rows, key=lambda row: not row.comparable):
        theirs, ours = row.published, row.measured
        published: Cell = MISSING
        measured: Cell = MISSING
        difference: Cell = MISSING
        if theirs is not None:
            published = Number(theirs.mean, theirs.spread, mark="*" if theirs.copied else "")
        if ours is not None:
            deviation = ours.population_sd if population else ours.sd
            spread = deviation if deviations else ours.ci95
            measured = Number(ours.mean, spread, sd=None if deviations else ours.sd)
        if theirs is not None and ours is not None:
            difference = Number(ours.mean - theirs.mean, signed=True)
        labels = (row.label,) if isinstance(row.label, str) else row.label
        runs = runs_text(ours.n if ours else 0, row.planned)
        block = "" if row.comparable else _APART
        cells.append((block, *labels, published, measured, runs, difference, row.verdict))
    columns = [BLOCK, *label_columns, "published", "measured", "runs", "difference", "verdict"]
    data = pd.DataFrame(cells, columns=columns)
    if all(row.comparable for row in rows):
        data = data.drop(columns=BLOCK)
    what = []
    if deviations:
        kind = "population" if population else "sample"
        what.append(f"{PLUS_MINUS}, as in the paper: {kind} standard deviation over runs.")
    elif found or any(row.measured is not None and row.measured.n > 1 for row in rows):
        what.append(
            f"{PLUS_MINUS}: half-width of the 95 % confidence interval; published and single "
            "runs: over test episodes, if any; several runs: of their mean, by Student's t."
        )
    if any(value.copied for value in found):
        what.append("*: quoted by the paper from another paper, whose pipeline it comes from.")
    return Table(title, data, caption, (*what, *notes))


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
