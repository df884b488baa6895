"""Makes the report of all finished runs of a preset: tables, figures, one HTML file.

python -m scripts.report --preset quick
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from common.command import run_command
from common.errors import UserError
from common.experiment import load_experiment
from common.files import check_writable
from common.overview import write_page
from common.reporting import RunRecord, Section
from common.settings import ROOT
from scripts.experiments import EXPERIMENTS


@dataclass(frozen=True)
class Options:
    """Which runs, and where the report goes."""

    preset: str = "quick"
    """smoke, quick, study or paper."""
    records: Path = ROOT / "runs"
    """Where the runs are."""
    output: Path | None = None
    """Default: runs/report/PRESET."""


def main(argv: Sequence[str] | None = None) -> None:
    options = tyro.cli(Options, args=argv, prog="python -m scripts.report", description=__doc__)
    output = options.output or ROOT / "runs" / "report" / options.preset
    check_writable(output)
    own: dict[str, list[RunRecord]] = {}
    sections: list[Section] = []
    problems = []
    for name in EXPERIMENTS:
        experiment, own[name] = load_experiment(name), []
        try:
            records = experiment.records(options.preset, options.records / name / options.preset)
            if records:
                sections.append(experiment.section(records, options.preset, output / name))
                own[name] = records
        except UserError as error:  # the others are shown
            problems.append(f"the report lacks {name}: {error}")
    if sections:
        print("\n".join(write_page(options.preset, own, sections, output)), flush=True)
    elif not problems:
        raise UserError(
            f"{options.records} holds no finished runs of preset {options.preset}: "
            "run scripts/reproduce.sh first"
        )
    for problem in problems[1:]:
        print(problem, file=sys.stderr)
    if problems:
        raise UserError(problems[0])


if __name__ == "__main__":
    run_command(main)
