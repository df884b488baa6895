"""CIFAR-10N on labels made here: the real ones are not free to be kept in the project."""

import dataclasses
import hashlib
import pickle

import numpy as np
import pytest
import torch

from common.datasets import load_cifar10n
from common.datasets.cifar10n import CIFAR10N
from common.datasets.dataset import CanonicalFile
from common.errors import UserError

NAMES = {
    "clean": "clean_label",
    "aggregate": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worse": "worse_label",
}
COUNT = 50


@pytest.fixture
def stored() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key: rng.integers(0, 10, COUNT) for key in NAMES.values()}


def small(stored: dict[str, np.ndarray]):
    """CIFAR-10N's description, for the labels made here."""
    files = tuple(
        CanonicalFile(
            name, hashlib.sha256(bytes(stored[key].astype(np.uint8))).hexdigest(), (COUNT,)
        )
        for name, key in NAMES.items()
    )
    return dataclasses.replace(CIFAR10N, files=files)


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


def test_folder_in_the_environment_is_used(stored, tmp_path, monkeypatch):
    save(tmp_path, "npz", stored)
    monkeypatch.setenv("EVOGRAD_DATA", str(tmp_path))
    loaded = load_cifar10n(None, None, small(stored))
    assert loaded.labels["worse"].tolist() == stored["worse_label"].tolist()


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
    ("key", "labels", "message"),
    [
        ("worse_label", np.full(COUNT, 10), "worse_label has labels outside 0 to 9"),
        ("worse_label", np.full(COUNT, -1), "worse_label has labels outside 0 to 9"),
        ("worse_label", np.zeros((COUNT, 2), int), r"shape \(50, 2\)"),
        ("worse_label", np.zeros(COUNT - 1, int), "gives 49 bytes of worse where 50"),
        ("random_label2", np.zeros(COUNT, int), "for random2 where"),
    ],
)
def test_other_labels_are_refused(form, key, labels, message, stored, tmp_path):
    save(tmp_path, form, stored | {key: labels})
    with pytest.raises(UserError, match=message) as error:
        load_cifar10n(tmp_path, None, small(stored))
    assert "downloaded" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"worse_label": np.zeros(COUNT)}, "array of float64"),
        ({"aggre_label": None}, "lacks the labels aggre_label"),
        # Objects would have to be unpickled.
        ({"worse_label": np.array([{"a": 1}] * COUNT, dtype=object)}, "not an npz file of plain"),
    ],
)
def test_what_is_no_set_of_labels_is_refused(changed, message, stored, tmp_path):
    content = {key: value for key, value in (stored | changed).items() if value is not None}
    save(tmp_path, "npz", content)
    with pytest.raises(UserError, match=message):
        load_cifar10n(tmp_path, None, small(stored))


@pytest.mark.parametrize("name", ["cifar10n_labels.npz", "CIFAR-10_human.pt"])
@pytest.mark.parametrize("data", [b"", b"PK\x03\x04broken", pickle.dumps({"clean_label": [1]})])
def test_broken_files_are_refused_by_name(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=name) as error:
        load_cifar10n(tmp_path)
    assert "\n" not in str(error.value)


def test_real_description_refuses_made_up_labels(tmp_path):
    save(tmp_path, "npz", {key: np.zeros(50_000, int) for key in NAMES.values()})
    with pytest.raises(UserError, match=r"for clean where .* is expected"):
        load_cifar10n(tmp_path)


def test_missing_labels_name_the_repository(tmp_path):
    for data_dir in (None, tmp_path):
        with pytest.raises(UserError, match="UCSC-REAL/cifar-10-100n"):
            load_cifar10n(data_dir)
