"""For all tests."""

import signal

import pytest

# Where they are ignored (nohup, a background job of a script), so they would be in every process
# that a test starts, and those that wait for a signal would wait for ever.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def not_rendered(monkeypatch):
    """Figures are drawn, but their files are empty: rendering takes a second each."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
