"""The fidelity study's tables, from its records."""

import statistics
from collections.abc import Sequence
from typing import Any

from pandas import DataFrame

from common.fidelity_study.cost import REFERENCE
from common.fidelity_study.records import STAGES, FidelityRecord, Prediction
from common.fidelity_study.rows import (
    find,
    main_heading,
    main_number,
    number,
    reading_label,
    stage_records,
    titles,
)
from common.reporting import MISSING, Number, Table

# Rows of the summary: name -> series and x. The paper's setting comes first.
SUMMARY: dict[str, tuple[str, float | str]] = {
    "EvoGrad, K = 2": ("K", 2),
    "EvoGrad, K = 8": ("K", 8),
    "EvoGrad, K = 32": ("K", 32),
    "K = 2, antithetic": ("kind", "antithetic"),
    "K = 2, Gaussian": ("kind", "gaussian"),
    "K = 2, sigma = 0.1": ("sigma", 0.1),
    "K = 2, one at theta": ("kind", "one at theta"),
    "K = 2, by differences": ("kind", "by differences"),
    "K = 2, one at theta, by differences": ("kind", "one at theta, by differences"),
    "K = 2, last stage": ("kind", "last stage"),
    "K = 2, linear layers": ("kind", "linear layers"),
    "K = 2, last layer": ("kind", "last layer"),
    "T1-T2, g at theta": ("one step, g at theta", "T1-T2"),
    "along g, radius 0.01": ("along g", 0.01),
    "along g, radius 0.1": ("along g", 0.1),
    "along g, one-sided, radius 0.01": ("along g, one-sided", 0.01),
    "finite difference, radius 0.01": ("finite difference", 0.01),
    "finite difference, radius 0.1": ("finite difference", 0.1),
}


def tables(records: Sequence[FidelityRecord]) -> dict[str, Table]:
    """File name -> table; those without rows are left out."""
    found = {
        "summary": _summary(records),
        "settings": _settings(records),
        "precision": _precision(records),
        "sizes": _sizes(records),
        "staleness": _staleness(records),
    }
    for experiment in titles(records):
        end = stage_records(records, experiment).get(STAGES[-1])
        if end is not None:
            found[f"variants-{experiment}"] = _variants(records, experiment)
    return {stem: table for stem, table in found.items() if len(table.data)}


def _summary(records: Sequence[FidelityRecord]) -> Table:
    """Estimators by moment; a block for each reading of an inner loss beside the paper's."""
    names = titles(records)
    columns = [r for e in names for r in stage_records(records, e).values()]
    blocks: list[tuple[str, list[str | None]]] = [("", [r.readings[0] for r in columns])]
    for experiment, title in names.items():
        first = next(iter(stage_records(records, experiment).values()), None)
        for reading in first.readings[1:] if first else ():
            own = [reading if r.experiment == experiment else None for r in columns]
            blocks.append((f"{title}, {reading_label(first, reading)}", own))
    rows: list[Any] = []
    for heading, readings in blocks:
        found = []
        for name, place in SUMMARY.items():
            cells = [
                MISSING if reading is None else main_number(r, find(r, *place, reading))
                for r, reading in zip(columns, readings, strict=True)
            ]
            if any(cell != MISSING for cell in cells):
                found.append((name, *cells))
        rows += [(heading, *row) for row in found]
    headings = [f"{names[r.experiment]} {r.x}: {main_heading(r)}" for r in columns]
    return Table(
        "Fidelity to the exact one-step hypergradient",
        DataFrame(rows, columns=["block", "estimator", *headings]),
        caption="One estimate against T1-T2 at the training's inner step, in float64 on the same "
        "batches: cosine over the hyperparameters; for a single hyperparameter the share of "
        "estimates with the right sign (a coin has 50).",
        notes=("±: standard error over draws and batches.",),
    )


