"""Memory that stays with the process between steps, instead of going back to the system."""

import ctypes
import os
import sys

VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
"""glibc's own names, which processes started from this one read."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks of any size for the next step's tensors.

    By default it gives large ones back and the system clears their pages anew at every step: some
    37,000 page faults in a step of ResNet-32 at batch 100, 500 with this. Numbers do not change.
    Does nothing without glibc, or where the user has set one of ``VARIABLES``.
    """
    if sys.platform != "linux" or any(name in os.environ for name in VARIABLES):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    for option, name in zip((M_TRIM_THRESHOLD, M_MMAP_THRESHOLD), VARIABLES, strict=True):
        libc.mallopt(option, LARGEST)
        os.environ[name] = str(LARGEST)
