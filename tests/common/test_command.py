"""How command lines end."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.command import ALLOCATOR, run_command
from common.errors import UserError


def raising(error: BaseException):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (UserError("--seed -1 is wrong"), 2, "error: --seed -1 is wrong"),
        (OSError(errno.ENOSPC, "No space left", "/a/b"), 2, "error: /a/b: No space left: make "),
        (PermissionError(errno.EACCES, "Denied", "/a"), 2, "error: /a: Denied: choose a folder "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2,
         "error: this needs more memory than there is: "),
        (RuntimeError("could not create a primitive"), 2, "error: this needs more memory "),
        (RuntimeError("Could not determine home directory."), 2, "error: there is no home "),
        (KeyboardInterrupt(), 130, "interrupted: the same command continues "),
    ],
)  # fmt: skip
def test_mistakes_and_refusals_end_in_one_sentence(error, status, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(raising(error))
    said = capsys.readouterr().err
    assert ended.value.code == status and said.startswith(sentence) and said.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("a fault"), OSError("no number"), KeyError("x")])
def test_faults_of_the_program_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run_command(raising(error))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_a_command_in_order(number, capsys):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    cleaned = []

    def main():
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            cleaned.append(True)

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 128 + number and cleaned
    assert "interrupted" in capsys.readouterr().err
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == handlers


@pytest.mark.parametrize("streams", [">&- 2>&-", "2>/dev/full"])
def test_no_stream_is_needed_and_a_wrong_parent_is_none(streams, tmp_path):
    code = """
import sys
from common.command import run_command
def main():
    print("a result")
    print("progress", file=sys.stderr, flush=True)
    open(sys.argv[1], "x")
run_command(main)
"""
    command = ["bash", "-c", f'exec "$@" {streams}', "-", sys.executable, "-c", code]
    environment = os.environ | {"EVOGRAD_PARENT": "nobody"}
    subprocess.run(
        [*command, tmp_path / "done"], cwd=Path(__file__).parents[2], env=environment, check=True
    )
    assert (tmp_path / "done").exists()


def test_a_reader_that_goes_away_is_no_fault():
    code = "from common.command import run_command\nrun_command(lambda: print('x' * 100_000))"
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "{sys.executable}" -c "{code}" | head -c 1'],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (141, "x", "")


FAULTS = """
import resource, sys
import numpy
from common.command import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(20):  # until the heap has room for it
    numpy.ones(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    numpy.ones(8_000_000)  # 64 MB, gone at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word, **variables):
    environment = {n: v for n, v in os.environ.items() if n not in ALLOCATOR} | variables
    command = [sys.executable, "-c", FAULTS, word]
    return int(subprocess.check_output(command, cwd=Path(__file__).parents[2], env=environment))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_freed_arrays_pages_serve_the_next_one():
    default = faults("given back")
    assert faults("kept") < default / 4
    assert faults("kept", MALLOC_TRIM_THRESHOLD_="131072") > default / 2  # the user's word counts
