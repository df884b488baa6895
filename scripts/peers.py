"""Hypergradients of this project and of Betty, TorchOpt and higher, on the same work.

    bash scripts/peers.sh --rounds 7

Two problems: a quadratic whose hypergradients have closed forms, for the error; and weights of
samples for ResNet-32 at batch 100, for error, time and memory of a whole training step. All methods
take turns in one process. The record and the tables lie under results/peers.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import tyro
from pandas import DataFrame
from pydantic import Field

from common.command import run_command
from common.errors import UserError
from common.estimators import ESTIMATORS
from common.files import check_writable
from common.reporting import MISSING, Number, Table, collect_provenance, write_table
from common.reporting.records import (
    Finite,
    JsonObject,
    NotNegative,
    Positive,
    Record,
    Strict,
    save,
)
from common.settings import ROOT

HERE = "here"


class Found(Strict):
    """What was measured of a method.

    claims: which exact number it computes. error: relative; cosine: to the exact number; moved: how
    far it left the parameters displaced; seconds: of a whole training step, by round; bytes: its
    peak. None where that does not apply.
    """

    library: str
    name: str
    claims: str
    error: NotNegative | None = None
    cosine: Finite | None = None
    moved: NotNegative | None = None
    seconds: list[Positive] = Field(default_factory=list)
    bytes: int | None = Field(default=None, ge=0)

    @property
    def label(self) -> str:
        """Its name in tables; that of an estimator here is its name in the registry."""
        return ESTIMATORS[self.name].label if self.library == HERE else self.name


class PeerRecord(Record):
    """Errors on the quadratic; errors, time and memory on the network, where ``plain_seconds`` and
    ``plain_bytes`` are those of the plain step."""

    KIND: ClassVar[str] = "evograd-peer-comparison"

    provenance: JsonObject
    threads: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    plain_seconds: list[Positive]
    plain_bytes: int = Field(ge=1)
    quadratic: list[Found]
    network: list[Found]


def write_tables(record: PeerRecord, folder: Path) -> None:
    """Both tables of a record."""
    write_table(quadratic_table(record.quadratic), folder, "quadratic")
    write_table(network_table(record), folder, "resnet-32")


def quadratic_table(rows: Sequence[Found]) -> Table:
    """Error by method on the quadratic."""
    cells = [(f.library, f.label, f.claims, f"{f.error:.1e}", f"{f.moved:.1e}") for f in rows]
    columns = ["library", "method", "claims to compute", "relative error", "parameters moved"]
    return Table(
        title="Error against closed forms: a quadratic bilevel problem, float64",
        data=DataFrame(cells, columns=columns),
        notes=(
            "one step: the hypergradient of one unrolled step; at theta: the same with the "
            "validation gradient at the parameters themselves; implicit: the implicit function "
            "theorem's, at the inner optimum. EvoGrad's error is that of one random estimate.",
            "parameters moved: Euclidean distance by which the call left the model's parameters "
            "displaced; it should be zero.",
        ),
    )


def network_table(record: PeerRecord) -> Table:
    """Time, memory and error by method at ResNet-32, the fastest first. Time is the median over the
    rounds of the time in plain steps."""
    rows = record.network
    times = [
        statistics.median(s / p for s, p in zip(f.seconds, record.plain_seconds, strict=True))
        for f in rows
    ]
    cells = [
        (
            f.library,
            f.label,
            Number(time),
            Number(f.bytes / record.plain_bytes),
            MISSING if f.cosine is None else f"{f.cosine:.3f}",
            MISSING if f.error is None else f"{f.error:.1e}",
        )
        for time, f in sorted(zip(times, rows, strict=True), key=lambda pair: pair[0])
    ]
    columns = ["library", "method", "time", "memory", "cosine", "relative error"]
    return Table(
        title=f"Weights of samples, ResNet-32, batch {record.batch_size}: a whole training step",
        data=DataFrame(cells, columns=columns),
        notes=(
            "Time and memory in units of a plain training step; median of "
            f"{len(record.plain_seconds)} rounds in turn, {record.threads} CPU threads, float32. "
            "Cosine and error: against the exact number in float64 of what the method claims to "
            "compute; implicit methods have none at a network that is at no optimum.",
            better(rows, times),
        ),
    )


def better(rows: Sequence[Found], times: Sequence[float]) -> str:
    """In which columns a peer is ahead of all methods here that claim to compute the same."""
    timed = list(zip(times, rows, strict=True))
    ahead = []
    for time, peer in timed:
        ours = [(t, f) for t, f in timed if f.claims == peer.claims and f.library == HERE]
        if peer.library == HERE:
            continue
        name = f"{peer.library} {peer.name}"
        if time < 0.98 * min(t for t, _ in ours):
            ahead.append(f"{name} is faster")
        if peer.bytes < 0.98 * min(f.bytes for _, f in ours):
            ahead.append(f"{name} takes less memory")
        if peer.error is not None and peer.error < 0.5 * min(f.error for _, f in ours):
            ahead.append(f"{name} is more exact")
    return (
        "Where a peer is ahead of every method here that claims to compute the same, by more than "
        f"2 % (error: a factor of 2): {'; '.join(ahead) or 'nowhere'}."
    )


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
    # The libraries are there in an environment of their own only.
    from scripts.peer_methods import LIBRARIES, network_rows, quadratic_rows

    arguments = tyro.cli(Arguments, args=argv, prog="python -m scripts.peers", description=__doc__)
    if min(arguments.rounds, arguments.batch_size, arguments.threads) < 1:
        raise UserError("--rounds, --batch-size and --threads must be at least 1")
    folder = arguments.output
    check_writable(folder)
    torch.set_num_threads(arguments.threads)
    record = PeerRecord(
        provenance=collect_provenance() | {"peers": LIBRARIES},
        threads=arguments.threads,
        batch_size=arguments.batch_size,
        quadratic=quadratic_rows(),
        **network_rows(arguments.rounds, arguments.batch_size),
    )
    save(record, folder / "records" / "record.json")
    write_tables(record, folder)
    print(f"tables: {folder / 'quadratic.md'} {folder / 'resnet-32.md'}")


if __name__ == "__main__":
    run_command(main)
