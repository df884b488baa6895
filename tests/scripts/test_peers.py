"""The comparison with other libraries says where one of them is ahead."""

from scripts.peers import Found, better


def found(library, seconds, size, error, claims="one step"):
    return Found(
        library=library, name=library, claims=claims, error=error, cosine=1.0, moved=0.0,
        seconds=[seconds], bytes=size,
    )  # fmt: skip


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
