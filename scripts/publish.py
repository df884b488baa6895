"""Keeps results/ and the numbers in the documents: taken from run records, never typed.

    python -m scripts.publish                      draw results/ and fill in the documents again
    python -m scripts.publish --collect rotation --preset paper    take over finished runs first
    python -m scripts.publish --collect benchmark --preset small   take over measurements of cost
    python -m scripts.publish --check              exit status 1 if tables or documents disagree

results/EXPERIMENT/PRESET/ holds the records of this project's own runs, and beside them the
tables and figures made from them; results/benchmark/SIZE/ the same for the cost study, whose sizes
are small and paper; results/benchmark/estimators/ the table of all estimators; results/peers/cpu/
the comparison with other libraries, by scripts/peers.sh. In the documents, text between the markers
``generated: EXPERIMENT/PRESET/TABLE`` and ``end generated`` is the Markdown of a table.
"""

import importlib
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pandas import DataFrame

from common import claims
from common.command import Parser, run_command
from common.cost_study.records import by_device, read_measurements, write_measurement
from common.errors import UserError
from common.experiment import load_experiment
from common.fidelity_study import report as fidelity_report
from common.files import write_atomic
from common.reporting import (
    MISSING,
    RunRecord,
    Table,
    fill_blocks,
    find_blocks,
    save,
    write_table,
)
from common.reporting.records import load
from common.settings import ROOT
from scripts import benchmark, fidelity, peer_tables
from scripts.experiments import EXPERIMENTS

RESULTS = ROOT / "results"
CLAIMS = ROOT / "docs" / "claims.json"
PRESETS = ("smoke", "quick", "study", "paper")
TABLES, FIGURES = ("md", "tex", "csv"), ("png", "pdf")
_FOLDER = re.compile(r"(?<=\| )results/[^ |]+(?= \|)")


def collect(experiment: str, preset: str, runs: Path) -> int:
    """Copies finished runs' records into results/; returns how many."""
    declared = load_experiment(experiment)
    records = declared.records(preset, runs / experiment / preset)
    for record in records:
        name = declared.run_name(record.config)
        save(record, RESULTS / experiment / preset / "records" / f"{name}.json")
    return len(records)


def collect_costs(size: str, runs: Path) -> int:
    """Copies the cost study's measurements into results/; returns how many."""
    measurements = read_measurements(runs / "benchmark" / size)
    for device, found in by_device(measurements).items():
        for measurement in found:
            write_measurement(measurement, RESULTS / "benchmark" / size / "records" / device)
    return len(measurements)


def kept_records(experiment: str, preset: str) -> list[RunRecord]:
    """The records of results/."""
    return load_experiment(experiment).records(preset, RESULTS / experiment / preset / "records")


def draw(folder: Path) -> None:
    """Makes all tables and figures of results/ in ``folder``."""
    for experiment in EXPERIMENTS:
        report = importlib.import_module(f"{experiment}.report")
        for preset in PRESETS:
            if records := kept_records(experiment, preset):
                load_experiment(experiment).section(records, preset, folder / experiment / preset)
        if hasattr(report, "draw_studies"):
            report.draw_studies(RESULTS / experiment, folder / experiment)
    write_table(runs_table(), folder / "runs" / "all", "kept")
    claims.section(CLAIMS, claims.shipped_sources(RESULTS, EXPERIMENTS), folder / "claims" / "all")
    benchmark.draw(RESULTS / "benchmark", folder / "benchmark")
    peers = RESULTS / "peers" / "cpu" / "records" / "record.json"
    if peers.exists():
        peer_tables.write_tables(load(peers, peer_tables.PeerRecord), folder / "peers" / "cpu")
    for preset in PRESETS:
        studied = RESULTS / "fidelity" / preset / "records"
        if studied.exists():
            fidelity_report.draw(studied, folder / "fidelity" / preset, fidelity.EXPERIMENTS)


