"""Where data comes from: named data sets with checksums, several sources, and a cache.

Every loader takes ``data_dir`` (a folder that the user has), looks in the folder named by
environment variable EVOGRAD_DATA and in the cache (EVOGRAD_CACHE), and then downloads.
"""

from common.datasets.cifar10n import HumanLabels, load_cifar10n
from common.datasets.images import ImageDataset, load_cifar10, load_cifar100, load_mnist

__all__ = [
    "HumanLabels", "ImageDataset", "load_cifar10", "load_cifar10n", "load_cifar100", "load_mnist",
]  # fmt: skip
