"""Every experiment on a device without hardware has the CPU's numbers, finds a tensor on the wrong
device, and waits for the device nowhere but where it is said (docs/hardware.md)."""

import shutil
import subprocess
import sys

import pytest

from common.settings import ROOT
from tests.experiments import DECLARED

WAITING = ("implicit_cg", "lft_implicit_cg")
"""Methods whose steps wait for the device."""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_steps_evaluations_and_continued_runs_have_the_cpus_numbers(few):
    if not shutil.which("c++"):
        pytest.skip("needs a compiler of C++")
    command = [sys.executable, "-m", "tests.device.check", "pretended", *["--few"] * few]
    # In a process of its own: the device stays known to torch, and would change other tests.
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found, *lines = ended.stdout.splitlines()
    assert "wrong device: found" in found
    assert {line.split()[0] for line in lines} == {*DECLARED}
    assert few or len(lines) == sum(len(e.methods) for e in DECLARED.values())
    waiting = [line for line in lines if " wait " in line]
    assert all(line.split()[1].rstrip(":") in WAITING for line in waiting), waiting
