"""Where a run computes and from which seeds: one seed gives independent named streams."""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from common.errors import UserError


def choose_device(name: str) -> torch.device:
    """ "auto" is CUDA if there, else the CPU; or a device by torch's name. Raises UserError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name} is not a device: use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name} needs a CUDA device, and torch sees none: use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name} is not there: torch sees {torch.cuda.device_count()}")
    if device.type == "cpu" and device.index:
        raise UserError(f"--device {name} is not there: the CPU is one device, cpu")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is not supported: use auto, cpu, cuda or cuda:N")
    return device


def configure(threads: int) -> None:
    """Sets the number of CPU threads (0: torch's choice), or raises UserError for a number that
    makes no sense; float32 is never rounded to TF32.

    cuDNN's search for algorithms stays off: it may choose differently in a resumed run, which
    would then end with other numbers.
    """
    if not 0 <= threads <= 1024:
        raise UserError(f"--threads {threads} must lie between 0 and 1024")
    if threads > 0:
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@contextlib.contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Computes with this many CPU threads in the block; None leaves the number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def new_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator for the stream ``name`` (shuffling, noise, perturbations) of run ``seed``:
    seeded by SHA-256, so the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 2)


def seed_everything(seed: int) -> None:
    """Seeds the global generators of torch (all devices), numpy and ``random``."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - other people's code may draw from it
    random.seed(seed)
