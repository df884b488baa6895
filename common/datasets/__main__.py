"""Fetch and verify data sets ahead of a run: ``python -m common.datasets mnist cifar10``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from common.command import run_command
from common.datasets.cifar10n import CIFAR10N, HumanLabels, load_cifar10n
from common.datasets.fetch import Dataset
from common.datasets.images import CIFAR10, CIFAR100, MNIST, load_cifar10, load_cifar100, load_mnist

LOADERS: dict[str, tuple[Dataset, Callable[..., Any]]] = {
    "mnist": (MNIST, load_mnist),
    "cifar10": (CIFAR10, load_cifar10),
    "cifar100": (CIFAR100, load_cifar100),
    "cifar10n": (CIFAR10N, load_cifar10n),
}
Name = Literal["mnist", "cifar10", "cifar100", "cifar10n"]


def main(
    names: tyro.conf.Positional[tuple[Name, ...]] = ("mnist", "cifar10"),
    data_dir: Path | None = None,
) -> None:
    """Fetches and verifies data sets; prints their sources, counts per class and checksums.

    data_dir: a folder that has them already.
    """
    for name in names:
        dataset, load = LOADERS[name]
        loaded = load(data_dir)
        print(f"{dataset.title} ({dataset.about})")
        print(f"  source: {loaded.source}")
        human = isinstance(loaded, HumanLabels)
        sets = (
            loaded.labels if human else {"train": loaded.train_labels, "test": loaded.test_labels}
        )
        for part, labels in sets.items():
            counts = " ".join(map(str, labels.bincount().tolist()))
            wrong = (labels != sets["clean"]).double().mean() if human else 0
            print(f"  {part}: {len(labels)}, per class {counts}" + f", wrong {wrong:.2%}" * human)
        for part, checksum in loaded.checksums.items():
            print(f"  sha256 {part}: {checksum}", flush=True)


if __name__ == "__main__":
    run_command(lambda: tyro.cli(main, prog="python -m common.datasets"))
