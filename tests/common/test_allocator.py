"""Freed memory stays with the process, counted in page faults."""

import os
import subprocess
import sys

import pytest

from common.allocator import VARIABLES
from common.settings import ROOT

FAULTS = """
import resource
import torch
from common.allocator import keep_freed_memory

if {kept}:
    keep_freed_memory()
for _ in range(20):  # until the heap has room for it
    torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(16_000_000)  # 64 MB, gone at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kept, **variables):
    environment = {n: v for n, v in os.environ.items() if n not in VARIABLES} | variables
    command = [sys.executable, "-c", FAULTS.format(kept=kept)]
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_freed_tensors_pages_serve_the_next_one():
    default = faults(False)
    assert faults(True) < default / 4
    assert faults(True, MALLOC_TRIM_THRESHOLD_="131072") > default / 2  # the user's word counts
