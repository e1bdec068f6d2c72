"""The terminal of `top`: signals end it wherever they come."""

import os
import pty
import signal
from collections.abc import Iterator

import pytest

from qorzen_obs.cli.top.terminal import Terminal


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0), os.fdopen(theirs, "rb", 0) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        yield


@pytest.mark.usefixtures("stdin")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=str)
def test_a_signal_whose_exception_is_lost_ends_it_all_the_same(number: signal.Signals) -> None:
    class Collected:
        def __del__(self) -> None:
            with pytest.raises((KeyboardInterrupt, SystemExit)):  # Python loses what a destructor raises
                os.kill(os.getpid(), number)

    with Terminal() as terminal:
        Collected()
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            terminal.keys(60.0)