def runs_table() -> Table:
    """What results/ holds: the runs of each experiment and preset, and their time."""
    rows = []
    for experiment in EXPERIMENTS:
        for preset in reversed(PRESETS):
            records = kept_records(experiment, preset)
            if records:
                methods = len({record.method for record in records})
                devices = sorted({record.provenance["device"].split(":")[0] for record in records})
                seconds = [record.provenance.get("wall_seconds") for record in records]
                hours = MISSING if None in seconds else f"{sum(seconds) / 3600:.1f}"
                cells = str(len(records)), str(methods), hours, ", ".join(devices)
                rows.append((experiment, preset, *cells))
    columns = ["experiment", "preset", "runs", "methods", "hours in all", "device"]
    return Table(
        "The runs in results/",
        DataFrame(rows, columns=columns),
        caption="Hours: as if one run had followed the other, though two often ran side by side.",
    )


def documents() -> list[Path]:
    """The Markdown files that have generated blocks."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("docs/**/*.md")]
    return sorted({f for f in files if "<!-- generated: " in f.read_text(encoding="utf-8")})


def filled(document: Path, tables: Path) -> tuple[str, str]:
    """The text of a document as it is, and with the tables of a folder between its markers; cells
    that name a folder of results/ become links to it."""
    text = document.read_text(encoding="utf-8")
    try:
        paths = {name: tables / f"{name}.md" for name in find_blocks(text)}
        for name, path in paths.items():
            if not path.exists():
                raise UserError(f"the table {name} is none that results/ gives")
        contents = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
        up = "../" * (len(document.relative_to(ROOT).parts) - 1)
        linked = {n: _FOLDER.sub(rf"[\g<0>]({up}\g<0>)", t) for n, t in contents.items()}
        return text, fill_blocks(text, linked)
    except UserError as error:
        raise UserError(f"{document}: {error}") from None


def differences(suffixes: Sequence[str] = TABLES) -> list[str]:
    """Files in results/ and blocks in documents that the records do not give.

    suffixes: of the files compared. Figures are the same bytes only with the versions of
    requirements.txt.
    """
    wrong = []
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        draw(fresh)
        for suffix in suffixes:
            made = {p.relative_to(fresh) for p in fresh.rglob(f"*.{suffix}")}
            kept = {p.relative_to(RESULTS) for p in RESULTS.glob(f"*/*/*.{suffix}")}
            for table in sorted(made | kept):
                same = table in made & kept and (
                    (fresh / table).read_bytes() == (RESULTS / table).read_bytes()
                )
                if not same:
                    wrong.append(f"results/{table}")
        for document in documents():
            found, right = map(find_blocks, filled(document, fresh))
            names = [name for name in found if found[name] != right[name]]
            wrong += [f"{document.relative_to(ROOT)}: {name}" for name in names]
    return wrong


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m scripts.publish", description=__doc__)
    parser.add_argument("--collect", nargs="+", default=[], choices=(*EXPERIMENTS, "benchmark"))
    parser.add_argument("--preset", default="quick", choices=(*PRESETS, "small"))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the runs are")
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    arguments = parser.parse_args(argv)
    if arguments.check:
        wrong = differences()
        print("\n".join(wrong) or "results/ and the documents agree with the records")
        sys.exit(1 if wrong else 0)
    for experiment in arguments.collect:
        if experiment == "benchmark":
            count = collect_costs(arguments.preset, arguments.runs)
        else:
            count = collect(experiment, arguments.preset, arguments.runs)
        print(f"{experiment} {arguments.preset}: {count} records")
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        draw(fresh)
        for old in [p for p in RESULTS.glob("*/*/*.*") if p.is_file()]:
            old.unlink()
        shutil.copytree(fresh, RESULTS, dirs_exist_ok=True)
    for document in documents():
        write_atomic(document, filled(document, RESULTS)[1])


if __name__ == "__main__":
    run_command(main)
