"""The table of results on the embedded benchmark, which nothing published belongs beside."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.reporting import Measured, Number, RunRecord, Table, collect_metric
from cross_domain_fewshot.figures import NAMES, Cells

REFERENCES = (NAMES["none"], f"{NAMES['none']}, controlled")
"""What the others are compared with: none in the released way, and in the loop of the others."""

EPISODES_NOTE = (
    "A run's accuracy is the mean over its test episodes, which are the same for all methods of "
    "a seed."
)


def embedded_table(settings: Mapping[tuple[str, str], Cells]) -> Table:
    """Accuracy by unseen domain and method; settings: (benchmark, setting) -> cells.

    A last block has the mean over the unseen domains, for methods that were run on all of those
    that occur, with the same seeds.
    """
    rows = []
    for (benchmark, setting), cells in settings.items():
        if benchmark != "embedded":
            continue
        for unseen, methods in cells.items():
            references = [methods.get(name, []) for name in REFERENCES]
            for name, runs in methods.items():
                rows.append((setting, unseen, name, *_embedded_cells(runs, references)))
        if len(cells) > 1:
            rows += [(setting, "mean", *row) for row in _mean_over_domains(cells)]
    return Table(
        "Embedded benchmark: few-shot accuracy (%) on the unseen domain",
        (
            "setting",
            "unseen domain",
            "method",
            "accuracy",
            "− none",
            "− none, controlled",
            "best epoch",
            "val",
            "runs",
        ),
        tuple(rows),
        caption="A benchmark of this project, of small images; its numbers are not comparable "
        "with the paper's. Controlled: in the training loop of LFT, FT's noise fixed. − none and "
        "− none, controlled: difference to the same seeds without transformations, trained either "
        "way. Best epoch: with the weights of the best epoch on the base domain's val classes. "
        "Val: there, at the last epoch.",
        notes=(
            "±: sample standard deviation over runs; of a single run the half-width of the 95 % "
            "confidence interval over test episodes.",
            EPISODES_NOTE,
        ),
    )


def _embedded_cells(
    runs: list[RunRecord], references: Sequence[list[RunRecord]]
) -> tuple[Any, ...]:
    def number(metric: str, ci95: str) -> Number:
        measured = collect_metric(runs, metric, ci95=ci95)
        return Number(measured.mean, measured.sd if measured.n > 1 else measured.ci95)

    return (
        number("accuracy", "ci95"),
        *(_gain(_by_seed(runs), _by_seed(r)) if runs is not r else "–" for r in references),
        number("best_accuracy", "best_ci95"),
        number("val_accuracy", "val_ci95"),
        str(len(runs)),
    )


def _by_seed(runs: Iterable[RunRecord]) -> dict[int, float]:
    return {record.seed: record.final["accuracy"] for record in runs}


def _gain(values: Mapping[int, float], reference: Mapping[int, float]) -> Number | str:
    """Mean and standard deviation of the differences on common seeds."""
    return _spread([values[seed] - reference[seed] for seed in values if seed in reference], True)


def _spread(values: Iterable[float], signed: bool = False) -> Number | str:
    """Mean ± sample standard deviation."""
    values = tuple(values)
    if not values:
        return "–"
    measured = Measured(values)
    return Number(measured.mean, measured.sd, signed=signed)


def _mean_over_domains(cells: Cells) -> list[tuple[Any, ...]]:
    """Per method: accuracy, gain, best, val and number of runs; the spread is over seeds."""
    rows: list[tuple[Any, ...]] = []
    references: dict[str, dict[int, float]] = {name: {} for name in REFERENCES}
    for name in dict.fromkeys(name for methods in cells.values() for name in methods):
        runs = [methods.get(name, []) for methods in cells.values()]
        seeds = {tuple(record.seed for record in found) for found in runs}
        if len(seeds) != 1:
            continue
        columns = [
            {
                same[0].seed: statistics.fmean(record.final[metric] for record in same)
                for same in zip(*runs, strict=True)
            }
            for metric in ("accuracy", "best_accuracy", "val_accuracy")
        ]
        if name in references:
            references[name] = columns[0]
        gains = [
            _gain(columns[0], reference) if name != other else "–"
            for other, reference in references.items()
        ]
        accuracy, *others = (_spread(column.values()) for column in columns)
        rows.append((name, accuracy, *gains, *others, str(sum(map(len, runs)))))
    return rows
