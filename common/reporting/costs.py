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
    """Milliseconds and peak megabytes per step, and both relative to ``baseline``.

    Milliseconds are the least of the measurements, since other work on a machine only adds to
    them; megabytes their median.

    costs: name of the row -> its measurements, each with ``seconds`` and ``peak_bytes`` (such as
    the ``cost`` of run records); rows without any are left out.
    """
    steps = {
        name: (
            min(cost["seconds"] for cost in found),
            statistics.median(cost["peak_bytes"] for cost in found),
        )
        for name, found in costs.items()
        if found
    }
    reference = steps.get(baseline, (0, 0))
    rows = []
    for name, (seconds, peak) in steps.items():
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
