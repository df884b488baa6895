"""The study's statistics and tables against numbers worked out by hand."""

import pytest

from common.cost_study.case import PublishedCost
from common.cost_study.records import Measurement, Point, Settings
from common.cost_study.report import section
from common.cost_study.tables import by_figure, estimators_table, published_table, steps_table
from common.reporting import to_markdown

SETTINGS = Settings(size="small", device="cpu", threads=2)
POINTS = [Point(experiment="lab", figure="A figure", x=x) for x in ("small", "large", "huge")]


def measurement(point: Point, method: str, seconds=None, peak=None, **more) -> Measurement:
    return Measurement(
        point=point,
        method=method,
        compiled=False,
        settings=SETTINGS,
        outcome="measured" if seconds else "does not fit",
        reason="" if seconds else "memory",
        seconds=seconds or [],
        plain_seconds=[1.0, 2.0, 1.0, 2.0] if seconds else [],
        peak_bytes=peak,
        plain_peak_bytes=100 if seconds else None,
        resident_bytes=300 if seconds else None,
        parameters=1000,
        hyperparameters=7,
        **more,
    )


def study() -> list[Measurement]:
    found = []
    for scale, point in enumerate(POINTS, 1):
        found += [
            measurement(point, "T1T2", [4.0 * scale, 8.0 * scale, 6.0 * scale, 8.0 * scale], 500),
            measurement(point, "plain", [1.0, 2.0, 1.0, 2.0], 100),
            measurement(point, "EvoGrad, K = 2", [2.0, 4.0, 2.0, 4.0], 100),
        ]
    return [*found, measurement(POINTS[2], "HigherT1T2")]


def test_ratios_are_paired_by_round():
    found = study()[0]
    assert found.time_ratios == [4.0, 4.0, 6.0, 4.0]
    assert found.time_ratio == 4.0
    assert found.time_quartiles == (4.0, 4.5)
    assert found.memory_ratio == 5.0 and found.total_bytes == 800


def test_a_figures_table_has_every_place_in_order():
    figures = by_figure(reversed(study()), POINTS)
    table = steps_table("A figure", figures["lab", "A figure"])
    headings = list(dict.fromkeys(table.blocks))
    assert headings == [f"{p.x}: 1,000 parameters, 7 hyperparameters" for p in POINTS]
    rows = [[str(c) for c in row] for row in table.rows]
    assert [row[0] for row in rows[:3]] == ["plain", "EvoGrad, K = 2", "T1T2"]
    assert rows[2] == ["T1T2", "7000.0", "4.00", "4.00 to 4.50", "0.0", "5.00", "4 rounds"]
    assert rows[0][1:4] == ["1500.0", "1.00", "–"]  # plain is 1 of itself
    assert rows[-1] == ["HigherT1T2", *["–"] * 5, "does not fit"]
    (missing,) = (
        note for note in table.notes if note.startswith("small: not measured at this size")
    )
    assert "Neumann, 4 terms" in missing and " T1T2;" not in missing
    assert "cpu, 2 threads" in table.title


def test_published_ratios_stand_beside_measured_ones():
    entries = [
        PublishedCost("A figure", "large", {"EvoGrad, K = 2": (6.0, 10.0), "T1T2": (9.0, 30.0)}),
        PublishedCost("Another", "large", {"EvoGrad, K = 2": (6.0, 10.0), "T1T2": (9.0, 30.0)}),
    ]
    table = published_table(by_figure(study(), POINTS), "lab", entries)
    rows = [[str(c) for c in row[2:]] for row in table.rows]
    # Time 8 / 2 plain steps; memory with what was in use before, (500 + 300) / (100 + 300).
    assert rows == [
        ["T1T2 / EvoGrad, K = 2", "time", "3.00", "4.00", "–"],
        ["T1T2 / EvoGrad, K = 2", "memory", "1.50", "2.00", "–"],
    ]
    assert published_table(by_figure(study()), "elsewhere", entries) is None


def test_the_page_shows_the_cases_that_stand_for_all():
    table = estimators_table(study(), {"small": POINTS[0], "huge": POINTS[2]})
    rows = {row[0]: [str(c) for c in row[3:7]] for row in table.rows}
    assert rows["EvoGrad, K = 2"] == ["2.00", "1.00", "2.00", "1.00"]
    assert rows["T1T2"] == ["4.00", "5.00", "12.00", "5.00"]
    assert rows["HigherT1T2"] == ["not measured at this size"] * 2 + ["does not fit"] * 2
    assert "Neumann" in to_markdown(estimators_table([], {"small": POINTS[0]}))


@pytest.mark.parametrize("places", [1, 3])
def test_a_section_leaves_its_tables_and_figures(tmp_path, places):
    shown = [m for m in study() if m.point in POINTS[:places]]
    costs = {"EvoGrad, K = 2": (6.0, 10.0), "T1T2": (9.0, 30.0)}
    published = {"lab": [PublishedCost("A figure", "small", costs)]}
    made = section(shown, POINTS, published, tmp_path)
    assert len(made.tables) == 2 and len(made.figures) == 2
    stems = {"a-figure-cpu", "a-figure-published-cpu", "lab-published-cpu"}
    assert {path.stem for path in tmp_path.iterdir()} == stems
    assert "T1T2" in made.figures[0].alt
