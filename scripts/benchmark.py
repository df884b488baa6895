"""Measures what hypergradients cost: time and memory of a training step, method by method.

    python -m scripts.benchmark --size small
    python -m scripts.benchmark --size paper --experiments metaweightnet --methods T1T2 EvoGrad

On synthetic tensors of the experiments' real shapes, so that no data is needed. Every measurement
is a small file under runs/benchmark; those that are there are not made again, so that the same
command goes on where it was. Ends by naming the report.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from tqdm import tqdm

from common.bounds import THREADS, Bounds
from common.command import Parser, run_command
from common.cost_study.case import PublishedCost
from common.cost_study.measuring import Rounds
from common.cost_study.records import (
    Measurement,
    Point,
    Settings,
    by_device,
    read_measurements,
)
from common.cost_study.report import section
from common.cost_study.running import Job, Row, measure_case
from common.cost_study.tables import estimators_table
from common.errors import UserError
from common.files import check_writable
from common.reporting import Section, utc_now, write_report, write_table
from common.settings import ROOT
from common.training import choose_device
from scripts.experiments import EXPERIMENTS as ALL

EXPERIMENTS = tuple(name for name in ALL if (ROOT / name / "cost.py").exists())
"""Those whose costs are studied, in the order of the tables."""

SIZES = ("small", "paper")


def cost_modules(names: Sequence[str] = EXPERIMENTS) -> dict[str, ModuleType]:
    """The experiments' ``cost.py``."""
    return {n: importlib.import_module(f"{n}.cost") for n in names}


def points(size: str) -> list[Point]:
    """All points of a size, in the order of the tables."""
    return [
        Point(experiment=n, figure=c.figure, x=c.x)
        for n, module in cost_modules().items()
        for c in module.cases(size)
    ]


def published_costs() -> dict[str, list[PublishedCost]]:
    """The paper's costs, where an experiment gives them."""
    return {n: getattr(module, "published_costs", list)() for n, module in cost_modules().items()}


def sections(measurements: Sequence[Measurement], size: str, folder: Path) -> list[Section]:
    """One section for each device; tables and figures in ``folder``."""
    return [
        section(found, points(size), published_costs(), folder, f"Cost of hypergradients: {device}")
        for device, found in by_device(measurements).items()
    ]


REFERENCES = {
    "LeNet": Point(experiment="rotation", figure="LeNet, rotation", x="batch 128"),
    "ResNet-32": Point(
        experiment="metaweightnet", figure="ResNet-32, label noise, by width", x="width 1"
    ),
}
"""The cases that stand for all in the table of estimators: lambda before and after the network."""


def draw(results: Path, folder: Path) -> None:
    """Tables and figures of results/benchmark in ``folder``, with a table of all estimators for
    every size and device: the one of small-cpu in any case, since docs/estimators.md shows it."""
    found: dict[str, list[Measurement]] = {"small-cpu": []}
    for size in SIZES:
        measurements = read_measurements(results / size / "records")
        sections(measurements, size, folder / size)
        for device, group in by_device(measurements).items():
            found[f"{size}-{device}"] = group
    for name, group in found.items():
        write_table(estimators_table(group, REFERENCES), folder / "estimators", name)


def planned_jobs(arguments: argparse.Namespace) -> list[Job]:
    """The chosen cases. UserError for a word that no figure, or no method of theirs, has."""
    device = choose_device(arguments.device)
    settings = Settings(
        size=arguments.size,
        device=device.type,
        threads=arguments.threads or torch.get_num_threads(),
    )
    compiled = arguments.compile
    if compiled is None:
        compiled = arguments.size == "paper" and device.type == "cuda"
    jobs = [
        Job(
            point=Point(experiment=name, figure=case.figure, x=case.x),
            cases=module.cases,
            settings=settings,
            folder=arguments.runs / arguments.size / device.type,
            device=str(device),
            rounds=Rounds(arguments.seconds_each),
            words=tuple(arguments.methods),
            compiled=compiled,
        )
        for name, module in cost_modules(arguments.experiments).items()
        for case in module.cases(arguments.size)
    ]
    figures = {f"{job.point.figure}, {job.point.x}": job for job in jobs}
    check_words("--figures", arguments.figures, list(figures))
    words = [word.lower() for word in arguments.figures or [""]]
    jobs = [job for name, job in figures.items() if any(word in name.lower() for word in words)]
    methods = [row.name for job in jobs for row in replace(job, words=()).rows()]
    check_words("--methods", arguments.methods, methods)
    return jobs


def check_words(flag: str, words: Sequence[str], names: Sequence[str]) -> None:
    """UserError for a word that is in none of the names."""
    for word in words:
        if not any(word.lower() in name.lower() for name in names):
            known = "; ".join(dict.fromkeys(names))
            raise UserError(f"{flag} {word} is in none of the names here, which are: {known}")


def measure_all(jobs: Sequence[Job]) -> None:
    """Measures what is pending, case after case; results other than costs are named at once."""
    with tqdm(
        total=sum(len(job.pending()) for job in jobs), desc="benchmark", dynamic_ncols=True
    ) as bar:
        for job in jobs:
            place = f"{job.point.figure}, {job.point.x}"

            def report(row: Row, done: Measurement | None, place: str = place) -> None:
                if done is None:
                    bar.set_postfix_str(f"{place}: {row}")
                    return
                bar.update()
                if done.outcome in ("does not fit", "refused"):
                    bar.write(f"{place}: {row}: {done.outcome}: {done.reason}", file=sys.stderr)

            if job.pending():
                measure_case(job, report)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    jobs = planned_jobs(arguments)
    folder = arguments.runs / arguments.size
    output = arguments.output or folder / "report"
    check_writable(folder)
    check_writable(output)
    measure_all(jobs)
    measurements = read_measurements(folder)
    path = write_report(
        sections(measurements, arguments.size, output),
        output / "index.html",
        f"Cost of hypergradients (size {arguments.size})",
        [m.provenance for m in measurements],
        f"Written {utc_now()}.",
    )
    print(f"report: {path}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. UserError for numbers that make no sense."""
    parser = Parser(
        prog="python -m scripts.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--size", default="small", choices=SIZES, help="small: minutes on two cores")
    add("--experiments", nargs="+", default=EXPERIMENTS, choices=EXPERIMENTS, metavar="NAME")
    add("--figures", nargs="+", default=(), metavar="WORD", help="only figures, x with such words")
    add("--methods", nargs="+", default=(), metavar="WORD", help="only methods with such words")
    parser.add_number(
        "--seconds-each", float, Bounds(least=0), default=3.0,
        help="of rounds for each measurement, at least 3",
    )  # fmt: skip
    add("--compile", action=argparse.BooleanOptionalAction, help="also under torch.compile "
        "(default: at size paper on a GPU)")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_number("--threads", int, THREADS, default=0, help="CPU threads; 0: torch's choice")
    add("--runs", type=Path, default=ROOT / "runs" / "benchmark", help="where measurements are")
    add("--output", type=Path, help="of the report; default RUNS/SIZE/report")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)
