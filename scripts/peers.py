"""Hypergradients of this project and of Betty, TorchOpt and higher, on the same work.

    bash scripts/peers.sh --rounds 7

Two problems: a quadratic whose hypergradients have closed forms, for the error; and weights of
samples for ResNet-32 at batch 100, for error, time and memory of a whole training step. All methods
take turns in one process. The record and the tables lie under results/peers.
"""

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from common.bounds import Bounds
from common.command import Parser, run_command
from common.files import check_writable, write_atomic
from common.reporting import collect_provenance
from common.settings import ROOT
from common.training import TensorMemory
from scripts.peer_methods import LIBRARIES, METHODS, Method
from scripts.peer_problems import Work, exact_numbers, quadratic, sample_weights
from scripts.peer_tables import Found, write_tables


def compared(method: Method, work: Work, exact: Tensor) -> Found:
    """Relative error and cosine of its hypergradient, and how far it displaced the parameters."""
    before = [p.detach().clone() for p in work.model.parameters()]
    exact = exact * method.scale(work)
    grads = torch.cat([g.reshape(-1) for g in method.make(work).hypergradient()]).double()
    moved = [
        (p.detach() - old).norm() for p, old in zip(work.model.parameters(), before, strict=True)
    ]
    return Found(
        *(method.library, method.name, method.claims),
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


def network_rows(rounds: int, batch_size: int) -> tuple[list[Found], list[float], int]:
    """Errors, seconds and bytes at ResNet-32, and the plain step's seconds and bytes."""
    work = sample_weights(batch_size)
    methods = [m for m in METHODS if not m.quadratic_only]
    exact, rows = exact_numbers(work), []
    for method in methods:
        if method.claims in exact:  # an untrained network is at no optimum
            rows.append(compared(method, copy.deepcopy(work), exact[method.claims]))
        else:
            rows.append(Found(method.library, method.name, method.claims))
    steps = [method.make(sample_weights(batch_size)).training_step for method in methods]
    peaks = []
    for step in (work.plain_step, *steps):
        step()  # optimisers make their states in the first step
        with TensorMemory() as memory:
            step()
        peaks.append(memory.peak)
    plain: list[float] = []
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in tqdm(range(rounds), desc="rounds", dynamic_ncols=True):
        plain.append(timed(work.plain_step))
        for step, its in zip(steps, seconds, strict=True):
            its.append(timed(step))
    for found, its, peak in zip(rows, seconds, peaks[1:], strict=True):
        found.seconds, found.bytes = its, peak
    return rows, plain, peaks[0]


def timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m scripts.peers", description=__doc__)
    some = Bounds(least=1, most=1024)
    parser.add_number("--rounds", int, some, default=7, help="timed rounds of all methods in turn")
    parser.add_number("--batch-size", int, some, default=100, help="of ResNet-32")
    parser.add_number("--threads", int, some, default=2, help="CPU threads")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "peers" / "cpu")
    arguments = parser.parse_args(argv)
    check_writable(arguments.output)
    torch.set_num_threads(arguments.threads)
    on_quadratic = quadratic_rows()
    on_network, plain, plain_bytes = network_rows(arguments.rounds, arguments.batch_size)
    record = {
        "provenance": collect_provenance() | {"peers": LIBRARIES},
        "threads": arguments.threads,
        "batch_size": arguments.batch_size,
        "plain": {"seconds": plain, "bytes": plain_bytes},
        "quadratic": [asdict(found) for found in on_quadratic],
        "resnet-32": [asdict(found) for found in on_network],
    }
    folder = arguments.output
    write_atomic(folder / "records" / "record.json", json.dumps(record, indent=1) + "\n")
    write_tables(record, folder)
    print(f"tables: {folder / 'quadratic.md'} {folder / 'resnet-32.md'}")


if __name__ == "__main__":
    run_command(main)
