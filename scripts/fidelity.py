"""The fidelity study: estimators against the exact one-step hypergradient.

    python -m scripts.fidelity --preset quick
    python -m scripts.fidelity --preset quick --collect      and copy the records into results/

Leaves runs/fidelity/PRESET/records/SNAPSHOT.json, tables and figures beside them. A snapshot that
is there is not measured again, a training that was cut off is continued.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from common.command import run_command
from common.errors import UserError
from common.experiment import load_experiment
from common.fidelity_study.measuring import OPTIONS, measure_snapshot
from common.fidelity_study.records import FidelityRecord
from common.fidelity_study.report import draw
from common.files import check_writable, write_atomic
from common.reporting import collect_provenance
from common.reporting.records import load, save
from common.settings import ROOT
from common.training import choose_device, configure

EXPERIMENTS = ("rotation", "metaweightnet")
"""Those that the study looks at, in the order of the tables."""


@dataclass(frozen=True)
class Arguments:
    """What is studied, and where the records go."""

    preset: str = "quick"
    """smoke or quick."""
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
    preset = arguments.preset
    if preset not in OPTIONS:
        raise UserError(f"--preset {preset} is unknown: use {', '.join(OPTIONS)}")
    configure(arguments.threads)
    device, options, folder = choose_device(arguments.device), OPTIONS[preset], arguments.output
    folder = folder / preset
    records, results = folder / "records", ROOT / "results" / "fidelity" / preset
    check_writable(records)
    if arguments.collect:
        check_writable(results)
    snapshots = [
        snapshot
        for name in EXPERIMENTS
        for snapshot in load_experiment(name)
        .studies()
        .snapshots(preset, device, options.pairs, folder / "training")
    ]
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} snapshots [{elapsed}<{remaining}] "
    with tqdm(
        total=len(snapshots), desc="fidelity", dynamic_ncols=True, bar_format=form + "{postfix}"
    ) as bar:
        for number, snapshot in enumerate(snapshots):

            def say(what: str, part: float, name: str = snapshot.name, n: int = number) -> None:
                bar.set_postfix_str(f"{name}: {what}")
                bar.update(n + part - bar.n)

            path = records / f"{snapshot.name}.json"
            if path.exists():
                load(path, FidelityRecord)
                say("done", 1.0)
                continue
            provenance = collect_provenance() | {"device": str(device)}
            save(
                measure_snapshot(snapshot, options, say, preset=preset, provenance=provenance), path
            )
    draw(records, folder, EXPERIMENTS)
    if arguments.collect:
        for path in records.glob("*.json"):
            write_atomic(results / "records" / path.name, path.read_bytes())
        draw(results / "records", results, EXPERIMENTS)
    print(f"tables and figures: {folder}")


if __name__ == "__main__":
    run_command(main)
