"""The fidelity study: estimators against the exact one-step hypergradient.

    python -m scripts.fidelity --preset quick
    python -m scripts.fidelity --preset quick --collect      and copy the records into results/

Leaves runs/fidelity/PRESET/records/SNAPSHOT.json, tables and figures beside them. A snapshot that
is there is not measured again, a training that was cut off is continued.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from common.command import run_command
from common.errors import UserError
from common.fidelity_study.measuring import measure_snapshot
from common.fidelity_study.records import FidelityRecord
from common.fidelity_study.report import draw
from common.fidelity_study.settings import OPTIONS, Options
from common.fidelity_study.snapshots import PlannedSnapshot
from common.files import check_writable, write_atomic
from common.reporting import collect_provenance
from common.reporting.records import load, save
from common.settings import ROOT
from common.training import choose_device, configure
from scripts.experiments import EXPERIMENTS as ALL

EXPERIMENTS = tuple(name for name in ALL if name in ("rotation", "metaweightnet"))
"""Those that the study looks at, in the order of the tables."""


def planned(preset: str, device: str, options: Options, folder: Path) -> list[PlannedSnapshot]:
    """Every snapshot of the study, in the order in which training reaches them."""
    found = []
    for experiment in EXPERIMENTS:
        module = importlib.import_module(f"{experiment}.studies")
        found += module.snapshots(preset, choose_device(device), options.pairs, folder / "training")
    return found


def record_of(
    snapshot: PlannedSnapshot, options: Options, preset: str, device: str, bar: tqdm
) -> FidelityRecord:
    """Measures one snapshot, showing how far it is on the bar."""
    done, record = 0.0, None
    for what, part, record in measure_snapshot(snapshot, options):  # noqa: B007 - the last is kept
        bar.set_postfix_str(f"{snapshot.name}: {what}")
        bar.update(min(part - done, bar.total - bar.n))
        done = part
    assert record is not None
    return FidelityRecord(
        **record,
        preset=preset,
        provenance=collect_provenance() | {"device": str(choose_device(device))},
    )


@dataclass(frozen=True)
class Arguments:
    """What is studied, and where the records go."""

    preset: str = "quick"
    """smoke, quick or paper."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N."""
    threads: int = 0
    """CPU threads; 0: torch's choice."""
    collect: bool = False
    """Copy the records into results/."""
    output: Path = ROOT / "runs" / "fidelity"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = tyro.cli(
        Arguments, args=argv, prog="python -m scripts.fidelity", description=__doc__
    )
    if arguments.preset not in OPTIONS:
        raise UserError(f"--preset {arguments.preset} is unknown: use {', '.join(OPTIONS)}")
    configure(arguments.threads)
    options, folder = OPTIONS[arguments.preset], arguments.output / arguments.preset
    records, results = folder / "records", ROOT / "results" / "fidelity" / arguments.preset
    check_writable(records)
    if arguments.collect:
        check_writable(results)
    snapshots = planned(arguments.preset, arguments.device, options, folder)
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} snapshots [{elapsed}<{remaining}] "
    with tqdm(
        total=len(snapshots), desc="fidelity", dynamic_ncols=True, bar_format=form + "{postfix}"
    ) as bar:
        for snapshot in snapshots:
            path = records / f"{snapshot.name}.json"
            if path.exists():
                load(path, FidelityRecord)
                bar.update(1)
                continue
            record = record_of(snapshot, options, arguments.preset, arguments.device, bar)
            save(record, path)
    draw(records, folder, EXPERIMENTS)
    if arguments.collect:
        for path in records.glob("*.json"):
            write_atomic(results / "records" / path.name, path.read_bytes())
        draw(results / "records", results, EXPERIMENTS)
    print(f"tables and figures: {folder}")


if __name__ == "__main__":
    run_command(main)
