"""What the code computes is what it computed: see guard.py."""

import pytest

from tests.guard import guard

QUICK = guard.EXPERIMENTS


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "part", [pytest.param(p, marks=[] if p in QUICK else pytest.mark.slow) for p in guard.PARTS]
)
def test_numbers_are_those_that_are_kept(part):
    kept, here = guard.load(), guard.environment()
    if kept["environment"] != here:
        pytest.skip(f"exact only where the values were made: {kept['environment']}, not {here}")
    found = guard.differences(part, kept[part], guard.compute(part))
    assert not found, "\n" + "\n".join(found)
