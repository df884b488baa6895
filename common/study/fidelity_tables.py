"""The fidelity study's tables, from its records."""

import statistics
from collections.abc import Sequence
from typing import Any

from common.reporting import Heading, Number, Table
from common.reporting.tables import MISSING
from common.study.fidelity_rows import (
    HELD,
    NAMES,
    STAGES,
    Record,
    find,
    number,
    stage_records,
)
from common.study.fidelity_variants import variants_table

# Rows of the summary: name -> series and x. The paper's setting comes first.
SUMMARY = {
    "EvoGrad, K = 2": ("K", 2),
    "EvoGrad, K = 8": ("K", 8),
    "EvoGrad, K = 32": ("K", 32),
    "K = 2, antithetic": ("kind", "antithetic"),
    "K = 2, Gaussian": ("kind", "gaussian"),
    "K = 2, sigma = 0.1": ("sigma", 0.1),
    "K = 2, one at theta": ("kind", "one at theta"),
    "K = 2, last stage": ("kind", "last stage"),
    "K = 2, linear layers": ("kind", "linear layers"),
    "K = 2, last layer": ("kind", "last layer"),
    "T1-T2, g at theta": ("one step, g at theta", "T1-T2"),
    "along g, radius 0.01": ("along g", 0.01),
    "along g, radius 0.1": ("along g", 0.1),
    "finite difference, radius 0.01": ("finite difference", 0.01),
    "finite difference, radius 0.1": ("finite difference", 0.1),
}


def tables(records: Sequence[Record]) -> dict[str, Table]:
    """File name -> table; those without rows are left out."""
    found = {
        "summary": _summary(records),
        "settings": _settings(records),
        "precision": _precision(records),
        "sizes": _sizes(records),
        "staleness": _staleness(records),
    }
    for experiment in NAMES:
        end = stage_records(records, experiment).get("end", {})
        if end.get("costs"):
            found[f"variants-{experiment}"] = variants_table(records, experiment)
    return {stem: table for stem, table in found.items() if table.rows}


def _summary(records: Sequence[Record]) -> Table:
    """Estimators by moment: cosine (label noise), sign agreement (rotation)."""
    blocks = []
    stages = {experiment: stage_records(records, experiment) for experiment in NAMES}
    for title, reading in (("", None), ("Label noise, weight net's input held", HELD)):
        rows = []
        for name, place in SUMMARY.items():
            cells = []
            for experiment, measure, scale, digits in (
                ("rotation", "sign_agreement", 100, 0),
                ("metaweightnet", "cosine", 1, 2),
            ):
                known = stages[experiment]
                usable = reading is None or experiment == "metaweightnet"
                for stage in STAGES:
                    row = find(known[stage], *place, reading) if stage in known and usable else None
                    cells.append(number(row, measure, digits, scale))
            if any(cell != MISSING for cell in cells):
                rows.append((name, *cells))
        if rows:
            blocks += [Heading(title), *rows] if title else rows
    columns = (
        *(f"rotation {stage}: sign %" for stage in STAGES),
        *(f"label noise {stage}: cosine" for stage in STAGES),
    )
    return Table(
        "Fidelity to the exact one-step hypergradient",
        ("estimator", *columns),
        tuple(blocks),
        caption="One estimate against T1-T2 at the training's inner step, in float64 on the same "
        "batches. Rotation has one hyperparameter: the share of estimates with the right sign (a "
        "coin has 50). Label noise: cosine over the weight net's parameters.",
        notes=("±: standard error over draws and batches.",),
    )


