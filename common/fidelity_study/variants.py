"""The table of the cheaper variants: what a step costs, and how close its hypergradient gets."""

from collections.abc import Sequence
from typing import Any

from pandas import DataFrame

from common.fidelity_study.cost import REFERENCE
from common.fidelity_study.records import FidelityRecord
from common.fidelity_study.rows import find, main_heading, main_number, stage_records, titles
from common.reporting import MISSING, Number, Table


def variants_table(records: Sequence[FidelityRecord], experiment: str) -> Table:
    """Cost of a whole step relative to EvoGrad's, beside fidelity."""
    stages = stage_records(records, experiment)
    last = list(stages.values())[-1]
    costs = last.costs
    # The fastest round: other work on the machine can only add to it.
    least = {
        name: [min(c[key] for c in found) for key in ("seconds", "peak_bytes")]
        for name, found in costs.items()
    }
    base, (reference, reference_peak) = least["base step alone"][0], least[REFERENCE]
    meta = reference - base
    steps = {name: (seconds / reference, peak / reference_peak)
             for name, (seconds, peak) in least.items()}  # fmt: skip
    steps |= {f"EvoGrad every {m} steps": ((base + meta / m) / reference, 1.0) for m in (2, 5, 10)}
    rows = []
    for name, (seconds, peak) in steps.items():
        place: Any = last.fidelity_of.get(name)
        cells = [
            main_number(record, find(record, *place)) if place else MISSING
            for record in stages.values()
        ]
        rows.append((name, Number(seconds), Number(peak), *cells))
    what = main_heading(last)
    return Table(
        f"{titles(records)[experiment]}: cheaper variants, cost and fidelity",
        DataFrame(rows, columns=["step", "time", "memory", *(f"{what}, {s}" for s in stages)]),
        caption="Hypergradient and base step together, relative to EvoGrad with K = 2; fastest of "
        "the rounds. Memory: beyond what was in use before. Every m steps: by arithmetic.",
        notes=("On a CPU: processor time, so that other work on the machine does not count.",),
    )
