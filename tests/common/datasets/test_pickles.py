"""Pickles from outside: arrays come through, programs do not run."""

import os
import pickle

import numpy as np
import pytest
import torch

from common.datasets.pickles import load_arrays, load_torch_arrays
from common.datasets.sources import Damaged

# Written by hand in Python 2's protocol 2 with NumPy 1's names, as the official CIFAR files are:
# {"data": array([[1, 2], [3, 255]], uint8), "labels": [7, 9]}, strings being bytes.
PYTHON_2 = (
    b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
    b"U\x01b\x87R(K\x01K\x02K\x02\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04\x01\x02\x03\xfftbU\x06labels](K\x07K\x09eu."
)


class Program:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_python_2_pickle_of_arrays_is_read():
    value = load_arrays(PYTHON_2, "here")
    assert value["data"].dtype == np.uint8
    assert value["data"].tolist() == [[1, 2], [3, 255]]
    assert value["labels"] == [7, 9]


# From protocol 5 on, NumPy pickles arrays by another function, which no official file needs.
@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_arrays_come_through(protocol, dtype):
    array = np.arange(200, 224).reshape(2, 3, 4).astype(dtype)
    value = load_arrays(pickle.dumps({"a": array, "b": ["x"]}, protocol), "here")
    assert value["a"].dtype == array.dtype and np.array_equal(value["a"], array)
    assert value["b"] == ["x"]


def test_program_in_a_pickle_is_refused_and_does_not_run(tmp_path):
    data = pickle.dumps({"data": Program(tmp_path / "ran")}, 2)
    with pytest.raises(Damaged, match=r"not a pickle of plain arrays .*mkdir is not allowed"):
        load_arrays(data, "here")
    assert not (tmp_path / "ran").exists()
    pickle.loads(data)
    assert (tmp_path / "ran").exists(), "the test's own attack does not work"


@pytest.mark.parametrize(
    "data",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'/dev/null'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'/dev/null'\ntR.",
        b"c_codecs\nencode\n(S'a'\nS'zip'\ntR.",
        b"",
        b"not a pickle",
        PYTHON_2[:-10],
    ],
)
def test_other_names_and_broken_pickles_are_refused(data):
    with pytest.raises(Damaged, match="here is not a pickle of plain arrays"):
        load_arrays(data, "here")


def test_pickle_of_something_else_is_refused():
    with pytest.raises(Damaged, match="here holds a list where a dictionary is expected"):
        load_arrays(pickle.dumps([1, 2]), "here")


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_file_of_arrays_is_read(zipped, tmp_path):
    content = {"a": np.arange(5), "b": np.arange(3, dtype=np.uint8), "c": torch.arange(2)}
    torch.save(content, tmp_path / "f.pt", _use_new_zipfile_serialization=zipped)
    value = load_torch_arrays(tmp_path / "f.pt")
    assert value["a"].dtype == np.int64 and value["a"].tolist() == [0, 1, 2, 3, 4]
    assert value["b"].dtype == np.uint8 and value["b"].tolist() == [0, 1, 2]
    assert value["c"].tolist() == [0, 1]


def test_torch_file_with_numpy_1_names_is_read(tmp_path):
    torch.save({"a": np.arange(5)}, tmp_path / "f.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "f.pt").read_bytes()
    assert b"numpy._core.multiarray" in data
    old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "f.pt").write_bytes(old)
    assert load_torch_arrays(tmp_path / "f.pt")["a"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("zipped", [True, False])
def test_program_in_a_torch_file_is_refused_and_does_not_run(zipped, tmp_path):
    content = {"a": Program(tmp_path / "ran")}
    torch.save(content, tmp_path / "f.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(Damaged, match=r"f\.pt is not a torch file of plain arrays"):
        load_torch_arrays(tmp_path / "f.pt")
    assert not (tmp_path / "ran").exists()


def test_reading_a_torch_file_allows_nothing_afterwards(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save({"a": np.arange(5)}, tmp_path / "f.pt")
    load_torch_arrays(tmp_path / "f.pt")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("keep", [0, 100, 500])
def test_truncated_torch_file_is_refused(keep, tmp_path):
    torch.save({"a": np.arange(500)}, tmp_path / "f.pt")
    (tmp_path / "f.pt").write_bytes((tmp_path / "f.pt").read_bytes()[:keep])
    with pytest.raises(Damaged, match=r"f\.pt is not a torch file"):
        load_torch_arrays(tmp_path / "f.pt")
