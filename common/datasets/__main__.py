"""Fetch and verify data sets ahead of a run: ``python -m common.datasets mnist cifar10``."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import tyro

from common.command import run_command
from common.datasets.cifar10n import CIFAR10N, HumanLabels, load_cifar10n
from common.datasets.fetch import Dataset
from common.datasets.images import (
    CIFAR10,
    CIFAR100,
    MNIST,
    ImageDataset,
    load_cifar10,
    load_cifar100,
    load_mnist,
)

LOADERS: dict[str, tuple[Dataset, Callable[..., ImageDataset | HumanLabels]]] = {
    "mnist": (MNIST, load_mnist),
    "cifar10": (CIFAR10, load_cifar10),
    "cifar100": (CIFAR100, load_cifar100),
    "cifar10n": (CIFAR10N, load_cifar10n),
}
Name = Literal["mnist", "cifar10", "cifar100", "cifar10n"]


def describe(dataset: Dataset, loaded: ImageDataset | HumanLabels) -> str:
    """Source, counts per class and checksums of a loaded data set, as lines of text."""
    lines = [
        f"{dataset.title} ({dataset.homepage}; licence: {dataset.licence})",
        f"  source: {loaded.source}",
    ]
    if isinstance(loaded, HumanLabels):
        labels = loaded.labels
    else:
        labels = {"train": loaded.train_labels, "test": loaded.test_labels}
    for name, values in labels.items():
        counts = " ".join(str(count) for count in torch.bincount(values).tolist())
        line = f"  {name}: {len(values)}, per class {counts}"
        if isinstance(loaded, HumanLabels):
            line += f", wrong {(values != labels['clean']).double().mean().item():.2%}"
        lines.append(line)
    return "\n".join([*lines, *(f"  sha256 {n}: {value}" for n, value in loaded.checksums.items())])


def main(
    names: tyro.conf.Positional[tuple[Name, ...]] = ("mnist", "cifar10"),
    data_dir: Path | None = None,
) -> None:
    """Fetches and verifies data sets. data_dir: a folder that has them already."""
    for name in names:
        dataset, load = LOADERS[name]
        print(describe(dataset, load(data_dir)), flush=True)


if __name__ == "__main__":
    run_command(lambda: tyro.cli(main, prog="python -m common.datasets"))
