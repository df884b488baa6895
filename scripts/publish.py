"""Keeps results/ and the numbers in the documents: taken from run records, never typed.

    python -m scripts.publish                      draw results/ and fill in the documents again
    python -m scripts.publish --collect rotation --preset paper    take over finished runs first
    python -m scripts.publish --collect benchmark --preset small   take over measurements of cost
    python -m scripts.publish --check              exit status 1 if anything published is not right

results/EXPERIMENT/PRESET/ holds the records of this project's own runs, and beside them the
tables and figures made from them; results/benchmark/SIZE/ the same for the cost study, whose sizes
are small and paper; results/benchmark/estimators/ the table of all estimators; results/peers/cpu/
the comparison with other libraries, by scripts/peers.sh. In the documents, text between the markers
``generated: EXPERIMENT/PRESET/TABLE`` and ``end generated`` is the Markdown of a table.

--check makes all of it again and compares, and compares the checksums of the records, of the
embedded data and of the data sets in the cache.
"""

import importlib
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from pandas import DataFrame

from common import claim_tables, claims
from common.claim_evidence import shipped
from common.command import run_command
from common.cost_study.records import read_measurements
from common.datasets.__main__ import LOADERS
from common.datasets.fetch import Damaged, cached
from common.errors import UserError
from common.experiment import load_experiment
from common.fidelity_study import report as fidelity_report
from common.files import write_atomic
from common.reporting import (
    MISSING,
    RunRecord,
    Table,
    save,
    write_table,
    write_tables,
)
from common.reporting.forest import forest_plot
from common.reporting.records import load, read_document
from common.settings import ROOT
from cross_domain_fewshot import embedded
from metaxl.embedded import LANGUAGES, load_embedded
from scripts import benchmark, fidelity, peers
from scripts.experiments import EXPERIMENTS, Name

RESULTS = ROOT / "results"
PRESETS = ("smoke", "quick", "study", "paper")
TABLES, FIGURES = ("md", "tex", "csv"), ("png", "pdf")
_BLOCK = re.compile(
    r"(^<!-- generated: ([^\n]+?) -->$)(.*?)(^<!-- end generated: \2 -->$)", re.M | re.S
)
_MARKER = re.compile(r"<!-- (?:end )?generated: ")
_FOLDER = re.compile(r"(?<=\| )results/[^ |]+(?= \|)")


def collect(name: str, preset: str, runs: Path) -> int:
    """Copies the records of finished runs, or of the cost study, into results/; returns how many.

    A run of the same name is replaced, others stay.
    """
    folder = RESULTS / name / preset / "records"
    if name == "benchmark":
        measurements = read_measurements(runs / name / preset)
        for measurement in measurements:
            save(measurement, measurement.path(folder / measurement.device))
        return len(measurements)
    experiment = load_experiment(name)
    records = experiment.records(preset, runs / name / preset)
    for record in records:
        save(record, folder / f"{experiment.run_name(record.config)}.json")
    return len(records)


def kept_records(name: str, preset: str) -> list[RunRecord]:
    """The records of results/."""
    return load_experiment(name).records(preset, RESULTS / name / preset / "records")


def draw(folder: Path) -> None:
    """Makes all tables and figures of results/ in ``folder``."""
    for name in EXPERIMENTS:
        for preset in PRESETS:
            if records := kept_records(name, preset):
                load_experiment(name).section(records, preset, folder / name / preset)
        report = importlib.import_module(f"{name}.report")
        if hasattr(report, "draw_studies"):
            report.draw_studies(RESULTS / name, folder / name)
    write_table(runs_table(), folder / "runs" / "all", "kept")
    draw_claims(folder / "claims" / "all")
    benchmark.draw(RESULTS / "benchmark", folder / "benchmark")
    compared = RESULTS / "peers" / "cpu" / "records" / "record.json"
    if compared.exists():
        peers.write_tables(load(compared, peers.PeerRecord), folder / "peers" / "cpu")
    for preset in PRESETS:
        studied = RESULTS / "fidelity" / preset / "records"
        if studied.exists():
            fidelity_report.draw(studied, folder / "fidelity" / preset, fidelity.EXPERIMENTS)


def draw_claims(folder: Path) -> None:
    """The claims' tables and forest plot, and the page on the paper's figures and tables."""
    kept = shipped(RESULTS, EXPERIMENTS)
    judged = claims.judge(kept)
    claim_tables.section(judged, folder)
    write_tables(
        {"summary": claim_tables.summary_table(judged)} | claim_tables.paper_tables(judged, kept),
        folder,
    )
    forest_plot(claim_tables.forest_rows(judged), folder)


