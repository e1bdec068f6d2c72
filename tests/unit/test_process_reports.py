"""Reports are sent one by one, in a burst together, and never more than the service can take."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from qorzen_obs.engines.processes.channel import FrameReader
from qorzen_obs.engines.processes.codec import decode
from qorzen_obs.engines.processes.reports import MAX_WAITING, Reports


class FarEnd:
    """Reports, and what of them arrives."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.reports = Reports(ours)
        theirs.setblocking(False)
        self._reader = FrameReader(theirs)

    def arrived(self) -> list[list[tuple[str, Any]]]:
        frames = []
        while (frame := self._reader.read()) is not None:
            frames.append(decode(frame))
        return frames


@pytest.fixture
def far_end() -> Iterator[FarEnd]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield FarEnd(ours, theirs)


def test_an_occasional_report_is_sent_at_once(far_end: FarEnd) -> None:
    far_end.reports.progress(10.0, "ten")
    far_end.reports.add("log", ("info", "line", {}))
    assert far_end.arrived() == [[("progress", (10.0, "ten"))], [("log", ("info", "line", {}))]]


def test_a_burst_goes_together_and_its_last_progress_arrives(far_end: FarEnd) -> None:
    for step in range(10_000):
        far_end.reports.progress(step / 100, str(step))
    far_end.reports.flush()
    frames = far_end.arrived()
    assert len(frames) < 200
    assert frames[-1][-1] == ("progress", (99.99, "9999"))


def test_what_exceeds_the_bound_is_counted(far_end: FarEnd) -> None:
    for step in range(10_000):
        far_end.reports.add("log", ("info", str(step), {}))
    far_end.reports.flush()
    events = [event for frame in far_end.arrived() for event in frame]
    lost = sum(data for kind, data in events if kind == "dropped")
    assert lost > 0
    assert sum(kind == "log" for kind, _ in events) + lost == 10_000


def test_a_service_that_does_not_read_is_not_waited_for(far_end: FarEnd) -> None:
    for _ in range(MAX_WAITING):
        far_end.reports.add("log", ("info", "x" * 1_000, {}))
    for _ in range(10):
        for _ in range(MAX_WAITING):
            far_end.reports.add("log", ("info", "x" * 1_000, {}))
        far_end.reports.flush()
    assert far_end.arrived()


def test_a_report_that_is_too_large_is_dropped_and_the_others_go(far_end: FarEnd) -> None:
    far_end.reports.add("span", "x" * 1_000_000)
    far_end.reports.add("log", ("info", "small", {}))
    far_end.reports.flush()
    events = [event for frame in far_end.arrived() for event in frame]
    assert ("log", ("info", "small", {})) in events
    assert ("dropped", 1) in events


def test_a_muted_one_says_nothing(far_end: FarEnd) -> None:
    far_end.reports.mute()
    far_end.reports.progress(1.0, "")
    far_end.reports.add("log", ("info", "line", {}))
    far_end.reports.flush()
    assert far_end.arrived() == []
