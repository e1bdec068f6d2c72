"""Deadlines: each item at its time or after, never before, by one timer."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.core.deadlines import Deadlines
from qorzen_obs.testing import VirtualTimeLoop, virtual_time
from tests.support import virtual_time as watched_virtual_time


def make(due: list[tuple[str, float]]) -> tuple[VirtualTimeLoop, Deadlines[str]]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop, Deadlines(loop, loop.clock, lambda item: due.append((item, loop.time())))


whens = st.floats(0, 1_000) | st.sampled_from([1.0, 1.0 + 1e-9, 2.0])


@given(st.lists(st.tuples(whens, st.booleans()), max_size=30))
def test_every_deadline_that_stays_is_met_in_order_and_never_early(plan: list[tuple[float, bool]]) -> None:
    @virtual_time
    async def main() -> None:
        due: list[tuple[str, float]] = []
        _, deadlines = make(due)
        entries = [deadlines.add(when, str(number)) for number, (when, _) in enumerate(plan)]
        for entry, (_, removed) in zip(entries, plan, strict=True):
            if removed:
                deadlines.remove(entry)
                deadlines.remove(entry)
        await asyncio.sleep(1_001)
        expected = [(when, str(number)) for number, (when, removed) in enumerate(plan) if not removed]
        assert [item for item, _ in due] == [
            item for _, item in sorted(expected, key=lambda entry: (entry[0], int(entry[1])))
        ]
        for item, at in due:
            assert plan[int(item)][0] <= at <= plan[int(item)][0] + 0.001
        deadlines.close()

    main()


@watched_virtual_time
async def test_a_deadline_may_be_set_or_removed_while_others_pass() -> None:
    due: list[str] = []
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)

    def on_due(item: str) -> None:
        due.append(item)
        if item == "first":
            deadlines.remove(second)
            deadlines.add(5, "earlier than the third")
            deadlines.add(1, "overdue already")

    deadlines: Deadlines[str] = Deadlines(loop, loop.clock, on_due)
    deadlines.add(2, "first")
    second = deadlines.add(2, "second")
    deadlines.add(10, "third")
    await asyncio.sleep(20)
    assert due == ["first", "overdue already", "earlier than the third", "third"]


@watched_virtual_time
async def test_after_close_nothing_is_due_any_more() -> None:
    due: list[tuple[str, float]] = []
    _, deadlines = make(due)
    deadlines.close()
    deadlines.add(2, "item")
    deadlines.close()
    await asyncio.sleep(5)
    assert due == []


@watched_virtual_time
async def test_ten_thousand_deadlines_take_one_timer() -> None:
    due: list[tuple[str, float]] = []
    loop, deadlines = make(due)
    before = len(loop._scheduled)  # type: ignore[attr-defined]  # asyncio's own heap of timers
    for number in range(10_000):
        deadlines.add(100 + number, "item")
    assert len(loop._scheduled) - before == 1  # type: ignore[attr-defined]  # as above
    deadlines.close()


@watched_virtual_time
async def test_what_is_removed_is_not_held_for_long() -> None:
    _, deadlines = make([])
    for number in range(10_000):
        deadlines.remove(deadlines.add(100, str(number)))
    assert len(deadlines._heap._entries) < 200
    deadlines.close()
