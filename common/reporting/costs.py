"""The table of what a training step costs, method by method, relative to a baseline."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from common.reporting.tables import MISSING, Number, Table


def cost_table(
    title: str,
    costs: Mapping[str, Sequence[Mapping[str, Any]]],
    baseline: str,
    caption: str = "",
    notes: Sequence[str] = (),
) -> Table:
    """Milliseconds and peak megabytes per step, medians over measurements, and both relative to
    ``baseline``.

    costs: name of the row -> its measurements, each with ``seconds`` and ``peak_bytes`` (such as
    the ``cost`` of run records); rows without any are left out.
    """
    medians = {
        name: [statistics.median(cost[key] for cost in found) for key in ("seconds", "peak_bytes")]
        for name, found in costs.items()
        if found
    }
    reference = medians.get(baseline, [0, 0])
    rows = []
    for name, (seconds, peak) in medians.items():
        times, bytes_ = (
            Number(value / of) if of else MISSING
            for value, of in zip((seconds, peak), reference, strict=True)
        )
        runs = str(len(costs[name]))
        milliseconds, megabytes = Number(1e3 * seconds, digits=1), Number(peak / 1e6, digits=1)
        rows.append((name, milliseconds, times, megabytes, bytes_, runs))
    of = f"× {baseline.split(' (')[0].lower()}"
    columns = ("step", "ms", of, "peak MB", of, "measured")
    return Table(title, columns, tuple(rows), caption, tuple(notes))
