"""Runs as a table: pairs against numbers written by hand."""

import pytest

from common.reporting import Measured, collect_metric
from common.reporting.frame import frame, pairs


@pytest.fixture
def runs(make_record):
    """Two methods, seeds 1 to 3 and 2 to 4, on two domains; accuracy = 10 seed + 1 per domain."""

    def run(method, seed, domain, bonus):
        value = 10 * seed + domain + bonus
        rows = [{"epoch": 1, "accuracy": 0}, {"epoch": 2, "accuracy": value}]
        record = make_record(
            method=method, seed=seed, epochs=rows, final={"accuracy": value},
            best={"accuracy": {"value": value, "epoch": 2}},
        )  # fmt: skip
        record.config["domain"] = domain
        return record

    return [run("evograd", s, d, 0.5) for d in (0, 1) for s in (1, 2, 3)] + [
        run("t1t2", s, d, 0) for d in (0, 1) for s in (4, 3, 2)
    ]


def test_pairs_are_runs_with_the_same_keys(runs):
    row = frame(runs).iloc[0]
    assert (row["best.accuracy"], row["sizes"], row["cost.seconds"]) == (10.5, (1, 2), 0.2)
    found = pairs(frame(runs), "final.accuracy", "evograd", "t1t2", ("domain", "seed"))
    assert found[["domain", "seed"]].values.tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]
    assert found["value"].tolist() == [20.5, 30.5, 21.5, 31.5]
    assert found["difference"].tolist() == [0.5] * 4
    # Of two records with the same keys, here two domains for each seed, the mean counts.
    found = pairs(frame(runs), "final.accuracy", "evograd", "t1t2")
    assert found[["seed", "difference"]].values.tolist() == [[2, 0.5], [3, 0.5]]
    assert pairs(frame([]), "final.accuracy", "a", "b").empty


def test_collecting_a_metric_over_seeds(make_record):
    best = {"accuracy": {"value": 80.0, "epoch": 1}}
    records = [
        make_record(seed=seed, final={"accuracy": value, "ci": 1.0}, best=best)
        for seed, value in ((23, 50.0), (1, 25.0))
    ]
    assert collect_metric(records, "accuracy", ci95="ci") == Measured((25.0, 50.0))
    assert collect_metric(records, "accuracy", source="best") == Measured((80.0, 80.0))
    assert collect_metric(records[:1], "accuracy", ci95="ci") == Measured((50.0,), 1.0)
    assert collect_metric([], "accuracy") is None
