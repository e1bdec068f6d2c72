"""The work loop's pulse: a timer that should run every 25 ms, how late it is, and what delays it.

The timer runs on the work loop. A blocked loop cannot report that itself, so a thread watches it (watchdog.py). A
block leads to an event on the culprit's span, a log line while it lasts, seconds by category, and a result in /livez.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from qorzen_obs.clock import Clock, SystemClock
from qorzen_obs.record import Attempt
from qorzen_obs.stacks import Frames, text_of
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.block_lines import BlockLines
from qorzen_obs.telemetry.culprit import NOBODY, UNSEEN, Culprit
from qorzen_obs.telemetry.gil_watch import GilWatch
from qorzen_obs.telemetry.peaks import Peaks
from qorzen_obs.telemetry.standstill import HELD_SECONDS, SOME
from qorzen_obs.telemetry.watchdog import CODE, GIL_HELD, NOT_RUNNING, NOTICE_SECONDS, Finding, Watchdog
from qorzen_obs.telemetry.way import Way

INTERVAL_SECONDS: Final = 0.025  #: seconds between two beats of a watched loop
UNWATCHED_INTERVAL_SECONDS: Final = 0.1
STACK_SECONDS: Final = 0.5  #: from this length on a line about a block has the stack
LONG_SECONDS: Final = 1.0  #: the end of a longer block is logged too
MAX_STACK_TEXT: Final = 8_000
PEAK_SECONDS: Final = 60.0  #: how long the worst lag is remembered
KEPT_BLOCKS: Final = 20  #: how many of the last ended blocks are remembered
_KEPT_FRAMES: Final = 4  # frames kept of each: the outermost, which is the task's own, and the innermost ones


class Block:
    """A stretch of time in which one culprit held the loop. While it lasts, `seconds` count up to now."""

    __slots__ = (
        "_redact",
        "cause",
        "culprit",
        "ended",
        "kept",
        "logged",
        "on_span",
        "since",
        "stack",
        "stack_seen",
    )

    def __init__(
        self, culprit: Culprit, cause: str, since: float, redact: Callable[[str], str] = str
    ) -> None:
        self._redact = redact
        self.culprit = culprit
        self.cause = cause
        self.since = since  #: monotonic
        self.ended: float | None = None  #: monotonic
        self.stack: str | None = None  #: as text, once the watchdog has made it
        self.on_span = False  #: its span already has the event
        self.logged = False
        self.stack_seen = False  #: whether to show the stack in a line has been decided
        self.kept = False  #: among the ended blocks

    @property
    def seconds(self) -> float:
        return max(0.0, (time.monotonic() if self.ended is None else self.ended) - self.since)

    @property
    def name(self) -> str:
        """The name of what holds the loop; for an asyncio task it is the program's own text."""
        return self._redact(self.culprit.name)

    @property
    def label(self) -> str:
        """Its label in LOOP_BLOCKED."""
        return self.cause if self.cause != CODE else self.culprit.category or names.FOREIGN

    @property
    def line(self) -> str:
        """Where the loop was seen, in one line; empty when that is not known."""
        if not self.culprit.frames:
            return ""
        frame = self.culprit.frames[-1]
        code = "" if frame.code is None else f": {frame.code}"
        return self._redact(f"{frame.file}:{frame.line} in {frame.function}{code}")


class EndedBlock(NamedTuple):
    """The remembered data of a block, which keeps nothing of the task alive."""

    began: float  #: Unix seconds
    seconds: float
    cause: str
    culprit: str
    task_id: str | None = None
    category: str | None = None
    frames: Frames = ()


def _ends_of(frames: Frames) -> Frames:
    """Return the frames of a stack that matter to a person, the innermost last."""
    return frames if len(frames) <= _KEPT_FRAMES else (*frames[:1], *frames[1 - _KEPT_FRAMES :])


