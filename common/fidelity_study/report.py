"""The fidelity study's tables and figures, from its records."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pandas import DataFrame

from common.fidelity_study.measuring import REFERENCE
from common.fidelity_study.records import STAGES, FidelityRecord, Prediction, read_fidelity
from common.reporting import (
    MISSING,
    Cell,
    Figure,
    Number,
    Table,
    figure_style,
    new_figure,
    save_figure,
    series_styles,
    write_tables,
)

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
_LABELS = {"sign_agreement": "right sign (share)", "cosine": "cosine"}
_ERRORS = ("±: standard error over draws and batches.",)
Stages = Mapping[str, FidelityRecord]
"""Stage -> record, in the order of training."""


def draw(
    records: Path, folder: Path, experiments: Sequence[str] = ()
) -> tuple[list[Table], list[Figure]]:
    """Makes all tables and figures of the records in ``records``, in ``folder``; experiments in the
    order given. Tables without rows are left out."""
    found = read_fidelity(records, experiments)
    studied: dict[str, dict[str, FidelityRecord]] = {}
    for record in found:
        if record.axis == "stage":
            studied.setdefault(record.studies.TITLE, {})[record.x] = record
    tables = {
        "summary": _summary(studied),
        "settings": _settings(found),
        "precision": _precision(studied),
        "sizes": _sizes(found),
        "staleness": _staleness(studied),
    }
    for title, stages in studied.items():
        if (last := stages.get(STAGES[-1])) is not None:
            tables[f"variants-{last.experiment}"] = _variants(title, stages)
    tables = {stem: table for stem, table in tables.items() if len(table.data)}
    write_tables(tables, folder)
    return list(tables.values()), _figures(studied, folder) if studied else []


def _summary(studied: Mapping[str, Stages]) -> Table:
    """Estimators by moment; a block for each reading of an inner loss beside the paper's."""
    columns = [(title, record) for title, stages in studied.items() for record in stages.values()]
    blocks: list[tuple[str, str, str | None]] = [("", "", None)]
    for title, stages in studied.items():
        first = next(iter(stages.values()))
        words = getattr(first.studies, "READINGS", {})
        blocks += [(f"{title}, {words.get(r, r)}", title, r) for r in first.readings[1:]]
    rows: list[Any] = []
    for block, of, reading in blocks:
        for name, setting in SUMMARY.items():
            cells = [
                record.cell(*setting, reading) if of in ("", title) else MISSING
                for title, record in columns
            ]
            if any(cell != MISSING for cell in cells):
                rows.append((block, name, *cells))
    headings = [f"{title} {record.x}: {record.heading}" for title, record in columns]
    return Table(
        "Fidelity to the exact one-step hypergradient",
        DataFrame(rows, columns=["block", "estimator", *headings]),
        caption="One estimate against T1-T2 at the training's inner step, in float64 on the same "
        "batches: cosine over the hyperparameters; for a single hyperparameter the share of "
        "estimates with the right sign (a coin has 50).",
        notes=_ERRORS,
    )


def _settings(records: Sequence[FidelityRecord]) -> Table:
    """Everything that was varied, with all measures."""
    rows = [
        {
            "block": record.place,
            "varied": row.series,
            "value": str(row.x),
            "inner loss": row.reading or MISSING,
            "cosine": row.number("cosine", 3),
            "sign agreement": row.number("sign_agreement", 3),
            "norm ratio": f"{row.norm_ratio:.3g}",
            "expected ratio": f"{row.expected_ratio:.3g}",
            "gain": row.number("gain"),
            "cosine of the mean": Number(row.mean_cosine, None, 3),
            "draws": str(row.draws),
        }
        for record in records
        for row in record.rows
    ]
    return Table(
        "Fidelity: every setting at every moment",
        DataFrame(rows),
        caption="Norm ratio: root mean square of |estimate| / |exact|. Expected ratio: effective "
        "step sigma² (1 − 1/K) / tau over the inner step. Gain: mean of the estimate along the "
        "exact one, over the expected ratio: 1 if right. Cosine of the mean: of the mean over the "
        "draws of a pair of batches.",
        notes=_ERRORS,
    )


def _rounding(stages: Stages) -> DataFrame:
    """Mean cosine and norm ratio over the moments: by series and x, then by precision."""
    found = DataFrame([row.model_dump() for r in stages.values() for row in r.precision])
    if found.empty:
        return found
    keys = ["series", "x", "precision"]
    means = found.groupby(keys, sort=False)[["cosine", "norm_ratio"]].agg(statistics.fmean)
    return means.reset_index()


def _precision(studied: Mapping[str, Stages]) -> Table:
    rows = []
    for title, stages in studied.items():
        means = _rounding(stages)
        for (series, x), found in means.groupby(["series", "x"], sort=False) if len(means) else ():
            cells = {"problem": title, "estimator": series, "value": str(x)}
            for row in found.itertuples():
                cells[f"{row.precision} cosine"] = Number(row.cosine, None, 3)
                cells[f"{row.precision} norm ratio"] = f"{row.norm_ratio:.3g}"
            rows.append(cells)
    return Table(
        "Fidelity: what rounding does",
        DataFrame(rows),
        caption="The same draw in float64 is the reference, so only rounding counts; mean over "
        "the three moments. bfloat16: autocast in both losses. Rotation: a mean of signs.",
    )


