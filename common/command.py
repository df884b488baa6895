"""What all command lines share: how they end, and that they end with the process that began them.

Imports nothing that takes time, so that a signal finds its handler from the start.
"""

import contextlib
import ctypes
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TextIO

from common.errors import UserError

PARENT = "EVOGRAD_PARENT"
"""Environment variable with the id of the process that this one must not outlive."""
ALLOCATOR = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
"""glibc's own names of its settings, which processes started from this one read."""
_STOPS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room there"),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM), "choose a folder that can be written"
    ),
    errno.ENAMETOOLONG: "choose a shorter name",
}


def run_command(main: Callable[[], object]) -> None:
    """Runs a command line.

    The user's mistakes and the system's refusals end in one sentence and exit status 2; SIGINT,
    SIGTERM and SIGHUP end it in order, with status 128 + signal. A second signal ends it at once.
    Nothing ends because stderr is closed or full.
    """
    before = {number: signal.getsignal(number) for number in _STOPS}
    error_stream = sys.stderr
    try:
        sys.stderr = _Harmless(error_stream)
        sys.stdout = sys.stdout or io.StringIO()  # None: it was closed
        for number in _STOPS:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, _stop)
        end_with_parent()
        keep_freed_memory()
        main()
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        print("interrupted: the same command continues from the last epoch", file=sys.stderr)
        sys.exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT))
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        sentence = str(error) if isinstance(error, UserError) else _system_refusal(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
    finally:
        sys.stderr = error_stream
        for number, handler in before.items():
            signal.signal(number, handler)


class _Harmless:
    """Progress and warnings, written to a stream where that is possible."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or io.StringIO()

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _system_refusal(error: Exception) -> str | None:
    """What the system refused, in a sentence; None for errors that are the program's."""
    if isinstance(error, OSError) and error.errno is not None:
        words = (error.filename2 or error.filename, error.strerror, _ADVICE.get(error.errno))
        return ": ".join(str(word) for word in words if word is not None)
    if "home directory" in str(error):  # of pathlib
        return "there is no home directory for ~ or the cache: set HOME, or write whole paths"
    # Of torch, on a GPU and on a CPU; the last two are oneDNN's.
    said = ("can't allocate memory", "could not create a primitive", "could not create a memory")
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or any(words in str(error) for words in said):
        return "this needs more memory than there is: choose smaller batches or a smaller network"
    return None


def _stop(number: int, frame: FrameType | None) -> None:
    for other in _STOPS:
        signal.signal(other, signal.SIG_DFL)
    raise KeyboardInterrupt(number)


def end_with_parent() -> None:
    """On Linux, asks for SIGTERM when the process named in ``PARENT`` ends, however it ends."""
    parent = os.environ.pop(PARENT, "")
    if parent.isdecimal() and sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != int(parent):  # it has ended before the request
            raise KeyboardInterrupt(signal.SIGTERM)


def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks of any size for the next step's tensors.

    By default it gives large ones back and the system clears their pages anew at every step: some
    37,000 page faults in a step of ResNet-32 at batch 100, 500 with this. Numbers do not change.
    Does nothing without glibc, or where the user has set one of ``ALLOCATOR``.
    """
    if sys.platform != "linux" or any(name in os.environ for name in ALLOCATOR):
        return
    libc, largest = ctypes.CDLL(None), 2**31 - 1
    if hasattr(libc, "mallopt"):
        for option, name in zip((-1, -3), ALLOCATOR, strict=True):  # numbers of <malloc.h>
            libc.mallopt(option, largest)
            os.environ[name] = str(largest)
