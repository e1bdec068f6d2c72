"""Everything of one task, as lines of text: for `show`, and for `top` when a task is opened. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import PurePath
from typing import Any, Final

from rich.text import Text

from qorzen_obs.cli.output import STYLES
from qorzen_obs.cli.texts import moment, number, printable, progress, seconds, shares
from qorzen_obs.client import AsyncioTask, Family, Frame, LogLines, Run, Stack, Task, Why
from qorzen_obs.engines.traits import ENGINES
from qorzen_obs.telemetry.names import LOG_FINISHED

_LABEL_WIDTH: Final = 12
_BAR_WIDTH: Final = 40
_ATTEMPTS_SHOWN: Final = 20
_FULL, _EMPTY = "█", "░"

#: By phase of the time ledger, in the order of a task's life: what fills its part of the bar, and its style.
_PHASES: Final = {
    "scheduled": ("·", "dim"),
    "queued": ("░", "yellow"),
    "retry_wait": ("·", "dim yellow"),
    "transfer": ("▓", "magenta"),
    "loop": ("█", "cyan"),
    "thread_cpu": ("█", "cyan"),
    "process_cpu": ("█", "cyan"),
    "await": ("▒", "blue"),
    "thread_wait": ("▒", "blue"),
    "process_wait": ("▒", "blue"),
}
#: Where a task uses something: the loop or a processor.
USE_PHASES: Final = frozenset(engine.use_phase for engine in ENGINES.values())
#: Where it runs and does not.
WAIT_PHASES: Final = frozenset({"transfer", *(engine.wait_phase for engine in ENGINES.values())})
_LEVEL_STYLES: Final = {"warning": "yellow", "error": "red", "critical": "bold red", "debug": "dim"}
_SAID_ELSEWHERE: Final = frozenset({"at", "level", "event", "trace_id", "span_id", "attempt"})


def task_lines(task: Task, now: datetime) -> Iterator[Text]:
    """Yield what is known of a task; `now` is for what has not ended."""
    status = task.status + (f", abandoned: {_code_of(task)}" if task.abandoned else "")
    yield Text.assemble((printable(task.name), "bold"), "  ", (status, STYLES.get(task.status, "")))
    yield _field("id", task.task_id)
    kind = [task.category, f"priority {task.priority}", f"engine {task.engine}"]
    if task.plugin_id is not None:
        kind.append(f"plugin {task.plugin_id}")
    yield _field("kind", ", ".join(kind))
    limit = "no limit" if task.timeout_seconds is None else seconds(task.timeout_seconds)
    stop = f"cancel guarantee {task.cancel_guarantee}" if task.cancellable else "not cancellable"
    yield _field("attempt", f"{task.attempt}, timeout {limit}, {stop}")
    if len(task.attempts) > 1:
        yield from _attempt_lines(task.attempts, now)
    yield _field("created", moment(task.created_at))
    yield from _start_lines(task, now)
    if task.completed_at is not None:
        took = "" if task.duration_seconds is None else f"  after {seconds(task.duration_seconds)}"
        yield _field("ended", moment(task.completed_at) + took)
    if task.cancel_reason is not None:
        yield _field("cancelled", task.cancel_reason)
    if task.progress.updated_at is not None:
        bar = progress_bar(task.progress.percent, _BAR_WIDTH)
        yield (
            _label("progress")
            .append_text(bar)
            .append(f" {progress(task.progress.percent)}  {printable(task.progress.message)}")
        )
    if task.phases:
        yield from ledger_lines(task.phases)
    if task.waiting_for is not None:
        yield _field("waits for", f"task {task.waiting_for}")
    if task.parent_id is not None:
        name = None if task.family is None else task.family.parent_name
        yield _field("parent", f"task {task.parent_id}{'' if name is None else f', {printable(name)}'}")
    if task.family is not None and task.family.below.total:
        yield _field("children", _family(task.family))
    if task.rerun_of is not None:
        yield _field("rerun of", f"task {task.rerun_of}")
    if task.rerun is not None and task.rerun.task_id is not None:
        yield _field("rerun as", f"task {task.rerun.task_id}")
    if task.status == "failed" and task.rerun is not None and task.rerun.why_not is not None:
        yield _field("no rerun", task.rerun.why_not)
    if task.trace_id is not None:
        yield _field("trace", task.trace_id)
    if task.evicted:
        yield _field("kept", "only this outline: its details were evicted")
    if task.error_type is not None:
        yield Text()
        yield Text(f"{printable(task.error_type)}: {_first_line(task.error)}", "bold red")
        for line in (task.error or "").splitlines()[1:]:
            yield Text(f"  {printable(line)}", "red")
    for line in (task.traceback or "").splitlines():
        yield Text(f"  {printable(line)}", "dim")


def _attempt_lines(attempts: Sequence[Run], now: datetime) -> Iterator[Text]:
    """Yield a line for each of the last attempts: when it began, how long it took, and its error."""
    for attempt in attempts[-_ATTEMPTS_SHOWN:]:
        took = seconds(((attempt.ended_at or now) - attempt.started_at).total_seconds())
        end = "runs for" if attempt.ended_at is None else "took"
        worker = "" if attempt.worker is None else f" in process {attempt.worker}"
        error = "" if attempt.error_type is None else f": {printable(attempt.error_type)}"
        yield _field(f"  {attempt.number}", f"{moment(attempt.started_at)}  {end} {took}{worker}{error}")


def _family(family: Family) -> str:
    """Return how many children a task has, how they stand, and how many tasks are below."""
    by_status = (f"{number(n)} {status}" for status, n in family.children.by_status.items() if n)
    more = family.below.total - family.children.total
    return ", ".join([*by_status, *([f"{number(more)} further down"] if more else [])])


def _start_lines(task: Task, now: datetime) -> Iterator[Text]:
    if task.started_at is not None:
        waited = (
            "" if task.queue_wait_seconds is None else f"  {seconds(task.queue_wait_seconds)} in the queue"
        )
        runs = "" if task.ended else f", runs for {seconds((now - task.started_at).total_seconds())}"
        yield _field("started", f"{moment(task.started_at)}{waited}{runs}")
    if task.status == "pending" and task.eligible_at is not None:
        waits = (now - task.eligible_at).total_seconds()
        text = f"waits for {seconds(waits)}" if waits >= 0 else f"may start in {seconds(-waits)}"
        yield _field("pending", text)


def progress_bar(percent: float, width: int) -> Text:
    """Return a bar of `width` characters."""
    full = int(min(max(percent, 0.0), 100.0) / 100 * width)
    return Text.assemble((_FULL * full, "green"), (_EMPTY * (width - full), "dim"))


def ledger_lines(phases: Mapping[str, float]) -> Iterator[Text]:
    """Yield where a task's time went: a bar, and a line for each phase."""
    known = [(name, phases[name]) for name in _PHASES if phases.get(name, 0.0) > 0]
    known += [(name, value) for name, value in phases.items() if name not in _PHASES and value > 0]
    total = sum(value for _, value in known)
    if total <= 0:
        return
    bar, end, done = _label("time"), 0, 0.0
    for name, value in known:
        done += value
        begin, end = end, round(done / total * _BAR_WIDTH)
        fill, style = _PHASES.get(name, ("▒", ""))
        bar.append(fill * (end - begin), style)
    yield bar.append(f" {seconds(total)}")
    for (name, value), part in zip(known, shares([value for _, value in known]), strict=True):
        fill, style = _PHASES.get(name, ("▒", ""))
        yield Text.assemble(
            " " * _LABEL_WIDTH,
            (fill, style),
            f" {printable(name):<13}{seconds(value):>8}  {part:>4}",
        )


