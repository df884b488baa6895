"""The trials' own counting: what breaks is not counted as survived."""

import signal
import time

import pytest

from scripts.torture import Torture
from scripts.torture_tools import Command, Ended, Tally, table


@pytest.mark.parametrize(
    ("ended", "same", "damaged", "counted"),
    [
        (Ended(0, "done"), True, False, "survived"),
        (Ended(0, "done"), True, True, "survived"),  # nothing that counts was damaged
        (Ended(0, "done"), False, True, "accepted"),
        (Ended(0, "done"), False, False, "lost"),
        (Ended(2, "bar\rerror: it is damaged\n"), False, True, "refused"),
        (Ended(2, "usage\n"), False, True, "lost"),
        (Ended(-9, ""), False, False, "lost"),
        (Ended(1, "Traceback (most recent call last)"), False, True, "tracebacks"),
        (Ended(2, "Traceback\nerror: x"), True, False, "tracebacks"),
    ],
)
def test_every_end_is_counted_as_what_it_is(ended, same, damaged, counted, tmp_path, monkeypatch):
    monkeypatch.setattr(Torture, "same", lambda *_: same)
    tally = Tally("a trial")
    Torture.judge(Torture.__new__(Torture), tally, ended, tmp_path, damaged, "what")
    assert (tally.tried, getattr(tally, counted)) == (1, 1)
    assert tally.clean == (counted in ("survived", "refused")) == (not tally.notes)
    assert table([tally]).count("| 1 |") >= 2


def test_a_forked_command_is_told_apart_by_how_it_ends():
    command = Command(lambda: time.sleep(60))
    command.kill(signal.SIGTERM, after=0.2)
    ended = command.wait()
    assert ended.status == 143 and "interrupted" in ended.text and not ended.traceback
    assert Command(lambda: 1 / 0).wait().traceback
    assert Command(lambda: print("well")).wait() == Ended(0, "well\n")
