"""Costs: the least disturbed measurement, ratios; a metric against seconds of training."""

import pytest

from common.reporting import against_seconds, cost_table, metric_against_seconds


def test_least_times_median_bytes_and_ratios_to_the_baseline():
    costs = {
        "plain": [{"seconds": s, "peak_bytes": 4_000_000} for s in (0.3, 0.5, 0.2)],
        "meta": [{"seconds": 0.5, "peak_bytes": 5_000_000}],
        "absent": [],
    }
    table = cost_table("Cost", costs, "plain", notes=("a note",))
    assert [[str(cell) for cell in row] for row in table.rows] == [
        ["plain", "200.0", "1.00", "4.0", "1.00", "3"],
        ["meta", "500.0", "2.50", "5.0", "1.25", "1"],
    ]
    assert table.notes == ("a note",)


@pytest.mark.parametrize("baseline", ["absent", "unknown"])
def test_without_a_baseline_there_are_no_ratios(baseline):
    costs = {"meta": [{"seconds": 0.5, "peak_bytes": 5_000_000}], "absent": []}
    table = cost_table("Cost", costs, baseline)
    assert [str(cell) for cell in table.rows[0]] == ["meta", "500.0", "–", "5.0", "–", "1"]


def test_a_metric_is_drawn_against_the_seconds_of_the_least_disturbed_run(
    make_record, tmp_path, monkeypatch
):
    slow = make_record(seed=1)  # 0.2 s for a step; accuracy 50 and 75
    rows = [{"epoch": 1, "accuracy": 60.0}, {"epoch": 2, "accuracy": 70.0}]
    fast = make_record(seed=2, epochs=rows, cost={"seconds": 0.1})
    lines = []

    def drawn(fig, *place, alt, caption):
        lines.extend((line.get_label(), line.get_xydata().tolist()) for line in fig.axes[0].lines)
        assert "Lines for fast and slow, slow." in alt

    monkeypatch.setattr(against_seconds, "save_figure", drawn)
    groups = {"fast and slow": [slow, fast], "slow": [slow]}
    metric_against_seconds(groups, "accuracy", "accuracy (%)", 10, tmp_path, "f", "MNIST")
    (both, points), (one, slower) = lines
    assert (both, one) == ("fast and slow (2 seeds)", "slow (1 seed)")
    assert points == [pytest.approx([1.0, 55.0]), pytest.approx([2.0, 72.5])]
    assert slower == [pytest.approx([2.0, 50.0]), pytest.approx([4.0, 75.0])]
