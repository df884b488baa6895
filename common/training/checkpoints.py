"""Checkpoints: written in one step, sealed, loaded without running foreign code.

A file is what ``torch.save`` writes, followed by a seal: the number of CPU threads, which decides
the last digits of every number after it, and the SHA-256 of all before. ``torch.load`` reads it as
it is; only the seal shows a bit that has changed in a tensor.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from common.errors import UserError
from common.files import writing

CHECKPOINT = "checkpoint.pt"
_SEAL = re.compile(rb"(\nthreads=(\d{4}) sha256=)([0-9a-f]{64})\n")
_SEAL_BYTES = len(b"\nthreads=0000 sha256=\n") + 64


class _SealedFile:
    """Passes on what is written, and remembers its SHA-256 and the system's error.

    torch.save reports a full disk as a position that it did not expect.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._sha256.update(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def seal(self) -> None:
        self.write(b"\nthreads=%04d sha256=" % torch.get_num_threads())
        self.write(self._sha256.hexdigest().encode() + b"\n")


def save_checkpoint(path: Path, state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Writes tensors and plain values, with the settings they belong to; atomic.

    A kill at any moment leaves either the old file or the new one. Raises OSError, with the path,
    if the system refuses.
    """
    with writing(path) as file:
        sealed = _SealedFile(file)
        try:
            torch.save({"settings": dict(settings), "state": dict(state)}, cast(IO[bytes], sealed))
        except RuntimeError:
            if sealed.error is not None:
                raise sealed.error from None
            raise
        sealed.seal()


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state saved at ``path``, or None if there is none.

    Raises UserError if the file is damaged or belongs to other settings.
    """
    if not path.exists():
        return None
    if not _seal_is_whole(path):
        raise damaged(path, "its checksum is wrong")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        saved, state = dict(content["settings"]), dict(content["state"])
    except Exception as error:  # a file that something else has written
        raise damaged(path, type(error).__name__) from None
    check_same_settings(path, saved, settings)
    return state


def damaged(path: Path, reason: str) -> UserError:
    """The error for a checkpoint that cannot be continued from."""
    return UserError(
        f"{path} is not a readable checkpoint ({reason}): "
        "delete it, or add --restart, to begin the run again"
    )


def checkpoint_threads(path: Path) -> int | None:
    """The CPU threads that the run of a checkpoint has computed with; None if there is none."""
    seal = _read_seal(path) if path.exists() else None
    return int(seal[2]) or None if seal else None


def _read_seal(path: Path) -> re.Match[bytes] | None:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _SEAL_BYTES))
        return _SEAL.fullmatch(file.read())


def _seal_is_whole(path: Path) -> bool:
    seal = _read_seal(path)
    if seal is None:
        return False
    sha256 = hashlib.sha256()
    left = path.stat().st_size - _SEAL_BYTES
    with path.open("rb") as file:
        while left > 0 and (data := file.read(min(left, 1 << 20))):
            sha256.update(data)
            left -= len(data)
    sha256.update(seal[1])
    return sha256.hexdigest().encode() == seal[3]


def check_same_settings(path: Path, saved: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises UserError if ``saved`` (found in ``path``) are not the ``settings`` asked for."""
    differing = [
        f"{name} {saved.get(name)} (asked for: {settings.get(name)})"
        for name in sorted({*saved, *settings})
        if saved.get(name) != settings.get(name)
    ]
    if differing:
        raise UserError(
            f"{path} belongs to a run with {', '.join(differing)}: "
            "choose another --run-dir, or add --restart to replace it"
        )
