"""Hypergradients of this project and of Betty, TorchOpt and higher, on the same work.

    bash scripts/peers.sh --rounds 7

Two problems: a quadratic whose hypergradients have closed forms, for the error; and weights of
samples for ResNet-32 at batch 100, for error, time and memory of a whole training step. All methods
take turns in one process. The record and the tables lie under results/peers.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from common.command import run_command
from common.errors import UserError
from common.files import check_writable
from common.hypergrad.compare import Rounds, in_turns
from common.hypergrad.memory import peak_memory
from common.reporting import collect_provenance
from common.reporting.records import save
from common.settings import ROOT
from scripts.peer_methods import LIBRARIES, METHODS, Method
from scripts.peer_problems import Work, exact_numbers, quadratic, sample_weights
from scripts.peer_tables import Found, PeerRecord, write_tables


def compared(method: Method, work: Work, exact: Tensor) -> Found:
    """Relative error and cosine of its hypergradient, and how far it displaced the parameters."""
    before = [p.detach().clone() for p in work.model.parameters()]
    step = method.make(work)
    exact = exact * step.scale
    grads = torch.cat([g.reshape(-1) for g in step.hypergradient()]).double()
    moved = [
        (p.detach() - old).norm() for p, old in zip(work.model.parameters(), before, strict=True)
    ]
    return Found(
        library=method.library,
        name=method.name,
        claims=method.claims,
        error=((grads - exact).norm() / exact.norm()).item(),
        cosine=torch.nn.functional.cosine_similarity(grads, exact, dim=0).item(),
        moved=torch.stack(moved).norm().item(),
    )


def quadratic_rows() -> list[Found]:
    """Errors against closed forms, in float64."""
    rows = []
    for method in METHODS:
        work = quadratic(method.claims == "implicit")
        rows.append(compared(method, work, exact_numbers(work)[method.claims]))
    return rows


def network_rows(rounds: int, batch_size: int) -> dict[str, Any]:
    """Of the record: errors, seconds and bytes at ResNet-32, and those of the plain step."""
    work = sample_weights(batch_size)
    methods = [m for m in METHODS if not m.quadratic_only]
    exact, rows = exact_numbers(work), []
    for method in methods:
        if method.claims in exact:  # an untrained network is at no optimum
            rows.append(compared(method, copy.deepcopy(work), exact[method.claims]))
        else:
            rows.append(Found(library=method.library, name=method.name, claims=method.claims))
    steps = [method.make(sample_weights(batch_size)).training_step for method in methods]
    steps = [work.plain_step, *steps]
    for step in steps:
        step()  # optimisers make their states in the first step
    device = torch.device("cpu")
    peaks = [peak_memory(step, device)[0] for step in steps]
    plain, *seconds = in_turns(steps, device, Rounds(0.0, rounds, rounds))
    costs = zip(rows, seconds, peaks[1:], strict=True)
    measured = [f.model_copy(update={"seconds": its, "bytes": peak}) for f, its, peak in costs]
    return {"plain_seconds": plain, "plain_bytes": peaks[0], "network": measured}


@dataclass(frozen=True)
class Arguments:
    """How it is measured, and where the tables go."""

    rounds: int = 7
    """Timed rounds of all methods in turn."""
    batch_size: int = 100
    """Of ResNet-32."""
    threads: int = 2
    """CPU threads."""
    output: Path = ROOT / "results" / "peers" / "cpu"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = tyro.cli(Arguments, args=argv, prog="python -m scripts.peers", description=__doc__)
    if min(arguments.rounds, arguments.batch_size, arguments.threads) < 1:
        raise UserError("--rounds, --batch-size and --threads must be at least 1")
    check_writable(arguments.output)
    torch.set_num_threads(arguments.threads)
    record = PeerRecord(
        provenance=collect_provenance() | {"peers": LIBRARIES},
        threads=arguments.threads,
        batch_size=arguments.batch_size,
        quadratic=quadratic_rows(),
        **network_rows(arguments.rounds, arguments.batch_size),
    )
    folder = arguments.output
    save(record, folder / "records" / "record.json")
    write_tables(record, folder)
    print(f"tables: {folder / 'quadratic.md'} {folder / 'resnet-32.md'}")


if __name__ == "__main__":
    run_command(main)
