"""What `top` says of the service as a whole: the lines above the list. Pure.

A line that is too long goes on in the next one, and who blocks the loop has a line of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Final

from rich import filesize
from rich.cells import cell_len
from rich.text import Text

from qorzen_obs.cli.output import STYLES
from qorzen_obs.cli.texts import clock, number, printable, rate, seconds, share
from qorzen_obs.cli.top.figures import Gauges
from qorzen_obs.cli.top.poll import Snapshot, Trouble
from qorzen_obs.cli.top.scene import Scene
from qorzen_obs.client import Culprit

_NARROW: Final = 70  #: up to here the title is the service's alone
_INDENT: Final = 7  #: columns before the text behind a label, and before its next line
_RECENT_SECONDS: Final = 60.0  #: how long a block of the loop is shown after it has ended
_LONG_SECONDS: Final = 0.1  #: and from this length on, as the service itself shows one
_PRIORITIES: Final = ("critical", "high", "normal", "low")
_NOT_RUNNING: Final = "not_running"  #: the cause of a block that is nobody's: see telemetry/watchdog.py


def head_lines(scene: Scene) -> list[Text]:
    """Return what is said of the service as a whole; what has no room in a line goes on in the next.

    Where that would take more than half of the screen, each line is cut instead.
    """
    width = scene.size.width
    flowed = [line for parts in _head(scene) for line in _flow(parts, width)]
    if len(flowed) <= scene.size.height // 2:
        return flowed
    return [Text().join(parts) for parts in _head(scene)]


def _head(scene: Scene) -> Iterator[list[Text]]:
    """Yield the lines of the head, each as parts that are not broken."""
    yield [_title(scene)]
    if scene.trouble is not None:
        yield [_banner(scene, scene.trouble)]
    snapshot = scene.snapshot
    if snapshot is None:
        return
    culprit = _culprit(snapshot)
    if culprit:
        yield culprit
    yield [_label("tasks"), *_counts(snapshot)]
    yield [_label("loop"), *_loop(snapshot)]
    yield [_label("queue"), *_queue(snapshot)]
    yield [_label("slots"), *_slots(snapshot)]
    for name, finding in snapshot.health.problems():
        if not (culprit and name.startswith("work-loop:")):  # that line says it
            yield _words(printable(f"{finding.status}  {name}: {finding.output}"), STYLES[finding.status])


def _flow(parts: Sequence[Text], width: int) -> Iterator[Text]:
    """Yield the parts in lines that fit the width; the first part alone goes without an indent."""
    line, is_empty = Text(), True
    for part in parts:
        if not is_empty and line.cell_len + cell_len(part.plain.rstrip()) > width:
            yield line
            line = Text(" " * _INDENT)
        line.append_text(part)
        is_empty = False
    yield line


def _words(text: str, style: str) -> list[Text]:
    """Return a text that may go on in the next line between any two words."""
    *words, last = text.split(" ")
    return [*(Text(f"{word} ", style) for word in words), Text(last, style)]


def _title(scene: Scene) -> Text:
    text = Text.assemble(("qorzen-obs top ", "bold")) if scene.size.width >= _NARROW else Text()
    text.append(printable(scene.url), "dim")
    if scene.snapshot is not None:
        state, health = scene.snapshot.status.state, scene.snapshot.health.status
        text.append("  ").append(printable(state), STYLES.get(state, "bold red"))
        text.append("  health ").append(health, STYLES[health])
    text.append(f"  {clock(scene.now)}", "dim")
    if scene.view.paused:
        text.append("  paused", "reverse")
    return text


def _banner(scene: Scene, trouble: Trouble) -> Text:
    what = "refused" if trouble.answered else "no answer"
    waited = seconds(max(0.0, scene.monotonic - trouble.since))
    return Text(f"{what} for {waited}, retrying ... {printable(trouble.message)}", "bold white on red")


def _culprit(snapshot: Snapshot) -> list[Text]:
    """Return who holds the loop now, else who held it within the last minute; nothing where nobody did."""
    loop = snapshot.loop
    if loop is None:
        return []
    if loop.state == "blocked":
        who = "a busy machine" if loop.cause == _NOT_RUNNING else _holder(loop.culprit)
        held = loop.blocked_seconds if loop.culprit_seconds is None else loop.culprit_seconds
        return _words(f"{who} blocks the loop for {seconds(held)}", "bold white on red")
    for block in loop.recent:
        since = (loop.at - block.at).total_seconds() - block.seconds
        if block.cause != _NOT_RUNNING and block.seconds >= _LONG_SECONDS and since < _RECENT_SECONDS:
            who = _holder(block.culprit)
            ago = f"{max(since, 0.0):.0f} s ago"
            return _words(f"{who} blocked the loop for {seconds(block.seconds)}, {ago}", "yellow")
    return []


def _holder(culprit: Culprit | None) -> str:
    """Return the name of who holds the loop, and the line of its own code, which may be far from the innermost one."""
    if culprit is None:
        return "somebody"
    own = [frame for frame in culprit.frames if frame.file == culprit.frames[0].file]
    place = f" ({PurePath(own[-1].file).name}:{own[-1].line})" if own else ""
    return printable(f"{culprit.name}{place}")


def _counts(snapshot: Snapshot) -> Iterator[Text]:
    for status, count in snapshot.status.tasks.by_status.items():
        text = Text.assemble(
            (f"{printable(status)} ", "dim"), (number(count), STYLES.get(status, "") if count else "")
        )
        rises = snapshot.rates.get(status, 0.0)
        yield text.append(f" +{rate(rises)}" if rises > 0 else "").append("  ")


def _loop(snapshot: Snapshot) -> Iterator[Text]:
    lag = "-" if snapshot.lag is None else seconds(snapshot.lag)
    yield Text.assemble(("lag p99 ", "dim"), f"{lag}  ")
    if snapshot.blocked:
        shares = (f"{printable(category)} {_fine_share(part)}" for category, part in snapshot.blocked.items())
        yield Text.assemble(("blocked ", "dim"), (", ".join(shares), "yellow"), "  ")
    if snapshot.gauges is not None and snapshot.gauges.memory is not None:
        yield Text.assemble(("memory ", "dim"), filesize.decimal(int(snapshot.gauges.memory)))


def _fine_share(part: float) -> str:
    return share(part) if part >= 0.01 else "<1%"


def _queue(snapshot: Snapshot) -> Iterator[Text]:
    queue, gauges = snapshot.status.queue, snapshot.gauges or Gauges(0.0)
    used = queue.depth + queue.scheduled
    text = Text(f"{number(used)} of {number(queue.limit)}", "bold red" if used >= 0.9 * queue.limit else "")
    yield text.append(f", {number(queue.scheduled)} for later  " if queue.scheduled else "  ", "")
    # The metrics are a little older, and nobody should wait in an empty queue.
    for priority in _PRIORITIES if used else ():
        if count := gauges.pending.get(priority, 0):
            oldest = seconds(gauges.oldest.get(priority))
            yield Text.assemble((f"{priority} ", "dim"), (number(count), "yellow"), f" oldest {oldest}  ")
    if queue.paused:
        yield Text(f"paused: {printable(', '.join(queue.paused))}", "bold yellow")


def _slots(snapshot: Snapshot) -> Iterator[Text]:
    for engine, slots in snapshot.status.slots.items():
        text = Text.assemble(
            (f"{printable(engine)} ", "dim"),
            (f"{slots.busy}/{slots.limit}", "yellow" if slots.busy >= slots.limit else ""),
        )
        text.append(f" {slots.lent} lent" if slots.lent else "")
        yield text.append(f" {slots.abandoned} abandoned" if slots.abandoned else "", "bold red").append("  ")


def _label(name: str) -> Text:
    return Text.assemble((f"{name:<{_INDENT}}", "bold"))
