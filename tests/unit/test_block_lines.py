"""Which blocks of the loop get a log line."""

from qorzen_obs.telemetry.block_lines import _LINES, BlockLines


def test_a_culprit_has_a_line_a_minute_with_the_count_of_what_was_held_back() -> None:
    lines = BlockLines()
    assert [lines.let("a", at) for at in (0, 0.1, 30, 59.9, 60, 61, 125)] == [1, None, None, None, 4, None, 2]


def test_each_culprit_has_its_own_minute() -> None:
    lines = BlockLines()
    assert [lines.let(who, 0) for who in "aab"] == [1, None, 1]


def test_many_culprits_at_once_make_few_lines_and_nothing_is_lost() -> None:
    lines = BlockLines()
    told = [lines.let(who, 0) for who in range(20)]
    assert told.count(1) == _LINES
    assert [lines.let(19, at) for at in (1, 11, 12)] == [None, 3, None]


def test_a_flood_of_culprits_takes_no_memory() -> None:
    lines = BlockLines()
    for who in range(10_000):
        lines.let(who, who * 20)
        lines.let(who, who * 20)
    assert len(lines._held_back) <= 256
    assert len(lines._told_at) <= 256