def _sizes(records: Sequence[FidelityRecord]) -> Table:
    rows = []
    for record in records:
        found = record.series("K", record.noise_prediction)
        along = record.series("along g", record.noise_prediction).get(0.01)
        dimensions: Any = record.predictions["dimensions"]
        cells: list[Any] = []
        for count in (2, 8):
            cells.append(found[count].number("cosine") if count in found else MISSING)
            known = record.predictions.get(str(count))
            cells.append(Number(known.cosine) if isinstance(known, Prediction) else MISSING)
        sizes = f"{record.parameters:,}", f"{record.hyperparameters:,}"
        median = f"{statistics.median(dimensions):,.0f}"
        last = along.number("cosine") if along else MISSING
        rows.append((record.place, *sizes, median, *cells, last))
    columns = ["problem", "parameters", "hyperparameters", "effective dimension", "K = 2",
               "predicted", "K = 8", "predicted", "along g"]  # fmt: skip
    return Table(
        "Fidelity by number of parameters",
        DataFrame(rows, columns=columns),
        caption="Cosine of one estimate, with the inner loss that the prediction is for. Effective "
        "dimension D = |M|² |g|² / |M g|² (M the mixed second derivative), median over batches. "
        "Predicted: 1 / √(1 + (D + 1) / (K − 1)).",
    )


def _staleness(studied: Mapping[str, Stages]) -> Table:
    rows = []
    for title, stages in studied.items():
        for stage, record in stages.items():
            cells: dict[str, Cell] = {"moment": f"{title}, {stage}"}
            for row in record.staleness:
                column = f"{row.m} steps later" if row.m else "other batches"
                cells[column] = Number(row.cosine)
            if record.staleness:
                rows.append(cells)
    return Table(
        "How fast the exact hypergradient turns",
        DataFrame(rows),
        caption="Cosine of exact hypergradients: at the same parameters on other batches, and on "
        "the same batches after further training steps. Rotation: mean product of signs.",
    )


def _variants(title: str, stages: Stages) -> Table:
    """Cost of a whole step relative to EvoGrad's, beside fidelity."""
    last = list(stages.values())[-1]
    # The fastest round: other work on the machine can only add to it.
    least = DataFrame({n: DataFrame(found).min() for n, found in last.costs.items()}).T
    base, reference = (least["seconds"][name] for name in ("base step alone", REFERENCE))
    steps = {
        name: (row["seconds"] / reference, row["peak_bytes"] / least["peak_bytes"][REFERENCE])
        for name, row in least.iterrows()
    }
    for m in (2, 5, 10):
        steps[f"EvoGrad every {m} steps"] = (base + (reference - base) / m) / reference, 1.0
    rows = []
    for name, costs in steps.items():
        setting: Any = last.fidelity_of.get(name)
        cells = [record.cell(*setting) if setting else MISSING for record in stages.values()]
        rows.append((name, *map(Number, costs), *cells))
    headings = [f"{last.heading}, {stage}" for stage in stages]
    return Table(
        f"{title}: cheaper variants, cost and fidelity",
        DataFrame(rows, columns=["step", "time", "memory", *headings]),
        caption="Hypergradient and base step together, relative to EvoGrad with K = 2; fastest of "
        "the rounds. Memory: beyond what was in use before. Every m steps: by arithmetic.",
        notes=("On a CPU: processor time, so that other work on the machine does not count.",),
    )


