"""Files that are whole or not there, checksums, and folders that one process works in at a time."""

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import UserError

LOCK = ".lock"
SUMS = "SHA256SUMS"


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal checksum of a file, read in pieces. Raises OSError if it cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def write_atomic(path: str | Path, content: str | bytes | memoryview) -> Path:
    """Writes ``content`` (text as UTF-8): afterwards the file is the new one or the old one.

    Missing parent folders are made. A process that dies on the way leaves only a hidden file
    ``.*.tmp``, which nobody reads and ``locked`` clears away. Returns the path; raises OSError with
    it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two processes that write one file out of each other's temporary one.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # A full disk names no file, other refusals of the system the temporary one.
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_checksums(folder: Path, pattern: str = "*") -> None:
    """Writes SHA256SUMS, in the form of ``sha256sum``, for the files of ``folder``."""
    lines = [f"{value}  {name}\n" for name, value in _digests(folder, pattern).items()]
    write_atomic(folder / SUMS, "".join(lines))


def checked_files(folder: Path, advice: str, pattern: str = "*") -> dict[str, str]:
    """SHA-256 of the files of ``folder`` by name.

    Raises UserError, ending in ``advice``, unless they are the files of SHA256SUMS, unchanged.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        listed = {name: value for value, _, name in (line.partition("  ") for line in lines)}
        found = _digests(folder, pattern)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is damaged ({error}): {advice}") from None
    wrong = sorted(n for n in {*listed, *found} if listed.get(n) != found.get(n))
    if wrong:
        raise UserError(f"{folder / wrong[0]} is damaged, missing or added: {advice}")
    return found


def _digests(folder: Path, pattern: str) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(folder.glob(pattern))
        if path.is_file() and path.name != SUMS
    }


def check_writable(folder: Path) -> None:
    """Raises OSError if nothing can be written in ``folder``; makes it if it is not there."""
    write_atomic(folder / ".writable", b"\n")
    (folder / ".writable").unlink()


@contextlib.contextmanager
def locked(folder: Path, patience: float | None = None) -> Iterator[None]:
    """Only one process at a time is in this block for one folder; the others wait.

    patience: seconds to wait at most, then UserError; None: as long as it takes. The system
    releases the lock of a process that dies; what such a process left half-written is removed.
    Where the file system has no locks, the block runs without one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, fallback_to_soft=False)
    try:
        with contextlib.suppress(NotImplementedError):  # a file system without locks
            try:
                lock.acquire(blocking=False)
            except Timeout:
                if patience != 0:
                    print(f"waiting for the process at work in {folder} ...", file=sys.stderr)
                lock.acquire(timeout=-1 if patience is None else patience, poll_interval=0.2)
            for leftover in folder.glob(".*.tmp"):  # nobody else can be writing it now
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)
        yield
    except Timeout:
        raise UserError(
            f"another process is at work in {folder}: wait for it, or choose another folder"
        ) from None
    finally:
        lock.release()
