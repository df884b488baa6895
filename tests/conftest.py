"""For all tests."""

import signal

# Where they are ignored (nohup, a background job of a script), so they would be in every process
# that a test starts, and those that wait for a signal would wait for ever.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
