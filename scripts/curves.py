"""Draws the metrics of runs, finished or not, one panel for each: for watching and comparing.

python -m scripts.curves runs/rotation/quick/evograd-seed1 runs/rotation/quick/t1t2-seed1
"""

from pathlib import Path
from typing import Annotated

import tyro

from common.command import run_command
from common.errors import UserError
from common.report import panels
from common.reporting import RunRecord, figure_style, legend_below, save_figure, series_styles
from common.reporting.records import load
from common.run import METRICS, metrics_lines

Series = dict[str, tuple[list[float], list[float]]]
"""Metric -> iterations and values."""


def read_series(run: Path) -> Series:
    """The metrics of a run: of its folder (metrics.jsonl) or of a record (a JSON file).

    UserError if there are none.
    """
    found: Series = {}
    if run.suffix == ".json":
        record = load(run, RunRecord)
        traces = {name: list(values) for name, values in record.traces.items()}
        iterations = traces.pop("iteration")
        found = {name: (iterations, values) for name, values in traces.items()}
        each = iterations[-1] / record.epochs[-1]["epoch"]
        rows = [row | {"iteration": row["epoch"] * each} for row in record.epochs]
        lines = [{name: row[name] for name in row if name not in traces} for row in rows]
    else:
        lines = [line for line in metrics_lines(run / METRICS) if line["kind"] != "start"]
        if not lines:
            raise UserError(f"{run / METRICS} has no metrics: name a run's folder.")
    for line in lines:
        for name, value in line.items():
            if name not in ("kind", "iteration", "epoch"):
                x, y = found.setdefault(name, ([], []))
                x.append(line["iteration"])
                y.append(value)
    return found


def main(
    runs: tyro.conf.Positional[list[Path]],
    output: Annotated[Path, tyro.conf.arg(help="the picture; a PDF is written beside it")] = Path(
        "curves.png"
    ),
) -> None:
    """Draws the metrics of runs.

    Args:
        runs: folders of runs, or records (JSON files)
    """
    if not runs:
        raise UserError("Name at least one run's folder: python -m scripts.curves RUN [RUN ...]")
    alone = len({run.name for run in runs}) == len(runs)
    series = {
        run.name.removesuffix(".json") if alone else str(run): read_series(run) for run in runs
    }
    metrics = list(dict.fromkeys(name for found in series.values() for name in found))
    with figure_style():
        fig, axes = panels(metrics, share=False)
        styles = series_styles(len(series))
        for axis, metric in zip(axes, metrics, strict=True):
            for style, (run, found) in zip(styles, series.items(), strict=True):
                axis.plot(
                    *found.get(metric, ([], [])),
                    **style | {"markevery": 0.25, "linewidth": 1.0},
                    label=run,
                )
            axis.set_xlabel("iteration")
        legend_below(fig, axes[0])
        alt = f"{', '.join(metrics)} by iteration for {', '.join(series)}."
        figure = save_figure(fig, output.parent, output.stem, alt=alt)
    print(figure.path_png)


if __name__ == "__main__":
    run_command(lambda: tyro.cli(main))
