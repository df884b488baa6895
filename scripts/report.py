"""Makes the report of all finished runs of a preset: tables, figures, one HTML file.

python -m scripts.report --preset quick rotation toy_1d
"""

from collections.abc import Sequence
from pathlib import Path

from common import claims
from common.command import Parser, run_command
from common.errors import UserError
from common.experiment import load_experiment
from common.files import check_writable
from common.reporting import RunRecord, Section, utc_now, write_report
from common.settings import ROOT
from scripts.experiments import EXPERIMENTS

_INTRO = """
EvoGrad takes the gradient of the validation loss with respect to hyperparameters without
second-order derivatives, by one step of an evolutionary update. Each section below repeats one
experiment of the paper and sets what was measured beside what was published.
"""


def make_sections(
    experiments: Sequence[str], preset: str, records_folder: Path, output: Path
) -> tuple[list[Section], list[RunRecord]]:
    """One section for each experiment that has runs of the preset; tables and figures in
    ``output``/EXPERIMENT."""
    sections, shown = [], []
    for experiment in experiments:
        declared = load_experiment(experiment)
        records = declared.records(preset, records_folder / experiment / preset)
        if not records:
            continue
        sections.append(declared.section(records, preset, output / experiment))
        shown += records
    return sections, shown


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m scripts.report", description=__doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="default: all")
    parser.add_argument("--preset", default="quick", help="smoke, quick, study or paper")
    parser.add_argument("--records", type=Path, default=ROOT / "runs", help="where the runs are")
    parser.add_argument("--output", type=Path, help="default: runs/report/PRESET")
    arguments = parser.parse_args(argv)
    for experiment in arguments.experiments:
        if experiment not in EXPERIMENTS:
            raise UserError(f"{experiment} is no experiment: use {', '.join(EXPERIMENTS)}")
    output = arguments.output or ROOT / "runs" / "report" / arguments.preset
    check_writable(output)
    sections, records = make_sections(
        arguments.experiments or EXPERIMENTS, arguments.preset, arguments.records, output
    )
    if not sections:
        raise UserError(
            f"{arguments.records} holds no finished runs of preset {arguments.preset}: "
            "run scripts/reproduce.sh first"
        )
    own = {e: [r for r in records if r.experiment == e] for e in EXPERIMENTS}
    folder = str(arguments.records / "EXPERIMENT" / arguments.preset)
    sources = claims.shipped_sources(ROOT / "results", EXPERIMENTS)
    sources.append(claims.Source(arguments.preset, folder, own, words="own runs"))
    judged = claims.section(ROOT / "docs" / "claims.json", sources, output / "claims")
    path = write_report(
        [judged, *sections],
        output / "index.html",
        f"EvoGrad, reproduced (preset {arguments.preset})",
        [record.provenance for record in records],
        f"{_INTRO}\n\nWritten {utc_now()}.",
    )
    print(f"report: {path}")


if __name__ == "__main__":
    run_command(main)