def why_lines(why: Why) -> Iterator[Text]:
    """Yield why a task is pending."""
    if not why.pending:
        return
    if why.eligible_in_seconds:
        yield _field("because", f"its time comes in {seconds(why.eligible_in_seconds)}")
        return
    held = "only its turn has not come" if why.held_by is None else f"held by {printable(why.held_by)}"
    if why.ahead is None:  # only the work loop knows, and it is what holds the task
        yield _field("because", held)
        return
    ahead = f"{why.ahead} would start before it" if why.ahead else "it is the next"
    yield _field("because", f"{held}; {ahead}")


def stack_lines(stack: Stack) -> Iterator[Text]:
    """Yield where a task is right now, the innermost line last."""
    awaiting = f", awaits {printable(stack.awaiting)}" if stack.awaiting else ""
    where = f" in the worker process {stack.pid}" if stack.pid is not None else ""
    yield Text(f"Stack: {printable(stack.state)}{where}{awaiting}", "bold")
    yield from _frame_lines(stack.frames)
    for task in stack.asyncio_tasks:
        yield from _asyncio_task_lines(task)


def _asyncio_task_lines(task: AsyncioTask) -> Iterator[Text]:
    awaiting = f", awaits {printable(task.awaiting)}" if task.awaiting else ""
    yield Text(f"{printable(task.name)}{awaiting}", "bold")
    yield from _frame_lines(task.frames)


