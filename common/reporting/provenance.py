"""Where and with what a run was made: versions, device, commit, time.

Nothing that identifies a person or a machine: no host name, user name or path.
"""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).resolve().parents[2]


def collect_provenance() -> dict[str, Any]:
    """Describe this process: software versions, processor and GPUs, git commit, UTC time.

    What is not there is None (a package that is not installed, CUDA on a CPU machine, the commit
    where git is absent or the project is not a checkout).
    """
    # torch takes seconds to import; those who only read records do without it.
    import torch

    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": _version("torchvision"),
        "higher": _version("higher"),
        "numpy": _version("numpy"),
        "platform": _platform(),
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else [],
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "utc_time": utc_now(),
    } | _git_state()


def utc_now() -> str:
    """The time in UTC as ISO 8601, to the second: 2021-12-06T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _platform() -> str:
    """Operating system, architecture and C library.

    Without the kernel's release string: builders put names of sites and machines into it.
    """
    return " ".join([platform.system(), platform.machine(), *filter(None, platform.libc_ver())])


def _cpu_model() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def _git_state() -> dict[str, Any]:
    """The commit, and whether tracked source files differ from it.

    results/ does not count: a campaign of runs rewrites it, and its later runs are as clean as
    the first.
    """
    unknown = {"git_commit": None, "git_dirty": None}
    top = _git("rev-parse", "--show-toplevel")
    # A copy without .git may lie inside somebody's own repository, whose commit is not ours.
    if top is None or Path(top).resolve() != _PROJECT:
        return unknown
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
    if commit is None or changes is None:
        return unknown
    return {"git_commit": commit, "git_dirty": changes != ""}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            # A run is no place for locks: `status` may otherwise rewrite the index.
            ["git", "--no-optional-locks", "-C", str(_PROJECT), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
