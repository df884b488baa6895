"""The tables beside other libraries say what their record says."""

import json

import pytest

from common.settings import ROOT
from scripts.peer_tables import Found, better, write_tables

RESULTS = ROOT / "results" / "peers"


def found(library, seconds, size, error, claims="one step"):
    return Found(library, library, claims, error, 1.0, 0.0, [seconds], size)


def test_where_a_peer_is_ahead_is_said_column_by_column():
    rows = [
        found("here", 2.0, 10, 0.1),
        found("here", 3.0, 5, 0.2),
        found("peer", 1.0, 7, 0.04),
        found("other", 2.5, 4, 0.3),
        found("here", 9.0, 9, 0.9, "at theta"),
    ]
    said = better(rows, [row.seconds[0] for row in rows])
    assert "peer peer is faster; peer peer is more exact; other other takes less memory" in said
    assert "nowhere" in better(rows[:2], [2.0, 3.0])


@pytest.mark.skipif(not RESULTS.exists(), reason="not measured yet")
def test_shipped_tables_are_those_of_the_record(tmp_path):
    record = RESULTS / "record.json"
    (tmp_path / "record.json").write_text(record.read_text())
    write_tables(tmp_path)
    assert len(json.loads(record.read_text())["resnet-32"]) > 10
    for path in RESULTS.glob("*.[mct]*"):
        assert path.read_text() == (tmp_path / path.name).read_text()
