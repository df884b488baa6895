"""Published beside measured, and costs: cell by cell."""

import pytest

from common.reporting import (
    Measured,
    Published,
    comparison_table,
    cost_table,
    published_value,
)

VALUES = (1.0, 2.0, 6.0)  # sd 2.65, population sd 2.16, 95 % half-width 4.303 * 2.65 / sqrt(3)


def test_comparison_table_cell_by_cell():
    published = published_value("rotation", "evograd", "rotated")
    rows = [
        (("EvoGrad",), published, Measured((98.0, 98.2, 99.0)), 5),
        (("T1-T2",), None, Measured((90.0,)), 5),
        (("quoted",), Published(80.0, copied=True), None, 5),
    ]
    table = comparison_table("Rotation", rows, ("method",), "", True, "A note.")
    assert table.columns == ["method", "published", "measured", "runs", "difference"]
    # The paper's sd is the population one, so is ours: sqrt(((-.4)^2 + (-.2)^2 + .6^2) / 3)
    assert [[str(cell) for cell in row] for row in table.rows] == [
        ["EvoGrad", "98.11 ± 0.32", "98.40 ± 0.43", "3 of 5", "+0.29"],
        ["T1-T2", "–", "90.00", "1 of 5", "–"],
        ["quoted", "80.00*", "–", "0 of 5", "–"],
    ]
    assert "population" in table.notes[0] and table.notes[1].startswith("*:")
    assert table.notes[-1] == "A note."
    other = comparison_table("Rotation", rows, ("method",), "", same_size=False)
    assert [row[-1] for row in other.rows] == ["–"] * 3 and "no differences" in other.notes[0]


@pytest.mark.parametrize(
    ("published", "text", "note"),
    [
        (Published(3.0, 1.0, "sd", n=5), "3.00 ± 2.65", "sample standard deviation"),
        (Published(3.0, 1.0, "sd", n=5, population=True), "3.00 ± 2.16", "population"),
        (Published(3.0, 1.0, "ci95"), "3.00 ± 6.57", "95 % confidence"),
        (Published(3.0), "3.00 ± 6.57", "95 % confidence"),
    ],
)
def test_like_stands_beside_like_else_an_interval(published, text, note):
    table = comparison_table("", [(("",), published, Measured(VALUES), None)], ("",), "", True)
    assert str(table.rows[0][2]) == text and note in table.notes[0]


def test_least_steady_times_median_bytes_and_ratios_to_the_baseline():
    def cost(seconds, size=4_000_000, spread=1.2):
        quartiles = {"seconds_low": seconds, "seconds_high": seconds * spread}
        return {"seconds": seconds, "peak_bytes": size} | quartiles

    costs = {
        "plain": [cost(0.3), cost(0.5), cost(0.2), cost(0.1, spread=1.25)],
        "meta": [cost(0.5, 5_000_000)],
        "shaken": [cost(0.5, 5_000_000, spread=2.0)],
        "absent": [],
    }
    table = cost_table("Cost", costs, "plain")
    assert [[str(c) for c in row] for row in table.rows] == [
        ["plain", "200.0", "1.00", "4.0", "1.00", "4"],
        ["meta", "500.0", "2.50", "5.0", "1.25", "1"],
        ["shaken", "–", "–", "5.0", "1.25", "1"],
    ]
    assert "quartiles" in table.notes[-1]
    table = cost_table("Cost", {"meta": costs["meta"]}, "absent")
    assert [str(c) for c in table.rows[0]][2::2] == ["–", "–"] and table.notes == ()
