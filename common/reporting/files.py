"""Writing files so that a reader never meets half of one."""

import os
from pathlib import Path


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write `content` (text as UTF-8) to `path`: afterwards the file is the new one or the old one.

    The content goes to a temporary name beside the target, reaches the disk, and then takes the
    target's name in one step (`os.replace`). Missing parent folders are made. Returns the path.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two runs that write the same file out of each other's temporary one.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