def runs_table() -> Table:
    """What results/ holds: the runs of each experiment and preset, and their time."""
    rows, twice = [], 0
    for experiment in EXPERIMENTS:
        known: dict[str, dict[str, float]] = {}
        for preset in reversed(PRESETS):
            records = kept_records(experiment, preset)
            named = {load_experiment(experiment).run_name(r.config): r.final for r in records}
            twice += sum(known.get(name) == final for name, final in named.items())
            known |= named
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
        caption="Hours: as if one run had followed the other, though two often ran side by side. "
        f"{twice} runs belong to two presets and are counted in both.",
    )


def documents() -> list[Path]:
    """The Markdown files that have generated blocks."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("docs/**/*.md")]
    return sorted({f for f in files if "<!-- generated: " in f.read_text(encoding="utf-8")})


def blocks_of(text: str) -> dict[str, str]:
    """What stands between the markers of a document, by the name of the table."""
    return {block[2]: block[3] for block in _BLOCK.finditer(text)}


def filled(document: Path, tables: Path) -> tuple[str, str]:
    """The text of a document as it is, and with the tables of a folder between its markers; cells
    that name a folder of results/ become links to it. Filling again changes nothing. UserError for
    markers that are repeated, nested or left open, and for a table that is not there."""
    text = document.read_text(encoding="utf-8")
    if len(_MARKER.findall(text)) != 2 * len(blocks_of(text)):
        raise UserError(
            f"{document}: a generated block needs one marker line before it, one after it, and "
            f"none inside; those that have them: {', '.join(blocks_of(text)) or 'none'}"
        )
    up = "../" * (len(document.relative_to(ROOT).parts) - 1)

    def fill(block: re.Match[str]) -> str:
        path = tables / f"{block[2]}.md"
        if not path.exists():
            raise UserError(f"{document}: the table {block[2]} is none that results/ gives")
        table = _FOLDER.sub(rf"[\g<0>]({up}\g<0>)", path.read_text(encoding="utf-8"))
        # Markdown takes a table for one only after a blank line.
        return f"{block[1]}\n\n{table.strip()}\n\n{block[4]}"

    return text, _BLOCK.sub(fill, text)


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
            found, right = map(blocks_of, filled(document, fresh))
            names = [name for name in found if found[name] != right[name]]
            wrong += [f"{document.relative_to(ROOT)}: {name}" for name in names]
    return wrong


def damaged() -> list[str]:
    """Records, embedded files and data sets in the cache that are not what they were."""
    wrong = []
    parts: list[Any] = [partial(read_document, path) for path in sorted(RESULTS.rglob("*.json"))]
    parts += [partial(embedded.load, name) for name in embedded.recipe()["domains"]]
    parts += [partial(load_embedded, language) for language in LANGUAGES]
    parts += [partial(cached, dataset) for dataset, _ in LOADERS.values()]
    for part in parts:
        try:
            part()
        except (UserError, Damaged) as error:
            wrong.append(str(error))
    return wrong


def replace_results(fresh: Path) -> None:
    """Puts the files of a folder into results/, and takes away those that are no longer made."""
    made = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    for name in sorted(made):
        write_atomic(RESULTS / name, (fresh / name).read_bytes())
    for old in RESULTS.glob("*/*/*.*"):
        if old.is_file() and old.relative_to(RESULTS) not in made:
            old.unlink()


@dataclass(frozen=True)
class Options:
    """What to do; without options, results/ and the documents are made again."""

    collect: tuple[Name | Literal["benchmark"], ...] = ()
    """Take over the finished runs of these first."""
    preset: Literal["smoke", "quick", "study", "paper", "small"] = "quick"
    """Of the runs; of the cost study the size."""
    runs: Path = ROOT / "runs"
    """Where the runs are."""
    check: bool = False
    """Change nothing, compare."""


def main(argv: Sequence[str] | None = None) -> None:
    options = tyro.cli(Options, args=argv, prog="python -m scripts.publish", description=__doc__)
    if options.check:
        wrong = damaged()
        if not wrong:  # nothing can be drawn from damaged records
            wrong = differences((*TABLES, *FIGURES))
        print("\n".join(wrong) or "everything published is right")
        sys.exit(1 if wrong else 0)
    for name in options.collect:
        count = collect(name, options.preset, options.runs)
        print(f"{name} {options.preset}: {count} records")
    with tempfile.TemporaryDirectory() as temporary:
        draw(Path(temporary))
        replace_results(Path(temporary))
    for document in documents():
        write_atomic(document, filled(document, RESULTS)[1])


if __name__ == "__main__":
    run_command(main)
