"""Fetch and verify data sets ahead of a run: ``python -m common.datasets mnist cifar10``."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from common.command import Parser, run_command
from common.datasets.cifar import CIFAR10, CIFAR100, load_cifar10, load_cifar100
from common.datasets.cifar10n import CIFAR10N, HumanLabels, load_cifar10n
from common.datasets.dataset import Dataset, ImageDataset
from common.datasets.mnist import MNIST, load_mnist
from common.errors import UserError

LOADERS: dict[str, tuple[Dataset, Callable[..., ImageDataset | HumanLabels]]] = {
    "mnist": (MNIST, load_mnist),
    "cifar10": (CIFAR10, load_cifar10),
    "cifar100": (CIFAR100, load_cifar100),
    "cifar10n": (CIFAR10N, load_cifar10n),
}
DEFAULT = ("mnist", "cifar10")


def describe(dataset: Dataset, loaded: ImageDataset | HumanLabels) -> str:
    """Source, counts per class and checksums of a loaded data set, as lines of text."""
    kept = dataset.cache_folder
    lines = [
        f"{dataset.title} ({dataset.homepage}; licence: {dataset.licence})",
        f"  source: {loaded.source}",
        f"  cache: {kept if kept.is_dir() else f'{kept} (not used)'}",
    ]
    if isinstance(loaded, HumanLabels):
        labels = loaded.labels
    else:
        labels = {"train": loaded.train_labels, "test": loaded.test_labels}
    for name, values in labels.items():
        counts = " ".join(str(count) for count in torch.bincount(values).tolist())
        line = f"  {name}: {len(values)}, per class {counts}"
        if isinstance(loaded, HumanLabels):
            wrong = (values != labels["clean"]).double().mean().item()
            line += f", wrong {wrong:.2%}"
        lines.append(line)
    lines += [f"  sha256 {name}: {value}" for name, value in loaded.checksums.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Raises UserError."""
    parser = Parser(prog="python -m common.datasets", description="Fetch and verify data sets.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"any of {', '.join(LOADERS)} (default: {' '.join(DEFAULT)})",
    )
    parser.add_argument("--data-dir", type=Path, help="a folder that already has the data")
    options = parser.parse_args(arguments)
    for name in options.names or DEFAULT:
        if name not in LOADERS:
            raise UserError(f"There is no data set {name!r}: choose from {', '.join(LOADERS)}.")
        dataset, load = LOADERS[name]
        print(describe(dataset, load(options.data_dir)), flush=True)


if __name__ == "__main__":
    run_command(main)
