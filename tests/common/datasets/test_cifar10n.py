"""CIFAR-10N on labels made here: the real ones are not free to be kept in the project."""

import dataclasses
import hashlib
import os

import numpy as np
import pytest
import torch

from common.datasets import load_cifar10n
from common.datasets.cifar10n import CIFAR10N
from common.errors import UserError

NAMES = {
    "clean": "clean_label", "aggregate": "aggre_label", "random1": "random_label1",
    "random2": "random_label2", "random3": "random_label3", "worse": "worse_label",
}  # fmt: skip
COUNT = 50


@pytest.fixture
def stored() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key: rng.integers(0, 10, COUNT) for key in NAMES.values()}


def small(stored: dict[str, np.ndarray]):
    """CIFAR-10N's description, for the labels made here."""
    labels = {name: bytes(stored[key].astype(np.uint8)) for name, key in NAMES.items()}
    checksums = {name: hashlib.sha256(data).hexdigest() for name, data in labels.items()}
    return dataclasses.replace(CIFAR10N, checksums=checksums)


def save(folder, form: str, content: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if form == "pt":
        torch.save(content, folder / "CIFAR-10_human.pt")
    else:
        np.savez(folder / "cifar10n_labels.npz", **content)


@pytest.mark.parametrize("form", ["pt", "npz"])
@pytest.mark.parametrize("layout", ["", "cifar10n", "data"])
def test_labels_are_read(form, layout, stored, tmp_path):
    save(tmp_path / layout, form, stored)
    clean = torch.from_numpy(stored["clean_label"])
    loaded = load_cifar10n(tmp_path, clean, small(stored))
    assert set(loaded.labels) == set(NAMES)
    for name, key in NAMES.items():
        assert loaded.labels[name].dtype == torch.int64
        assert loaded.labels[name].tolist() == stored[key].tolist()
    assert loaded.source == f"folder {tmp_path}"


def test_labels_of_other_images_are_refused(stored, tmp_path):
    save(tmp_path, "npz", stored)
    clean = torch.from_numpy(stored["clean_label"])
    swapped = clean.clone()
    i = int((clean != clean[0]).nonzero()[0])
    swapped[0], swapped[i] = clean[i], clean[0]
    for other in (swapped, clean[:-1]):
        with pytest.raises(UserError, match="are not the training labels"):
            load_cifar10n(tmp_path, other, small(stored))


@pytest.mark.parametrize("form", ["pt", "npz"])
@pytest.mark.parametrize(
    "labels",
    [
        np.full(COUNT, 256),  # 0 in a byte
        np.full(COUNT, -1),
        np.zeros((COUNT, 2), int),
        np.zeros(COUNT, int),  # another checksum
        np.zeros(COUNT),
        None,
    ],
)
def test_other_labels_are_refused(form, labels, stored, tmp_path):
    content = {name: value for name, value in stored.items() if name != "worse_label"}
    save(tmp_path, form, content if labels is None else content | {"worse_label": labels})
    with pytest.raises(UserError, match="CIFAR-10N"):
        load_cifar10n(tmp_path, None, small(stored))


class Program:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_program_in_a_torch_file_is_refused_and_does_not_run(zipped, stored, tmp_path):
    content = stored | {"worse_label": Program(tmp_path / "ran")}
    path = tmp_path / "CIFAR-10_human.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    before = set(torch.serialization.get_safe_globals())
    with pytest.raises(UserError, match="CIFAR-10_human"):
        load_cifar10n(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_torch_file_with_numpy_1_names_is_read(stored, tmp_path):
    path = tmp_path / "CIFAR-10_human.pt"
    torch.save(stored, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert b"numpy._core.multiarray" in data
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    loaded = load_cifar10n(tmp_path, None, small(stored))
    assert loaded.labels["worse"].tolist() == stored["worse_label"].tolist()


@pytest.mark.parametrize("name", ["cifar10n_labels.npz", "CIFAR-10_human.pt"])
@pytest.mark.parametrize("data", [b"", b"PK\x03\x04broken"])
def test_broken_files_are_refused_by_name(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=name):
        load_cifar10n(tmp_path)


def test_missing_labels_name_the_repository(tmp_path):
    for data_dir in (None, tmp_path):
        with pytest.raises(UserError, match="UCSC-REAL/cifar-10-100n"):
            load_cifar10n(data_dir)
