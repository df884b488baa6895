r"""Measures what hypergradients cost: time and memory of a training step, method by method.

    python -m scripts.benchmark --size small
    python -m scripts.benchmark --size paper --count
    python -m scripts.benchmark --size paper --device cpu --methods t1t2 "t1t2 released" \
        "evograd num_candidates=2" "evograd num_candidates=2 released" along_gradient

On synthetic tensors of the experiments' real shapes, so that no data is needed; counted, on shapes
alone: bytes and floating-point operations, exact, in seconds, at any size and on any machine.
Every measurement is a small file under runs/benchmark; those that are there are not made again, so
that the same command goes on where it was. Ends by naming the report.
"""

import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro
from tqdm import tqdm

from common.command import run_command
from common.cost_study.case import CostCase, PublishedCost, Size
from common.cost_study.measuring import COUNTED, Job, measure_case
from common.cost_study.records import Measurement, by_device, named, read_measurements
from common.cost_study.report import estimators_table, sections
from common.errors import UserError
from common.experiment import load_experiment
from common.files import check_writable
from common.hypergrad.compare import Rounds
from common.reporting import Section, utc_now, write_report, write_table
from common.settings import ROOT
from common.training import choose_device

Experiment = Literal["rotation", "cross_domain_fewshot", "metaweightnet", "metaxl"]
EXPERIMENTS: tuple[Experiment, ...] = get_args(Experiment)
REFERENCES = {
    "LeNet": ("rotation", "LeNet, rotation", "batch 128"),
    "ResNet-32": ("metaweightnet", "ResNet-32, label noise, by width", "width 1"),
}
"""The cases that stand for all in the table of estimators: lambda before and after the network."""


@dataclass(frozen=True)
class Options:
    """See above."""

    size: Size = "small"
    """small: minutes on two cores; paper: all shapes of the paper."""
    experiments: tuple[Experiment, ...] = EXPERIMENTS
    figures: tuple[str, ...] = ()
    """Only figures and places in them with such words; all by default."""
    methods: tuple[str, ...] = ()
    """Only rows with such keys; a word that is no key stands for all rows whose keys hold it."""
    count: bool = False
    """Count on shapes alone: the default at size paper without a GPU, unless --device is given."""
    seconds_each: float = 3.0
    """Of rounds for each measurement, at least 3 rounds."""
    compile: bool = False
    """Also under torch.compile."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N."""
    threads: int = 0
    """CPU threads; 0: torch's choice."""
    runs: Path = ROOT / "runs" / "benchmark"
    """Where measurements are."""
    output: Path | None = None
    """Of the report; default RUNS/SIZE/report."""


def studies(experiment: str) -> Any:
    """An experiment's ``studies.py``."""
    return load_experiment(experiment).studies()


def cases(size: Size) -> Mapping[str, list[CostCase]]:
    """Experiment -> its cases, in the order of the tables."""
    return {name: studies(name).cases(size) for name in EXPERIMENTS}


def published_costs() -> dict[str, list[PublishedCost]]:
    """The paper's costs, where an experiment gives them."""
    return {name: getattr(studies(name), "published_costs", list)() for name in EXPERIMENTS}


def shown(measurements: Sequence[Measurement], size: Size, folder: Path) -> list[Section]:
    """The report's sections; tables and figures in ``folder``."""
    order = [(name, c.figure, c.x) for name, found in cases(size).items() for c in found]
    return sections(measurements, order, published_costs(), folder)


def draw(results: Path, folder: Path) -> None:
    """Tables and figures of results/benchmark in ``folder``, with a table of all estimators for
    every device that was timed: the one of small-cpu in any case, since docs/estimators.md shows
    it."""
    found: dict[str, list[Measurement]] = {"small-cpu": []}
    for size in get_args(Size):
        measurements = read_measurements(results / size / "records")
        shown(measurements, size, folder / size)
        groups = by_device(measurements)
        found |= {f"{size}-{d}": group for d, group in groups.items() if d != COUNTED}
    for name, group in found.items():
        write_table(estimators_table(group, REFERENCES), folder / "estimators", name)


def planned_jobs(options: Options) -> list[Job]:
    """The chosen cases. UserError for a word that no figure, or no row of theirs, has."""
    if not 0 <= options.seconds_each < math.inf:
        raise UserError(f"--seconds-each {options.seconds_each} must be at least 0")
    device = choose_device(options.device)
    cannot = options.size == "paper" and options.device == "auto" and device.type != "cuda"
    count = options.count or cannot
    jobs = [
        Job(
            experiment=experiment,
            figure=case.figure,
            x=case.x,
            cases=studies(experiment).cases,
            size=options.size,
            device=COUNTED if count else str(device),
            threads=options.threads or torch.get_num_threads(),
            folder=options.runs / options.size / (COUNTED if count else device.type),
            rounds=Rounds(options.seconds_each),
            words=options.methods,
            compiled=options.compile,
        )
        for experiment, found in cases(options.size).items()
        if experiment in options.experiments
        for case in found
    ]
    check_words("--figures", options.figures, [job.place for job in jobs])
    words = [word.lower() for word in options.figures or [""]]
    jobs = [job for job in jobs if any(word in job.place.lower() for word in words)]
    rows = [row.key for job in jobs for row in replace(job, words=()).rows()]
    check_words("--methods", options.methods, rows, named)
    return jobs


def check_words(
    flag: str,
    words: Sequence[str],
    names: Sequence[str],
    names_it: Callable[[str, str], bool] = operator.contains,
) -> None:
    """UserError for a word that names nothing; names_it(name, word): whether it does."""
    for word in words:
        if not any(names_it(name.lower(), word.lower()) for name in names):
            known = "; ".join(dict.fromkeys(names))
            raise UserError(f"{flag} {word} is in none of the names here, which are: {known}")


def measure_all(jobs: Sequence[Job]) -> None:
    """Measures what is pending, case after case; results other than costs are named at once."""
    total = sum(len(job.pending()) for job in jobs)
    with tqdm(total=total, desc="benchmark", dynamic_ncols=True) as bar:
        for job in jobs:
            for row, done in measure_case(job):
                if done is None:
                    bar.set_postfix_str(f"{job.place}: {row.label}")
                    continue
                bar.update()
                if done.outcome in ("does not fit", "refused"):
                    text = f"{job.place}: {row.label}: {done.outcome}: {done.reason}"
                    bar.write(text, file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> None:
    options = tyro.cli(Options, args=argv, prog="python -m scripts.benchmark", description=__doc__)
    jobs = planned_jobs(options)
    folder = options.runs / options.size
    output = options.output or folder / "report"
    check_writable(folder)
    check_writable(output)
    measure_all(jobs)
    measurements = read_measurements(jobs[0].folder) if jobs else []
    path = write_report(
        shown(measurements, options.size, output),
        output / "index.html",
        f"Cost of hypergradients (size {options.size})",
        [m.provenance for m in measurements],
        f"Written {utc_now()}.",
    )
    print(f"report: {path}")


if __name__ == "__main__":
    run_command(main)
