"""The study's statistics and tables against numbers worked out by hand."""

import pytest

from common.cost_study.case import PublishedCost
from common.cost_study.records import BY_KEY, EVOGRAD, HIGHER, PLAIN, T1T2, Measurement
from common.cost_study.report import (
    by_figure,
    estimators_table,
    gigabytes_table,
    published_table,
    sections,
    steps_table,
)

POINTS = [("lab", "A figure", x) for x in ("small", "large", "huge")]
COSTS = {EVOGRAD: (6.0, 10.0), T1T2: (9.0, 30.0)}


def measurement(point, key: str, seconds=None, peak=None, **more) -> Measurement:
    experiment, figure, x = point
    row = BY_KEY[key]
    values = {
        "experiment": experiment, "figure": figure, "x": x, "method": row.method,
        "options": dict(row.options), "how": row.how, "size": "small", "device": "cpu",
        "threads": 2,
        "outcome": "measured" if seconds else "does not fit", "reason": "" if seconds else "memory",
        "seconds": seconds or [], "plain_seconds": [1.0, 2.0, 1.0, 2.0] if seconds else [],
        "peak_bytes": peak, "plain_peak_bytes": 100, "resident_bytes": 300, "parameters": 1000,
        "hyperparameters": 7,
    }  # fmt: skip
    return Measurement(**values | more)


def study() -> list[Measurement]:
    found = []
    for scale, point in enumerate(POINTS, 1):
        found += [
            measurement(point, T1T2, [4.0 * scale, 8.0 * scale, 6.0 * scale, 8.0 * scale], 500),
            measurement(point, PLAIN, [1.0, 2.0, 1.0, 2.0], 100),
            measurement(point, EVOGRAD, [2.0, 4.0, 2.0, 4.0], 100),
        ]
    return [*found, measurement(POINTS[2], HIGHER)]


def counted() -> list[Measurement]:
    keys = {PLAIN: (1, 100), EVOGRAD: (3, 100), T1T2: (6, 700), "t1t2 released": (9, 1700)}
    return [
        measurement(
            point, key, peak=peak, size="paper", device="counted", outcome="counted", reason="",
            operations=operations, plain_operations=1,
        )
        for point in POINTS for key, (operations, peak) in keys.items()
    ]  # fmt: skip


def texts(table, start=0, stop=None) -> list[list[str]]:
    return [[str(cell) for cell in row[start:stop]] for row in table.rows]


def test_a_figures_table_has_every_place_in_order_and_ratios_paired_by_round():
    table = steps_table("A figure", by_figure(reversed(study()), POINTS)["lab", "A figure"])
    places = [f"{x}: 1,000 parameters, 7 hyperparameters" for _, _, x in POINTS]
    assert list(dict.fromkeys(table.blocks)) == places
    rows = texts(table)
    assert [row[0] for row in rows[:3]] == ["plain", "EvoGrad num_candidates=2", "T1T2"]
    times, bytes_ = ["7000.0", "4.00", "4.00 to 4.50"], ["0.0", "5.00", "0.0"]
    assert rows[2] == ["T1T2", *times, *bytes_, "4 rounds"]
    assert rows[0][1:4] == ["1500.0", "1.00", "–"]  # plain is 1 of itself
    assert rows[-1] == ["HigherT1T2", *["–"] * 6, "does not fit"]
    (missing,) = (note for note in table.notes if note.startswith("small: not measured"))
    assert "Neumann terms=4" in missing and " T1T2;" not in missing
    assert "cpu, 2 threads" in table.title
    table = steps_table("A figure", by_figure(counted(), POINTS)["lab", "A figure"])
    assert texts(table, 2, 5)[1] == ["9.00", "0.0", "17.00"]


def test_published_ratios_stand_beside_measured_ones():
    entries = [PublishedCost(name, "large", COSTS, name) for name in ("A figure", "Another")]
    table = published_table(by_figure(study(), POINTS), "lab", entries)
    # Time 8 / 2 plain steps; memory with what was in use before, (500 + 300) / (100 + 300).
    rows = [["time", "3.00", "4.00", "–", "–"], ["memory", "1.50", "2.00", "–", "–"]]
    assert texts(table, 3) == rows
    assert published_table(by_figure(study()), "elsewhere", entries) is None
    points = by_figure(counted(), POINTS)["lab", "A figure"]
    table = published_table({("lab", "A figure"): points}, "lab", entries)
    assert texts(table, 5, 6) == [["2.00"], ["2.50"]]  # 6 / 3, 1000 / 400
    entries = [PublishedCost("A figure", "small", COSTS, "Figure 9")]
    row = ["small", "6.00", "–", "0.00", "9.00", "0.00", "0.00", "–"]
    assert texts(gigabytes_table(points, entries))[0] == row


def test_the_page_shows_the_cases_that_stand_for_all():
    table = estimators_table(study(), {"small": POINTS[0], "huge": POINTS[2]})
    rows = {row[0]: row[3:7] for row in texts(table)}
    assert rows["EvoGrad num_candidates=2"] == ["2.00", "1.00", "2.00", "1.00"]
    assert rows["T1T2"] == ["4.00", "5.00", "12.00", "5.00"]
    assert rows["HigherT1T2"] == ["not measured at this size"] * 2 + ["does not fit"] * 2


@pytest.mark.parametrize("places", [1, 3])
def test_sections_leave_their_tables_and_figures(tmp_path, places):
    shown = [m for m in counted() if (m.experiment, m.figure, m.x) in POINTS[:places]]
    timed = [m for m in study() if m.x == POINTS[places - 1][2]]
    published = {"lab": [PublishedCost("A figure", "small", COSTS, "Figure 9")]}
    made = {s.title: s for s in sections([*shown, *timed], POINTS, published, tmp_path)}
    own, both = made["Cost of hypergradients: counted"], made["Counted, timed and published"]
    assert len(own.tables) == 3 and len(own.figures) == 1
    stems = {"a-figure-counted", "a-figure-published-counted", "lab-published-counted"}
    stems |= {"a-figure-cpu", "counted-timed", "figure-9"}
    stems |= {"lab-published-cpu"} if places == 1 else set()
    assert {path.stem for path in tmp_path.iterdir()} == stems
    assert "T1T2" in own.figures[0].alt and "small" in both.figures[1].alt
    # T1T2 in plain steps: 6 operations; 4 seconds at the first place, 12 at the last.
    assert ("T1T2 (2.0)" in both.figures[0].caption) == (places == 3)
