"""The table of the cheaper variants: what a step costs, and how near its hypergradient comes."""

from collections.abc import Sequence

from common.reporting import Number, Table
from common.reporting.tables import MISSING
from common.study.fidelity_cost import REFERENCE
from common.study.fidelity_rows import NAMES, Record, find, number, stage_records


def variants_table(records: Sequence[Record], experiment: str) -> Table:
    """Cost of a whole step relative to EvoGrad's, beside fidelity."""
    stages = stage_records(records, experiment)
    costs = stages["end"]["costs"]
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
    places = {
        REFERENCE: ("K", 2),
        "EvoGrad, K = 8": ("K", 8),
        "one candidate at theta": ("kind", "one at theta"),
        "one candidate at theta, shared with the base step": ("kind", "one at theta"),
        "along g": ("along g", 0.01),
        "finite difference": ("finite difference", 0.01),
        "shared features, K = 2": ("kind", "last stage"),
        "vmapped, K = 2": ("K", 2),
        "vmapped, K = 8": ("K", 8),
    } | {f"{part} perturbed": ("kind", part) for part in ("last stage", "last layer",
                                                          "linear layers")}  # fmt: skip
    measure, scale = ("sign_agreement", 100) if experiment == "rotation" else ("cosine", 1)
    rows = []
    for name, (seconds, peak) in steps.items():
        place = places.get(name)
        cells = [
            number(find(record, *place), measure, 0 if scale == 100 else 2, scale)
            if place else MISSING
            for record in stages.values()
        ]  # fmt: skip
        rows.append((name, Number(seconds), Number(peak), *cells))
    what = "sign %" if experiment == "rotation" else "cosine"
    return Table(
        f"{NAMES[experiment]}: cheaper variants, cost and fidelity",
        ("step", "time", "memory", *(f"{what}, {stage}" for stage in stages)),
        tuple(rows),
        caption="Hypergradient and base step together, relative to EvoGrad with K = 2; fastest of "
        "the rounds. Memory: beyond what was in use before. Every m steps: by arithmetic.",
        notes=("On a CPU: processor time, so that other work on the machine does not count.",),
    )
