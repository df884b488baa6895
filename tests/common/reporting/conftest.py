"""A small run record, as a factory, for the tests of this folder."""

import dataclasses

import pytest

from common.reporting import RunRecord


@pytest.fixture
def make_record():
    base = RunRecord(
        experiment="rotation",
        method="evograd",
        seed=1,
        preset="quick",
        config={"learning_rate": 1e-3, "sizes": [1, 2], "augment": None, "name": "a"},
        epochs=[{"epoch": 1, "accuracy": 0.5}, {"epoch": 2, "accuracy": 0.75}],
        traces={"iteration": [1, 2, 3], "angle": [0.0, 0.1, 0.25]},
        final={"accuracy": 0.75, "accuracy_ci95": 0.02},
        best={"accuracy": {"value": 0.8, "epoch": 1}},
        cost={"seconds_per_step": 0.01, "peak_bytes": 123},
        data={"train": "ab" * 32},
        provenance={"python": "3.11.7", "wall_seconds": 1.5},
    )
    return lambda **changes: dataclasses.replace(base, **changes)
