"""Hypergradients of this project and of Betty, TorchOpt and higher, on the same work.

    bash scripts/peers.sh --rounds 7

Two problems: a quadratic whose hypergradients have closed forms, for the error; and weights of
samples for ResNet-32 at batch 100, for error, time and memory of a whole training step. All methods
take turns in one process. The record and the tables lie under results/peers.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from common.command import run_command
from common.errors import UserError
from common.reporting import Table, collect_provenance, write_table
from common.settings import ROOT
from common.training import TensorMemory
from scripts.peer_methods import LIBRARIES, METHODS, Method
from scripts.peer_problems import Work, exact_numbers, quadratic, sample_weights


@dataclass
class Found:
    """What was measured of a method at one problem; ``why`` it was not, else."""

    method: Method
    error: float | None = None
    cosine: float | None = None
    moved: float | None = None
    seconds: Sequence[float] = ()
    bytes: int | None = None
    why: str = ""


def accuracy_of(method: Method, work: Work, found: Found) -> None:
    """Relative error and cosine of its hypergradient, and how far it displaced the parameters."""
    before = {n: p.detach().clone() for n, p in work.model.named_parameters()}
    exact = exact_numbers(work)[method.claims] * method.scale(work)
    step = method.make(work)
    grads = torch.cat([g.reshape(-1) for g in step.hypergradient()]).double()
    moved = [(p.detach() - before[n]).norm() for n, p in work.model.named_parameters()]
    found.error = ((grads - exact).norm() / exact.norm()).item()
    found.cosine = torch.nn.functional.cosine_similarity(grads, exact, dim=0).item()
    found.moved = torch.stack(moved).norm().item()


def quadratic_rows() -> list[Found]:
    """Errors against closed forms, in float64."""
    rows = []
    for method in METHODS:
        if not method.network_only:
            found = Found(method)
            accuracy_of(method, quadratic(method.claims == "implicit"), found)
            rows.append(found)
    return rows


def network_rows(rounds: int, batch_size: int) -> tuple[list[Found], list[float], int]:
    """Errors, seconds and bytes at ResNet-32, and the plain step's seconds and bytes."""
    work = sample_weights(batch_size)
    rows = [Found(m) for m in METHODS if not m.quadratic_only]
    for found in rows:
        if found.method.claims != "implicit":  # an untrained network is at no optimum
            accuracy_of(found.method, copy.deepcopy(work), found)
    steps = [found.method.make(sample_weights(batch_size)).training_step for found in rows]
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


def quadratic_table(rows: Sequence[Found]) -> Table:
    """Error by method on the quadratic."""
    cells = [
        (f.method.library, f.method.name, f.method.claims, f"{f.error:.1e}", f"{f.moved:.1e}")
        for f in rows
    ]
    return Table(
        columns=("library", "method", "claims to compute", "relative error", "parameters moved"),
        rows=cells,
        caption="Error against closed forms: a quadratic bilevel problem, float64",
        notes=(
            "one step: the hypergradient of one unrolled step; at theta: the same with the "
            "validation gradient at the parameters themselves; implicit: the implicit function "
            "theorem's, at the inner optimum. EvoGrad's error is that of one random estimate.",
            "parameters moved: Euclidean distance by which the call left the model's parameters "
            "displaced; it should be zero.",
        ),
    )


def network_table(
    rows: Sequence[Found], plain: Sequence[float], plain_bytes: int, threads: int
) -> Table:
    """Time, memory and error by method at ResNet-32, the fastest first."""
    times = {id(f): ratio(f.seconds, plain) for f in rows}
    cells = [
        (
            f.method.library,
            f.method.name,
            f"{times[id(f)]:.2f}",
            f"{f.bytes / plain_bytes:.2f}",
            "–" if f.cosine is None else f"{f.cosine:.3f}",
            "–" if f.error is None else f"{f.error:.1e}",
        )
        for f in sorted(rows, key=lambda f: times[id(f)])
    ]
    return Table(
        columns=("library", "method", "time", "memory", "cosine", "relative error"),
        rows=cells,
        caption="Weights of samples, ResNet-32, batch 100: a whole training step",
        notes=(
            f"Time and memory in units of a plain training step; median of {len(plain)} rounds in "
            f"turn, {threads} CPU threads, float32. Cosine and error: against the exact number in "
            "float64 of what the method claims to compute; implicit methods have none at a network "
            "that is at no optimum.",
            better(rows, times),
        ),
    )


def ratio(seconds: Sequence[float], plain: Sequence[float]) -> float:
    """Median over the rounds of the time in plain steps."""
    return statistics.median(s / p for s, p in zip(seconds, plain, strict=True))


def better(rows: Sequence[Found], times: dict[int, float]) -> str:
    """In which columns a peer is ahead of all methods here that claim to compute the same."""
    ahead = []
    for f in rows:
        ours = [g for g in rows if g.method.claims == f.method.claims and g.method.ours]
        if f.method.ours or not ours:
            continue
        if times[id(f)] < min(times[id(g)] for g in ours):
            ahead.append(f"{f.method.library} {f.method.name} is faster than all here")
        if f.bytes < min(g.bytes for g in ours):
            ahead.append(f"{f.method.library} {f.method.name} takes less memory than all here")
        if f.error is not None and f.error < min(g.error for g in ours):
            ahead.append(f"{f.method.library} {f.method.name} is more exact than all here")
    said = "; ".join(ahead) or "none"
    return f"Where a peer is better than every method here that claims to compute the same: {said}."


def record(
    quadratic_found: Sequence[Found],
    network_found: Sequence[Found],
    plain: Sequence[float],
    plain_bytes: int,
    batch_size: int,
) -> dict[str, object]:
    """Everything measured, as plain values."""

    def row(f: Found) -> dict[str, object]:
        numbers = {n: getattr(f, n) for n in ("error", "cosine", "moved", "bytes")}
        names = {n: getattr(f.method, n) for n in ("library", "name", "claims")}
        return names | numbers | {"seconds": list(f.seconds)}

    return {
        "provenance": collect_provenance() | {"peers": LIBRARIES},
        "batch_size": batch_size,
        "plain": {"seconds": list(plain), "bytes": plain_bytes},
        "quadratic": [row(f) for f in quadratic_found],
        "resnet-32": [row(f) for f in network_found],
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of all methods in turn")
    parser.add_argument("--batch-size", type=int, default=100, help="of ResNet-32")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "peers")
    arguments = parser.parse_args(argv)
    for name in ("rounds", "batch_size", "threads"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")
    torch.set_num_threads(arguments.threads)
    on_quadratic = quadratic_rows()
    on_network, plain, plain_bytes = network_rows(arguments.rounds, arguments.batch_size)
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    found = record(on_quadratic, on_network, plain, plain_bytes, arguments.batch_size)
    (folder / "record.json").write_text(json.dumps(found, indent=1) + "\n")
    write_table(quadratic_table(on_quadratic), folder, "quadratic")
    write_table(
        network_table(on_network, plain, plain_bytes, arguments.threads), folder, "resnet-32"
    )
    print(f"tables: {folder / 'quadratic.md'} {folder / 'resnet-32.md'}")


if __name__ == "__main__":
    run_command(main)
