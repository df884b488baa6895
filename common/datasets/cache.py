"""The cache folder: verified canonical files, written so that a half file has no final name."""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: two processes may then download twice, each correctly
    fcntl = None


def cache_root() -> Path:
    """The folder for downloaded data: environment variable EVOGRAD_CACHE, else ~/.cache/evograd."""
    chosen = os.environ.get("EVOGRAD_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "evograd"


def digest(data: bytes, algorithm: str = "sha256") -> str:
    """Hexadecimal checksum of ``data``; ``algorithm`` is a name that hashlib knows."""
    return hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal checksum of a file, read in pieces. Raises OSError if it cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(
            stream, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` either does not change or holds all of it.

    A process that dies on the way leaves only a hidden ``.part`` file, which nobody reads.
    Raises OSError when the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``, so that of several processes one downloads and the rest wait.

    The lock only saves work: correctness rests on checksums and :func:`write_atomic`. Where the
    system or the file system has no locks the block runs without one. The kernel releases the
    lock of a process that dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as stream:
        held = False
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
                held = True
        if held:
            # Nobody else can be writing now: these are the remains of killed processes.
            for part in folder.glob(".*.part"):
                part.unlink(missing_ok=True)
        yield
