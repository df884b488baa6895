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
FILES = {"pt": "CIFAR-10_human.pt", "npz": "cifar10n_labels.npz"}
COUNT = 50
LABELS = {k: np.random.default_rng(i).integers(0, 10, COUNT) for i, k in enumerate(NAMES.values())}
SUMS = {n: hashlib.sha256(bytes(LABELS[k].astype("u1"))).hexdigest() for n, k in NAMES.items()}
SMALL = dataclasses.replace(CIFAR10N, checksums=SUMS)
"""CIFAR-10N's description, for the labels made here."""


def save(folder, form: str, content: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if form == "npz":
        np.savez(folder / FILES["npz"], **content)
        return
    path = folder / FILES["pt"]
    torch.save(content, path, _use_new_zipfile_serialization=form == "pt")
    if form == "numpy 1":
        data = path.read_bytes()
        assert b"numpy._core.multiarray" in data
        path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


@pytest.mark.parametrize(
    ("form", "layout"), [("npz", ""), ("npz", "data"), ("pt", "cifar10n"), ("numpy 1", "")]
)
def test_labels_are_read(form, layout, tmp_path):
    save(tmp_path / layout, form, LABELS)
    loaded = load_cifar10n(tmp_path, torch.from_numpy(LABELS["clean_label"]), SMALL)
    for name, key in NAMES.items():
        assert loaded.labels[name].dtype == torch.int64
        assert loaded.labels[name].tolist() == LABELS[key].tolist()
    assert loaded.source == f"folder {tmp_path}"


def test_labels_of_other_images_are_refused(tmp_path):
    save(tmp_path, "npz", LABELS)
    clean = torch.from_numpy(LABELS["clean_label"])
    for other in (clean.flip(0), clean[:-1]):
        with pytest.raises(UserError, match="are not the training labels"):
            load_cifar10n(tmp_path, other, SMALL)


@pytest.mark.parametrize("form", ["pt", "npz"])
@pytest.mark.parametrize("labels", [LABELS["worse_label"] + 256, np.zeros((COUNT, 2), int), None])
def test_other_labels_are_refused(form, labels, tmp_path):
    content = {name: value for name, value in LABELS.items() if name != "worse_label"}
    save(tmp_path, form, content if labels is None else content | {"worse_label": labels})
    with pytest.raises(UserError, match="worse"):
        load_cifar10n(tmp_path, None, SMALL)


class Program:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["pt", "old", "npz"])
def test_a_program_in_a_file_is_refused_and_does_not_run(form, tmp_path):
    program = Program(tmp_path / "ran")
    save(tmp_path, form, LABELS | {"worse_label": np.array(program) if form == "npz" else program})
    before = set(torch.serialization.get_safe_globals())
    with pytest.raises(UserError, match=r"CIFAR-10_human|cifar10n_labels"):
        load_cifar10n(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("name", FILES.values())
@pytest.mark.parametrize("data", [b"", b"PK\x03\x04broken"])
def test_broken_files_are_refused_by_name(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=name):
        load_cifar10n(tmp_path)