def _settings(records: Sequence[FidelityRecord]) -> Table:
    """Everything that was varied, with all measures."""
    rows: list[Any] = []
    names = titles(records)
    for record in records:
        name = names[record.experiment]
        place = f"{name}, {record.axis.replace('_', ' ')} {record.x}"
        for row in record.rows:
            rows.append(
                (
                    place,
                    row.series,
                    str(row.x),
                    row.reading or MISSING,
                    number(row, "cosine", 3),
                    number(row, "sign_agreement", 3),
                    f"{row.norm_ratio:.3g}",
                    f"{row.expected_ratio:.3g}",
                    number(row, "gain", 2),
                    Number(row.mean_cosine, None, 3),
                    str(row.draws),
                )
            )
    columns = ["block", "varied", "value", "inner loss", "cosine", "sign agreement", "norm ratio",
               "expected ratio", "gain", "cosine of the mean", "draws"]  # fmt: skip
    return Table(
        "Fidelity: every setting at every moment",
        DataFrame(rows, columns=columns),
        caption="Norm ratio: root mean square of |estimate| / |exact|. Expected ratio: effective "
        "step sigma² (1 − 1/K) / tau over the inner step. Gain: mean of the estimate along the "
        "exact one, over the expected ratio: 1 if right. Cosine of the mean: of the mean over the "
        "draws of a pair of batches.",
        notes=("±: standard error over draws and batches.",),
    )


def _precision(records: Sequence[FidelityRecord]) -> Table:
    rows = []
    for experiment, name in titles(records).items():
        found: dict[tuple[str, str], dict[str, list[Any]]] = {}
        for record in stage_records(records, experiment).values():
            for row in record.precision:
                key = row.series, str(row.x)
                found.setdefault(key, {}).setdefault(row.precision, []).append(row)
        for (series, x), kinds in found.items():
            cells: list[Any] = []
            for precision in ("float32", "bfloat16"):
                measured = kinds[precision]
                cosine = statistics.fmean(row.cosine for row in measured)
                ratio = statistics.fmean(row.norm_ratio for row in measured)
                cells += [Number(cosine, None, 3), f"{ratio:.3g}"]
            rows.append((name, series, x, *cells))
    columns = ["problem", "estimator", "value", "float32 cosine", "float32 norm ratio",
               "bfloat16 cosine", "bfloat16 norm ratio"]  # fmt: skip
    return Table(
        "Fidelity: what rounding does",
        DataFrame(rows, columns=columns),
        caption="The same draw in float64 is the reference, so only rounding counts; mean over "
        "the three moments. bfloat16: autocast in both losses. Rotation: a mean of signs.",
    )


def _sizes(records: Sequence[FidelityRecord]) -> Table:
    rows, names = [], titles(records)
    for record in records:
        reading, predicted = record.noise_prediction, record.predictions
        axis = record.axis.replace("_", " ")
        dimensions: Any = predicted["dimensions"]
        cells: list[Any] = []
        for count in (2, 8):
            cells.append(number(find(record, "K", count, reading), "cosine"))
            known = predicted.get(str(count))
            cells.append(Number(known.cosine) if isinstance(known, Prediction) else MISSING)
        rows.append(
            (
                f"{names[record.experiment]}, {axis} {record.x}",
                f"{record.parameters:,}",
                f"{record.hyperparameters:,}",
                f"{statistics.median(dimensions):,.0f}",
                *cells,
                number(find(record, "along g", 0.01, reading), "cosine"),
            )
        )
    columns = ["problem", "parameters", "hyperparameters", "effective dimension", "K = 2",
               "predicted", "K = 8", "predicted", "along g"]  # fmt: skip
    return Table(
        "Fidelity by number of parameters",
        DataFrame(rows, columns=columns),
        caption="Cosine of one estimate, with the inner loss that the prediction is for. Effective "
        "dimension D = |M|² |g|² / |M g|² (M the mixed second derivative), median over batches. "
        "Predicted: 1 / √(1 + (D + 1) / (K − 1)).",
    )


def _staleness(records: Sequence[FidelityRecord]) -> Table:
    rows, steps = list[Any](), list[int]()
    for experiment, name in titles(records).items():
        for stage, record in stage_records(records, experiment).items():
            found = record.staleness
            steps = [row.m for row in found] or steps
            if found:
                rows.append((f"{name}, {stage}", *(Number(row.cosine, None, 2) for row in found)))
    columns = ["other batches" if m == 0 else f"{m} steps later" for m in steps]
    return Table(
        "How fast the exact hypergradient turns",
        DataFrame(rows, columns=["moment", *columns]),
        caption="Cosine of exact hypergradients: at the same parameters on other batches, and on "
        "the same batches after further training steps. Rotation: mean product of signs.",
    )


def _variants(records: Sequence[FidelityRecord], experiment: str) -> Table:
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
