"""Pickles from outside, opened without running what is in them.

A pickle is a program: loading one may call any function it names. The official CIFAR files and
CIFAR-10N's are pickles of NumPy arrays, lists and strings, so those names and no others are known
to the unpickler here.
"""

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.datasets.sources import Damaged

# NumPy keeps this function under a private name that moved between versions 1 and 2.
_reconstruct = np.empty(0).__reduce__()[0]


def _encode(text: str, encoding: str) -> bytes:
    """What protocol 2 writes for bytes; other codecs could inflate a few bytes to gigabytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding} is not allowed")
    return text.encode("latin1")


_ALLOWED = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "_codecs.encode": _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed") from None


def load_arrays(data: bytes, origin: str) -> dict[str, Any]:
    """The dictionary in a pickle (of Python 2 or 3) of NumPy arrays and plain Python values.

    Raises Damaged if it needs any other class or function, or is broken; ``origin`` names it.
    """
    try:
        value = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # broken pickles fail in every way there is
        raise Damaged(f"{origin} is not a pickle of plain arrays ({error})") from error
    return _dictionary(value, origin)


def load_torch_arrays(path: Path) -> dict[str, Any]:
    """The dictionary of NumPy arrays or tensors that ``torch.save`` wrote to ``path``.

    Raises Damaged if it needs any class or function besides those, or is broken.
    """
    allowed: list[Any] = [
        np.ndarray,
        np.dtype,
        *(type(np.dtype(kind)) for kind in ("u1", "i1", "i2", "i4", "i8")),
        (_reconstruct, "numpy.core.multiarray._reconstruct"),
        (_reconstruct, "numpy._core.multiarray._reconstruct"),
    ]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below says what the user can do
            value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own message is half a page on how to switch the protection off.
        raise Damaged(f"{path} is not a torch file of plain arrays") from error
    return _dictionary(value, str(path))


def _dictionary(value: Any, origin: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Damaged(f"{origin} holds a {type(value).__name__} where a dictionary is expected")
    return value