def _settings(records: Sequence[Record]) -> Table:
    """Everything that was varied, with all measures."""
    rows: list[Any] = []
    for record in records:
        name = NAMES[record["experiment"]]
        rows.append(Heading(f"{name}, {record['axis'].replace('_', ' ')} {record['x']}"))
        for row in record["rows"]:
            rows.append(
                (
                    row["series"],
                    str(row["x"]),
                    row["reading"] or "–",
                    number(row, "cosine", 3),
                    number(row, "sign_agreement", 3),
                    f"{row['norm_ratio']:.3g}",
                    f"{row['expected_ratio']:.3g}",
                    number(row, "gain", 2),
                    Number(row["mean_cosine"], None, 3),
                    str(row["draws"]),
                )
            )
    columns = ("varied", "value", "weight net's input", "cosine", "sign agreement", "norm ratio",
               "expected ratio", "gain", "cosine of the mean", "draws")  # fmt: skip
    return Table(
        "Fidelity: every setting at every moment",
        columns,
        tuple(rows),
        caption="Norm ratio: root mean square of |estimate| / |exact|. Expected ratio: effective "
        "step sigma² (1 − 1/K) / tau over the inner step. Gain: mean of the estimate along the "
        "exact one, over the expected ratio: 1 if right. Cosine of the mean: of the mean over the "
        "draws of a pair of batches.",
        notes=("±: standard error over draws and batches.",),
    )


def _precision(records: Sequence[Record]) -> Table:
    rows = []
    for experiment, name in NAMES.items():
        found: dict[tuple[str, str], dict[str, list[Any]]] = {}
        for record in stage_records(records, experiment).values():
            for row in record.get("precision", []):
                key = row["series"], str(row["x"])
                found.setdefault(key, {}).setdefault(row["precision"], []).append(row)
        for (series, x), kinds in found.items():
            cells: list[Any] = []
            for precision in ("float32", "bfloat16"):
                measured = kinds[precision]
                cosine = statistics.fmean(row["cosine"] for row in measured)
                ratio = statistics.fmean(row["norm_ratio"] for row in measured)
                cells += [Number(cosine, None, 3), f"{ratio:.3g}"]
            rows.append((name, series, x, *cells))
    return Table(
        "Fidelity: what rounding does",
        ("problem", "estimator", "value", "float32 cosine", "float32 norm ratio",
         "bfloat16 cosine", "bfloat16 norm ratio"),
        tuple(rows),
        caption="The same draw in float64 is the reference, so only rounding counts; mean over "
        "the three moments. bfloat16: autocast in both losses. Rotation: a mean of signs.",
    )  # fmt: skip


def _sizes(records: Sequence[Record]) -> Table:
    rows = []
    for record in records:
        reading, predicted = record["noise_prediction"], record["predictions"]
        axis = record["axis"].replace("_", " ")
        cells: list[Any] = []
        for count in (2, 8):
            cells.append(number(find(record, "K", count, reading), "cosine"))
            cells.append(Number(predicted[str(count)]["cosine"]) if str(count) in predicted
                         else MISSING)  # fmt: skip
        rows.append(
            (
                f"{NAMES[record['experiment']]}, {axis} {record['x']}",
                f"{record['parameters']:,}",
                f"{record['hyperparameters']:,}",
                f"{statistics.median(predicted['dimensions']):,.0f}",
                *cells,
                number(find(record, "along g", 0.01, reading), "cosine"),
            )
        )
    return Table(
        "Fidelity by number of parameters",
        ("problem", "parameters", "hyperparameters", "effective dimension", "K = 2", "predicted",
         "K = 8", "predicted ", "along g"),
        tuple(rows),
        caption="Cosine of one estimate, weight net's input held. Effective dimension D = "
        "|M|² |g|² / |M g|² (M the mixed second derivative), median over batches; predicted: "
        "1 / √(1 + (D + 1) / (K − 1)).",
    )  # fmt: skip


def _staleness(records: Sequence[Record]) -> Table:
    rows, steps = [], []
    for experiment, name in NAMES.items():
        for stage, record in stage_records(records, experiment).items():
            found = record.get("staleness", [])
            steps = [row["m"] for row in found] or steps
            if found:
                rows.append(
                    (f"{name}, {stage}", *(Number(row["cosine"], None, 2) for row in found))
                )
    columns = ["other batches" if m == 0 else f"{m} steps later" for m in steps]
    return Table(
        "How fast the exact hypergradient turns",
        ("moment", *columns),
        tuple(rows),
        caption="Cosine of exact hypergradients: at the same parameters on other batches, and on "
        "the same batches after further training steps. Rotation: mean product of signs.",
    )
