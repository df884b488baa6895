"""Every experiment and method on a device without hardware has the CPU's numbers, finds a tensor on
the wrong device, and waits for the device nowhere but where it is said (docs/hardware.md)."""

import shutil
import subprocess
import sys

import pytest

from common.settings import ROOT
from tests.experiments import DECLARED

WAITING = ("implicit_cg", "lft_implicit_cg")
"""Methods whose steps wait for the device."""


@pytest.mark.parametrize("name", DECLARED)
def test_steps_evaluations_and_continued_runs_have_the_cpus_numbers(name):
    if not shutil.which("c++"):
        pytest.skip("needs a compiler of C++")
    command = [sys.executable, "-m", "tests.device.check", "pretended", name]
    # In a process of its own: the device stays known to torch, and would change other tests.
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found, *lines = ended.stdout.splitlines()
    assert "wrong device: found" in found
    assert len(lines) == len(DECLARED[name].methods)
    waiting = [line for line in lines if " wait " in line]
    assert all(line.split()[1].rstrip(":") in WAITING for line in waiting), waiting
