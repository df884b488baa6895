"""The study's statistics and tables against numbers worked out by hand."""

import pytest

from common.cost_study.case import PublishedCost
from common.cost_study.records import Measurement
from common.cost_study.report import beside, section
from common.cost_study.rows import BY_KEY, EVOGRAD, HIGHER, PLAIN, T1T2, named
from common.cost_study.tables import (
    by_figure,
    estimators_table,
    gigabytes_table,
    published_table,
    steps_table,
)
from common.reporting import to_markdown

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


def test_ratios_are_paired_by_round():
    found = study()[0]
    assert found.time_ratios == [4.0, 4.0, 6.0, 4.0]
    assert found.time_ratio == 4.0
    assert found.time_quartiles == (4.0, 4.5)
    assert found.memory_ratio == 5.0 and found.total_bytes == 800


def test_a_figures_table_has_every_place_in_order():
    table = steps_table("A figure", by_figure(reversed(study()), POINTS)["lab", "A figure"])
    places = [f"{x}: 1,000 parameters, 7 hyperparameters" for _, _, x in POINTS]
    assert list(dict.fromkeys(table.blocks)) == places
    rows = [[str(c) for c in row] for row in table.rows]
    assert [row[0] for row in rows[:3]] == ["plain", "EvoGrad num_candidates=2", "T1T2"]
    times, bytes_ = ["7000.0", "4.00", "4.00 to 4.50"], ["0.0", "5.00", "0.0"]
    assert rows[2] == ["T1T2", *times, *bytes_, "4 rounds"]
    assert rows[0][1:4] == ["1500.0", "1.00", "–"]  # plain is 1 of itself
    assert rows[-1] == ["HigherT1T2", *["–"] * 6, "does not fit"]
    (missing,) = (note for note in table.notes if note.startswith("small: not measured"))
    assert "Neumann terms=4" in missing and " T1T2;" not in missing
    assert "cpu, 2 threads" in table.title
    table = steps_table("A figure", by_figure(counted(), POINTS)["lab", "A figure"])
    assert [str(c) for c in table.rows[1]][2:5] == ["9.00", "0.0", "17.00"]


def test_published_ratios_stand_beside_measured_ones():
    entries = [PublishedCost(name, "large", COSTS, name) for name in ("A figure", "Another")]
    table = published_table(by_figure(study(), POINTS), "lab", entries)
    rows = [[str(c) for c in row[3:]] for row in table.rows]
    # Time 8 / 2 plain steps; memory with what was in use before, (500 + 300) / (100 + 300).
    assert rows == [["time", "3.00", "4.00", "–", "–"], ["memory", "1.50", "2.00", "–", "–"]]
    assert published_table(by_figure(study()), "elsewhere", entries) is None
    points = by_figure(counted(), POINTS)["lab", "A figure"]
    table = published_table({("lab", "A figure"): points}, "lab", entries)
    assert [str(row[5]) for row in table.rows] == ["2.00", "2.50"]  # 6 / 3, 1000 / 400
    entries = [PublishedCost("A figure", "small", COSTS, "Figure 9")]
    (row, *_) = gigabytes_table(points, entries).rows
    assert [str(c) for c in row] == ["small", "6.00", "–", "0.00", "9.00", "0.00", "0.00", "–"]


def test_the_page_shows_the_cases_that_stand_for_all():
    table = estimators_table(study(), {"small": POINTS[0], "huge": POINTS[2]})
    rows = {row[0]: [str(c) for c in row[3:7]] for row in table.rows}
    assert rows["EvoGrad num_candidates=2"] == ["2.00", "1.00", "2.00", "1.00"]
    assert rows["T1T2"] == ["4.00", "5.00", "12.00", "5.00"]
    assert rows["HigherT1T2"] == ["not measured at this size"] * 2 + ["does not fit"] * 2
    assert "Neumann" in to_markdown(estimators_table([], {"small": POINTS[0]}))


@pytest.mark.parametrize("places", [1, 3])
def test_a_section_leaves_its_tables_and_figures(tmp_path, places):
    shown = [m for m in counted() if (m.experiment, m.figure, m.x) in POINTS[:places]]
    published = {"lab": [PublishedCost("A figure", "small", COSTS, "Figure 9")]}
    made = section(shown, POINTS, published, tmp_path)
    assert len(made.tables) == 3 and len(made.figures) == 1
    timed = [m for m in study() if m.x == POINTS[places - 1][2]]
    both = beside([*shown, *timed], POINTS, published, tmp_path)
    stems = {"a-figure-counted", "a-figure-published-counted", "lab-published-counted"}
    assert {path.stem for path in tmp_path.iterdir()} == stems | {"counted-timed", "figure-9"}
    assert "T1T2" in made.figures[0].alt and "small" in both.figures[1].alt
    # T1T2 in plain steps: 6 operations; 4 seconds at the first place, 12 at the last.
    assert ("T1T2 (2.0)" in both.figures[0].caption) == (places == 3)


def test_a_rows_key_names_that_row_alone():
    assert named(T1T2, T1T2) and not named("t1t2 released", T1T2)
    assert named("t1t2 released", "released") and not named(T1T2, "evo")