class LoopMonitor:
    """Measures how late the running loop runs a timer, and finds what blocks the loop.

    Args:
        clock: the watchdog needs the system's clock; with any other there is no watchdog.
        on_lag: called with how late each beat was, in seconds.
        on_blocked: called twenty times a second while the loop is blocked, on the watchdog's thread.
        log: writes a line, `log(event, **fields)`.
        on_error: called with errors in this class.
        redact: applied to each text of a stack before it is shown.
    """

    def __init__(
        self,
        clock: Clock,
        on_lag: Callable[[float], None],
        *,
        log: Callable[..., object],
        on_error: Callable[[BaseException], None],
        on_blocked: Callable[[], object] = lambda: None,
        redact: Callable[[str], str] = str,
        gil_watch: GilWatch | None = None,
        watch: bool = True,
    ) -> None:
        self._clock = clock
        self._on_lag = on_lag
        self._log = log
        self._on_error = on_error
        self._on_blocked = on_blocked
        self._redact = redact
        self._gil_watch = gil_watch
        self._watches = watch and isinstance(clock, SystemClock)
        self._interval = INTERVAL_SECONDS if self._watches else UNWATCHED_INTERVAL_SECONDS
        self._watchdog: Watchdog | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._way: Way | None = None
        self._lock = threading.Lock()  # held for a few assignments at a time
        self.due: float | None = None  #: when the next beat should come, monotonic
        self._cpu = 0.0  # the process's reading at the last beat
        self._block: Block | None = None
        # the watchdog is creating the text of its stack; the block may be over by now
        self._unread: Block | None = None
        self._peaks = Peaks(PEAK_SECONDS)
        self._ended_blocks: deque[EndedBlock] = deque(maxlen=KEPT_BLOCKS)
        self._seconds = dict.fromkeys(names.LOOP_BLOCKED_BY, 0.0)
        self._scraped_at = 0.0  # monotonic
        self._lines = BlockLines()

    def start(self) -> None:
        """Begin to watch the running loop."""
        loop = asyncio.get_running_loop()
        self._schedule(loop)
        if self._watches:
            self._way = Way(loop)
            self._watchdog = Watchdog(loop, self, self._blocked, self._on_error, self._gil_watch)
            self._watchdog.start()

    def stop(self) -> None:
        """Stop watching; idempotent and safe before start. On the loop; returns when the thread has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._way is not None:
            self._way.stop()
        self._turned(None)
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None

    # ------------------------------------------------------------------ from any thread

    def blocked_seconds(self) -> float:
        """Return how long the loop has been overdue; 0 when it turns or is not watched."""
        due = self.due
        return 0.0 if due is None else max(0.0, self._clock.monotonic() - due)

    def worst_lag(self, since: float) -> float:
        """Return the largest lag of the loop since a moment of the clock, at most a minute ago."""
        return max(self._peaks.since(since), self.blocked_seconds())

    @property
    def block(self) -> Block | None:
        """The present block of the loop, once it was noticed."""
        return self._block

    def ended_blocks(self) -> list[EndedBlock]:
        """Return the last ended blocks, oldest first."""
        with self._lock:
            return list(self._ended_blocks)

    def seconds_by_category(self) -> dict[str, float]:
        """Return how long the loop was held in all, including a present block; no value ever decreases."""
        with self._lock:
            self._scraped_at = time.monotonic()
            seconds, block = dict(self._seconds), self._block
            if block is not None:
                # Up to that very moment, where `_blocked` may end it: to Prometheus a decrease is a restart.
                seconds[block.label] += max(0.0, self._scraped_at - block.since)
        return seconds

    def stack_text(self, culprit: Culprit) -> str:
        """Return the culprit's stack as text: the only place where it enters a log line or a span."""
        text = self._redact(text_of(culprit.frames))
        return text if len(text) <= MAX_STACK_TEXT else "…" + text[-MAX_STACK_TEXT:]

    # ------------------------------------------------------------------ on the loop

    def on_attempt_ends(self, attempt: Attempt) -> None:
        """Record a block of the loop on the span of its attempt, which is about to end. O(1): reads no file."""
        now, unread = self._block, self._unread
        if now is None and unread is None:
            return
        for block in (now, unread):
            if block is not None and block.culprit.attempt is attempt:
                self._write_to_span(block, at_once=True)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        due = self._clock.monotonic() + self._interval
        self._turned(due)
        self._cpu = time.process_time()
        if self._watchdog is not None:
            self._watchdog.note_beat()
        self._timer = loop.call_later(self._interval, self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        late = self.blocked_seconds()
        self._on_lag(late)
        self._peaks.add(self._clock.monotonic(), late)
        if late >= NOTICE_SECONDS + HELD_SECONDS and self._watchdog is not None and self._block is None:
            could_run = late - self._watchdog.delayed()
            used = time.process_time() - self._cpu
            self._report_unseen(late, ran=could_run >= NOTICE_SECONDS and used >= SOME * could_run)
        if self._way is not None:
            self._way.look()
        self._schedule(loop)

    def _report_unseen(self, late: float, *, ran: bool) -> None:
        """Report a block that the watchdog did not see before the loop turned again.

        If the process ran meanwhile, code held the interpreter.
        """
        dump = self._gil_watch.read if ran and self._gil_watch is not None else tuple
        culprit = Culprit(UNSEEN if ran else NOBODY, None, [], dump)
        now = time.monotonic()
        block = Block(culprit, GIL_HELD if ran else NOT_RUNNING, now - late, self._redact)
        with self._lock:
            self._end(block, now)
        self._report_begin(block)

    def _turned(self, due: float | None) -> None:
        """End the present block, since the loop runs."""
        with self._lock:
            self.due = due
            block, self._block = self._block, None
            if block is not None:
                self._end(block, time.monotonic())
        if block is not None:
            self._report_end(block)

    # ------------------------------------------------------------------ on the watchdog's thread

    def _blocked(self, finding: Finding) -> None:
        self._on_blocked()
        due, since, cause, culprit = finding
        with self._lock:
            if self.due != due:  # it turned meanwhile
                return
            before = self._block
            if before is not None and before.cause == cause and before.culprit.is_same(culprit):
                block = None
            else:
                if before is not None:
                    if cause == CODE and before.cause != NOT_RUNNING:
                        since = time.monotonic()
                    since = max(before.since, self._scraped_at, since)
                    self._end(before, since)
                block = self._block = self._unread = Block(culprit, cause, since, self._redact)
        if block is not None:
            if before is not None:
                self._report_end(before)
            self._report_begin(block)
        elif before is not None:
            self._log_stack(before)

    # ------------------------------------------------------------------ what a block leads to

    def _end(self, block: Block, at: float) -> None:
        block.ended = max(at, block.since)
        self._seconds[block.label] += block.seconds

    def _report_begin(self, block: Block) -> None:
        # Here, so that the loop does not read files.
        stack = self.stack_text(block.culprit)
        with self._lock:
            block.stack = stack
            if self._unread is block:
                self._unread = None
            over = block.ended is not None
        if over:
            self._write_to_span(block)
            self._keep(block)
        if block.seconds >= STACK_SECONDS:  # its end will be seen
            self._log_stack(block)
        elif (count := self._let(block, "begin")) is not None:
            self._write(block, count=count)

    def _log_stack(self, block: Block) -> None:
        """Log a block that has become long enough for its stack, once."""
        with self._lock:
            stack = block.stack
            if stack is None or block.stack_seen or block.seconds < STACK_SECONDS:
                return
            block.stack_seen = True
        if (count := self._let(block, "stack")) is not None:
            self._write(block, count=count, stack=stack)

    def _let(self, block: Block, line: str) -> int | None:
        with self._lock:
            count = self._lines.let((line, block.cause, block.culprit.kind), time.monotonic())
        if count is not None:
            block.logged = True
        return count

    def _report_end(self, block: Block) -> None:
        self._log_stack(block)
        self._write_to_span(block)
        self._keep(block)
        if block.logged and block.seconds > LONG_SECONDS:
            self._write(block, over=True)

    def _keep(self, block: Block) -> None:
        """Remember an ended block. If its stack is not ready, leave it to the watchdog, which is creating the stack."""
        attempt = block.culprit.attempt
        with self._lock:
            if block.stack is None or block.kept:
                return
            block.kept = True
            self._ended_blocks.append(
                EndedBlock(
                    began=self._clock.now() - (time.monotonic() - block.since),
                    seconds=block.seconds,
                    cause=block.cause,
                    culprit=block.name,
                    task_id=None if attempt is None else attempt.task_id,
                    category=block.culprit.category,
                    frames=_ends_of(block.culprit.frames),  # they exist: the stack was made from them
                )
            )

    def _write(self, block: Block, **fields: Any) -> None:
        context = block.culprit.context
        fields = {"seconds": round(block.seconds, 3), "cause": block.cause, "culprit": block.name, **fields}
        try:
            if context is None:
                self._log(names.LOG_LOOP_BLOCKED, **fields)
            else:  # in a copy of its context, since the loop may be in that one: the line gets the task and its trace
                context.copy().run(self._log, names.LOG_LOOP_BLOCKED, **fields)
        except BaseException as error:  # noqa: BLE001 - observation must not break the observed
            self._on_error(error)

    def _write_to_span(self, block: Block, *, at_once: bool = False) -> None:
        """Report a block. Unless `at_once`, leave one whose stack is not ready to the watchdog, which creates it."""
        attempt = block.culprit.attempt
        with self._lock:
            stack = block.stack
            if stack is None and not at_once:
                return
            written, block.on_span = block.on_span, True
        span = None if attempt is None else attempt.span
        if written or attempt is None or span is None or not span.is_recording():
            return  # the last case: the loop was held in the attempt's context after its end, by code that follows it
        began = attempt.started_wall + max(0.0, block.since - attempt.started_at)
        attributes: dict[str, str | float] = {
            names.BLOCKED_SECONDS: round(block.seconds, 6),
            names.BLOCKED_CAUSE: block.cause,
            names.STACKTRACE: self._redact(block.culprit.place) if stack is None else stack,
        }
        try:
            span.add_event(names.LOOP_BLOCKED_EVENT, attributes, int(began * 1e9))
        except BaseException as error:  # noqa: BLE001 - as above
            self._on_error(error)
