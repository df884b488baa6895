"""A small run record, as a factory, for the tests of this folder."""

import pytest

from common.reporting import RunRecord


@pytest.fixture
def make_record():
    def make(**changes) -> RunRecord:
        seed, method = changes.get("seed", 1), changes.get("method", "evograd")
        values = {
            "experiment": "rotation",
            "method": method,
            "seed": seed,
            "preset": "quick",
            "config": {
                "method": method, "seed": seed, "preset": "quick", "epochs": 2,
                "learning_rate": 1e-3, "sizes": [1, 2], "augment": None,
            },
            "epochs": [
                {"epoch": 1, "accuracy": 50.0, "accuracy_ci95": 2.5, "moved": 0.5},
                {"epoch": 2, "accuracy": 75, "accuracy_ci95": 2.0, "moved": 1.5},
            ],
            "traces": {"iteration": [1, 2, 3], "angle": [0.0, -0.1, 0.25]},
            "final": {"accuracy": 75, "accuracy_ci95": 2.0, "moved": 1.5},
            "best": {"accuracy": {"value": 75, "epoch": 2}},
            "cost": {"seconds": 0.2, "seconds_low": 0.1, "seconds_high": 0.3, "peak_bytes": 123},
            "data": {"train": "ab" * 32},
            "provenance": {
                "python": "3.11.7", "torch": "2.13.0", "device": "cpu", "wall_seconds": 1.5,
                "started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:01:00Z",
            },
        }  # fmt: skip
        return RunRecord(**values | changes)

    return make