def _frame_lines(frames: list[Frame]) -> Iterator[Text]:
    for frame in frames:
        yield Text.assemble(
            "  ", (printable(frame.function), "cyan"), (f"  {printable(frame.file)}:{frame.line}", "dim")
        )
        if frame.code:
            yield Text(f"    {printable(frame.code)}")


def place(stack: Stack) -> str:
    """Return in a few words where a task is: what it awaits, else its innermost line."""
    if stack.awaiting:
        return printable(stack.awaiting)
    if not stack.frames:
        return printable(stack.state)
    frame = stack.frames[-1]
    return printable(f"{frame.function.rpartition('.')[2]} {PurePath(frame.file).name}:{frame.line}")


def no_lines(logs: LogLines) -> str:
    """Return why a task has no log lines."""
    if logs.missing == "early":
        return "it has written no log lines yet"
    return "its log lines were evicted" if logs.missing == "late" else "it has written no log lines"


def log_lines(logs: LogLines, last: int | None = None) -> Iterator[Text]:
    """Yield the last lines of a task's log."""
    if not logs.items:
        return
    shown = logs.items if last is None else logs.items[-last:] if last else []
    earlier = logs.dropped + len(logs.items) - len(shown)
    yield Text("Log" + (f", after {earlier} earlier lines" if earlier else ""), "bold")
    for line in shown:
        yield _log_line(line)


def _log_line(line: Mapping[str, Any]) -> Text:
    level = str(line.get("level", ""))
    text = Text.assemble(
        "  ",
        (printable(str(line.get("at", ""))[11:23]), "dim"),
        f" {printable(level):<8}",
        printable(str(line.get("event", ""))),
        style=_LEVEL_STYLES.get(level, ""),
    )
    for name, value in line.items():
        if name == "exception" and line.get("event") == LOG_FINISHED:
            continue  # the task's own traceback
        if name not in _SAID_ELSEWHERE and value is not None:
            text.append(f"  {printable(name)}=", "dim").append(printable(str(value)))
    return text


def _code_of(task: Task) -> str:
    """Return what became of the code of an abandoned task."""
    if task.code_ended_at is None or task.completed_at is None:
        return "its code may still run"
    return f"its code ended {seconds((task.code_ended_at - task.completed_at).total_seconds())} later"


def _label(name: str) -> Text:
    return Text.assemble((f"  {name:<{_LABEL_WIDTH - 2}}", "dim"))


def _field(name: str, value: str) -> Text:
    return Text.assemble(_label(name), printable(value))


def _first_line(text: str | None) -> str:
    return printable((text or "").partition("\n")[0])
