"""Time and memory of one training step by method, beside a plain step measured in the same run.

    python -m metaweightnet.cost --rounds 5 --json cost.json

Random images: the cost does not depend on what they show. The methods take turns, round by round,
so that whatever else the machine does falls on all of them alike.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from common.cli import run_command
from common.errors import UserError
from common.reporting import (
    Table,
    collect_provenance,
    cost_table,
    to_markdown,
    write_atomic,
    write_table,
)
from common.settings import require_positive
from common.training import choose_device, configure, measure, seed_everything
from metaweightnet.config import CLASSES, Config
from metaweightnet.data import Split, Splits
from metaweightnet.train import MetaWeightTask

VARIANTS = {
    "plain": {"method": "plain"},
    "evograd": {"method": "evograd"},
    "evograd, K = 16": {"method": "evograd", "num_candidates": 16},
    "evograd, forward mode": {"method": "evograd", "evograd_mode": "forward"},
    "evograd, one graph": {"method": "evograd", "evograd_mode": "graph"},
    "t1t2": {"method": "t1t2"},
    "t1t2_higher": {"method": "t1t2_higher"},
    "t1t2_forward": {"method": "t1t2_forward"},
    "finite_difference": {"method": "finite_difference"},
}


@dataclass(frozen=True)
class Options:
    """What is measured; defaults: the paper's ResNet-32 and batch."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    """Rows of the table; plain is measured always."""
    rounds: int = 5
    """How often every variant has its turn."""
    repeats: int = 3
    """Timed steps per turn, after one untimed."""
    depth: int = 32
    """Layers of the ResNet."""
    width: int = 1
    """Its channels are 16-32-64 times this."""
    meta_hidden: int = 100
    """Hidden units of the weight net."""
    batch_size: int = 100
    """Images per batch, training and meta."""
    dataset: str = "cifar10"
    """Decides the number of classes: cifar10 or cifar100."""
    device: str = "auto"
    """auto (CUDA if there), cpu, cuda, cuda:N."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch."""
    tf32: bool = False
    """Let a GPU round float32 products to TF32."""
    json: Path | None = None
    """Also write the numbers to this file."""

    def config(self, variant: str) -> Config:
        names = ("depth", "width", "meta_hidden", "batch_size", "dataset")
        chosen = {name: getattr(self, name) for name in names}
        return replace(Config(), **chosen, **VARIANTS[variant]).validate()

    def validate(self) -> "Options":
        for variant in self.variants:
            if variant not in VARIANTS:
                raise UserError(f"--variants {variant} is unknown: use {', '.join(VARIANTS)}")
        if self.dataset not in CLASSES:
            raise UserError(f"--dataset {self.dataset} is unknown: use {', '.join(CLASSES)}")
        require_positive(self, "rounds", "repeats")
        return self


def random_splits(config: Config, device: torch.device) -> Splits:
    """A batch of random images in place of each split."""
    images = torch.randint(256, (config.batch_size, 32, 32, 3), dtype=torch.uint8)
    labels = torch.arange(config.batch_size) % config.num_classes
    split = Split(*(t.to(device) for t in (images, labels, labels < 0)))
    return Splits(split, split, split, {})


def measure_variants(options: Options) -> dict[str, list[dict[str, float]]]:
    """variant -> one measurement per round: seconds (median of its repeats) and bytes."""
    device = choose_device(options.device)
    configure(options.threads, options.tf32)
    names = ["plain", *(name for name in options.variants if name != "plain")]
    steps = {}
    for name in names:
        seed_everything(1)
        config = options.config(name)
        steps[name] = MetaWeightTask(config, device, random_splits(config, device)).one_step()
    costs = {name: [] for name in names}
    for number in range(options.rounds):
        for name, step in steps.items():
            print(f"\rround {number + 1} of {options.rounds}: {name:24}", end="", file=sys.stderr)
            cost = measure(step, device, options.repeats, warm_up=1)
            costs[name].append(cost.as_dict())
    print("\r" + " " * 50, end="\r", file=sys.stderr)
    return costs


def table(measured: Mapping[str, Any]) -> Table:
    """The table of a measurement (what ``--json`` writes)."""
    settings = measured["settings"]
    cores = "" if measured["device"] != "cpu" else f", {measured['threads']} threads"
    return cost_table(
        "Cost of one training step on label noise",
        measured["costs"],
        "plain",
        caption=f"Meta step and base step, ResNet-{settings['depth']} of width "
        f"{settings['width']}, batch {settings['batch_size']}, on {measured['device']}{cores}; "
        f"medians over {settings['rounds']} rounds in which the methods took turns. Peak: memory "
        "beyond what was in use before the step.",
    )


def draw(records: Path, folder: Path) -> None:
    """Writes the table of every measurement in a folder of results."""
    for path in sorted(records.glob("*.json")):
        write_table(table(json.loads(path.read_text(encoding="utf-8"))), folder, path.stem)


def main() -> None:
    options = tyro.cli(Options, prog="python -m metaweightnet.cost", description=__doc__).validate()
    costs = measure_variants(options)
    measured = {
        "settings": {k: v for k, v in asdict(options).items() if k != "json"},
        "device": str(choose_device(options.device)),
        "threads": torch.get_num_threads(),
        "costs": costs,
        "provenance": collect_provenance(),
    }
    print(to_markdown(table(measured)))
    if options.json is not None:
        write_atomic(options.json, json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
