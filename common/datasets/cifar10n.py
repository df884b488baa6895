"""CIFAR-10N: CIFAR-10's training images labelled by people (Wei et al., ICLR 2022).

The labels are CC BY-NC 4.0 and in no package, so they are read from a folder of the user only.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.datasets.fetch import Dataset, Files, fetch, find, reading
from common.errors import UserError

OFFICIAL_FILE = "CIFAR-10_human.pt"
PLAIN_FILE = "cifar10n_labels.npz"

# Our name -> the name in the files. "clean" is CIFAR-10's own training labels, which proves that
# the order of the images is CIFAR-10's.
_KEYS = {
    "clean": "clean_label", "aggregate": "aggre_label", "random1": "random_label1",
    "random2": "random_label2", "random3": "random_label3", "worse": "worse_label",
}  # fmt: skip


@dataclass(frozen=True)
class HumanLabels:
    """Label sets of CIFAR-10's training images, in its order; each int64 (50000,), 0 to 9.

    ``labels`` has the keys clean (CIFAR-10's own), random1 to random3 (one person each),
    aggregate (their majority) and worse (a wrong one of the three where there is one).
    """

    labels: dict[str, torch.Tensor]
    checksums: dict[str, str]
    source: str


def read_cifar10n(folder: Path) -> Files:
    """The label sets as uint8, from the official file or its plain copy (npz) below ``folder``.
    Neither is opened in a way that could run what is in it."""
    names = (PLAIN_FILE, OFFICIAL_FILE)
    (path,) = find(folder, ("", "cifar10n", "data"), {f"{OFFICIAL_FILE} or {PLAIN_FILE}": names})
    with reading(path):
        arrays = np.load(path) if path.name == PLAIN_FILE else _torch_arrays(path)
        labels = {name: np.asarray(arrays[key]) for name, key in _KEYS.items()}
        for name, values in labels.items():
            if not np.array_equal(values, values.astype(np.uint8)):  # 256 would become 0
                raise ValueError(f"{_KEYS[name]} is not a list of labels from 0 to 9")
    return {name: values.astype(np.uint8).tobytes() for name, values in labels.items()}


def _torch_arrays(path: Path) -> Any:
    # NumPy keeps this function under a private name that moved between versions 1 and 2.
    rebuild = np.empty(0).__reduce__()[0]
    allowed: list[Any] = [np.ndarray, np.dtype]
    allowed += [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    allowed += [type(np.dtype(kind)) for kind in ("u1", "i1", "i2", "i4", "i8")]
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings(action="ignore"):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception:
            # torch's own message is half a page on how to switch the protection off.
            raise ValueError("not a torch file of plain arrays") from None


CIFAR10N = Dataset(
    name="cifar10n",
    title="CIFAR-10N",
    checksums={
        "clean": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "aggregate": "2bd5e02e39c9c79772cf4c794f7b74630ac1aaeeac4b807a63c11e9a375f8404",
        "random1": "8d01b5a5af048e84bf6e964c86e1133e95d5b22c07763e23705b714ad0f32d8b",
        "random2": "7ea04c887750912f49669282a75e78df380077766b361fb6cb5200999ad6dcda",
        "random3": "cdbfad7e15bfc8fc83bc7c6e30b692e2aa1186660d82738b7543a6012d6ca46f",
        "worse": "11a306ed336e3bc81aaac36322ddf12de379d0df1883aa43e10ba562a98f6b2a",
    },
    read=read_cifar10n,
    expected=f"{OFFICIAL_FILE} (or its plain copy {PLAIN_FILE})",
    how_to_get=f"get data/{OFFICIAL_FILE} from the GitHub repository UCSC-REAL/cifar-10-100n",
    about="GitHub repository UCSC-REAL/cifar-10-100n; CC BY-NC 4.0",
)


def load_cifar10n(
    data_dir: Path | None = None,
    training_labels: torch.Tensor | None = None,
    dataset: Dataset = CIFAR10N,
) -> HumanLabels:
    """CIFAR-10N from ``data_dir``, or from the folder in environment variable EVOGRAD_DATA.

    ``training_labels``: CIFAR-10's (50000,), to check that both have the images in one order.
    Raises UserError if the labels are missing or damaged, or do not belong to those images.
    """
    files, source = fetch(dataset, data_dir)
    labels = {n: torch.tensor(list(data)) for n, data in files.items()}
    if training_labels is not None and not torch.equal(labels["clean"], training_labels.cpu()):
        raise UserError(
            f"The clean labels of CIFAR-10N ({source}) are not the training labels given beside "
            "them: pass those of the whole CIFAR-10 training set in its original order."
        )
    return HumanLabels(labels, dict(dataset.checksums), source)