def _figures(studied: Mapping[str, Stages], folder: Path) -> list[Figure]:
    """All figures: a panel for each experiment, or a row of them."""

    def figure(
        stem: str,
        panel: Callable[[Any, Stages, str], None],
        alt: str,
        caption: str,
        series: Sequence[str] = (),
        legend: int = 3,
        **subplots: Any,
    ) -> Figure:
        """panel: draws a series of an experiment's records on an axis."""
        with figure_style():
            shape = (len(studied), len(series)) if series else (1, len(studied))
            fig, axes = new_figure(*shape, squeeze=False, **subplots)
            rows = axes if series else axes.T
            for row, (title, stages) in zip(rows, studied.items(), strict=True):
                for axis, name in zip(row, series or [""], strict=True):
                    panel(axis, stages, name)
                row[0].set_title(title)
            known = axes.flat[0].get_legend_handles_labels()
            fig.legend(*known, loc="outside lower center", ncols=legend)
            return save_figure(fig, folder, stem, alt=alt, caption=caption)

    return [
        figure(
            "candidates",
            _candidates,
            "Agreement of one estimate with the exact hypergradient against the number of "
            "candidates, measured and predicted, at the start, middle and end of training.",
            "One EvoGrad estimate against the exact one-step hypergradient by K: points "
            "measured, lines predicted from the effective dimension. Open markers at g: two "
            "candidates along g. With the inner loss that the prediction is for.",
        ),
        figure(
            "sigma-tau",
            _sweep,
            "Agreement of one EvoGrad estimate with the exact hypergradient against sigma and "
            "against tau, at the start, middle and end of training.",
            "One EvoGrad estimate (K = 2) by sigma and tau; bars: standard error. Grey "
            "line: chance.",
            series=("sigma", "tau"),
            sharey="row",
        ),
        figure(
            "scale",
            _scale,
            "Size of EvoGrad's estimates, as the inner step whose exact hypergradient has that "
            "size, against K, sigma and tau, beside the predicted effective step.",
            "Root mean square size of EvoGrad's estimates, as the inner step whose exact "
            "hypergradient is as large, beside the effective step of their mean. What lies above "
            "it is noise; what falls below at large sigma or small tau is the softmax saturating.",
            series=("K", "sigma", "tau"),
            legend=4,
            sharey="row",
        ),
        figure(
            "precision",
            _rounded,
            "Cosine of estimates in float32 and bfloat16 with the same draw in float64, "
            "against sigma (random candidates) or radius (candidates along g).",
            "What rounding does: cosine with the same draw in float64, mean over the "
            "moments (rotation: mean product of signs).",
            legend=2,
            sharey=True,
        ),
    ]


def _measured(axis: Any, record: FidelityRecord, series: str, reading: str, **style: Any) -> list:
    """Draws the measure of a series with its standard errors; where it did."""
    rows = record.series(series, reading)
    errors = [getattr(row, f"{record.measure}_se") or 0 for row in rows.values()]
    axis.errorbar(list(rows), [getattr(r, record.measure) for r in rows.values()], errors, **style)
    return list(rows)


def _candidates(axis: Any, stages: Stages, _: str) -> None:
    """Cosine or sign agreement against K, with the prediction."""
    for style, (stage, record) in zip(series_styles(3), stages.items(), strict=False):
        reading, measure = record.noise_prediction, record.measure
        alone = style | {"linestyle": ""}
        x = _measured(axis, record, "K", reading, label=stage, elinewidth=0.7, **alone)
        predicted = [getattr(record.predictions[str(k)], measure) for k in x]
        axis.plot(x, predicted, color=style["color"], linestyle=style["linestyle"], lw=0.9)
        if along := record.series("along g", reading).get(0.01):
            axis.plot(x[-1] * 2, getattr(along, measure), **alone, fillstyle="none")
    axis.plot([], [], color="#444444", lw=0.9, label="predicted (lines)")
    axis.plot([], [], "o", color="#444444", fillstyle="none", label="two along g")
    axis.set_xscale("log", base=2)
    axis.set_xticks([*x, 2 * x[-1]], [*map(str, x), "g"])
    axis.set(xlabel="candidates K", ylabel=_LABELS[measure])


def _sweep(axis: Any, stages: Stages, series: str) -> None:
    """Agreement against sigma or tau."""
    for style, (stage, record) in zip(series_styles(3), stages.items(), strict=False):
        _measured(axis, record, series, record.readings[0], label=stage, **style)
    axis.set(xscale="log", xlabel=series, ylabel=_LABELS[record.measure])
    chance = 0.5 if record.measure == "sign_agreement" else 0
    axis.axhline(chance, color="#888888", lw=0.6)
    axis.label_outer()


def _scale(axis: Any, stages: Stages, series: str) -> None:
    """Size of the estimates over the exact one's, with the predicted effective step."""
    *styles, last = series_styles(4)
    for style, (stage, record) in zip(styles, stages.items(), strict=False):
        rows, eta = record.series(series), record.inner_lr
        axis.plot(list(rows), [r.norm_ratio * eta for r in rows.values()], label=stage, **style)
    expected = [row.expected_ratio * eta for row in rows.values()]
    grey = last | {"color": "#888888", "marker": ""}
    axis.plot(list(rows), expected, label="σ²(1 − 1/K)/τ", **grey)
    axis.set(xscale="log", yscale="log", xlabel=series, ylabel="step of that size")
    if series == "K":
        axis.set_xticks(list(rows), map(str, rows))
        axis.minorticks_off()
    axis.label_outer()


def _rounded(axis: Any, stages: Stages, _: str) -> None:
    """Cosine with the same draw in float64 against sigma and radius."""
    means = _rounding(stages)
    kinds = [(s, p) for s in ("EvoGrad, sigma", "along g, radius") for p in ("float32", "bfloat16")]
    for style, (series, precision) in zip(series_styles(4), kinds, strict=True):
        own = means[(means["series"] == series) & (means["precision"] == precision)]
        axis.plot(list(own["x"]), list(own["cosine"]), label=f"{series}: {precision}", **style)
    axis.set(xscale="log", xlabel="sigma or radius")
    if axis.get_subplotspec().is_first_col():
        axis.set_ylabel("cosine with float64")
