"""The cost table: medians, ratios, rows without measurements."""

import pytest

from common.reporting import cost_table


def test_medians_and_ratios_to_the_baseline():
    costs = {
        "plain": [{"seconds": s, "peak_bytes": 4_000_000} for s in (0.1, 0.5, 0.2)],
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
