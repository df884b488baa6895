"""Curves of runs: what is read from a folder and from a record."""

import json

import pytest

from common.errors import UserError
from scripts.curves import main, read_series


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_runs_lines_become_series_and_a_half_written_one_is_passed_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        lines(
            {"kind": "start", "iteration": 0, "total": 4},
            {"kind": "step", "iteration": 1, "epoch": 1, "loss": 2.0},
            {"kind": "epoch", "iteration": 2, "epoch": 1, "accuracy": 50.0},
            {"kind": "step", "iteration": 3, "epoch": 2, "loss": 1.0},
        )
        + '{"kind": "step", "itera'
    )
    assert read_series(tmp_path) == {"loss": ([1, 3], [2.0, 1.0]), "accuracy": ([2], [50.0])}
    main([tmp_path], tmp_path / "out" / "c.png")
    assert (tmp_path / "out" / "c.png").stat().st_size > 5_000


def test_without_a_run_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="Name at least one run"):
        main([])
    with pytest.raises(UserError, match="name a run's folder"):
        main([tmp_path])
