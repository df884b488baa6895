"""What the code computes is what it computed: see guard.py. The small runs of every method are
compared in tests/test_experiments.py."""

import pytest

from tests.guard import guard


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", [part for part in guard.PARTS if part not in guard.EXPERIMENTS])
def test_numbers_are_those_that_are_kept(part):
    kept, here = guard.load(), guard.environment()
    if kept["environment"] != here:
        pytest.skip(f"exact only where the values were made: {kept['environment']}, not {here}")
    found = guard.differences(part, kept[part], guard.compute(part))
    assert not found, "\n" + "\n".join(found)
