"""What the demo shows a person: lines, and on a terminal a live display below them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qorzen_obs.demo.workload import Tally
from qorzen_obs.tasks import TaskInfo, TaskStatus

_REFRESHES_PER_SECOND: Final = 5
_BAR_WIDTH: Final = 30
_SHOWN: Final = (TaskStatus.RUNNING, TaskStatus.PENDING, TaskStatus.COMPLETED, TaskStatus.FAILED)

#: How many tasks the service has now, by status; from any thread.
Counts = Callable[[], Mapping[TaskStatus, int]]


class _Round(NamedTuple):
    number: int
    tally: Tally
    started_at: float  #: monotonic, as all times here


class Screen:
    """Results go to standard output, errors to standard error, the display to whichever of them is a terminal.

    With `as_json`, standard output gets JSON and nothing else. A context manager: the display lives inside it, and
    what is written to sys.stderr meanwhile appears above it.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._results = Console(highlight=False)
        self._errors = Console(stderr=True, highlight=False)
        self._as_json = as_json
        self._terminal: Console | None = None
        if sys.stdout.isatty() and not as_json:
            self._terminal = self._results
        elif sys.stderr.isatty():
            self._terminal = self._errors
        self._live: Live | None = None
        self._counts: Counts = dict
        self._round: _Round | None = None
        self._waits_for_trouble = False
        self._next_at: float | None = None  #: when the next round starts, between rounds
        self._failures_shown: set[str] = set()

    @property
    def is_live(self) -> bool:
        """Whether somebody looks on: what they were shown already need not be said again."""
        return self._terminal is not None

    def __enter__(self) -> Self:
        if self._terminal is not None:
            self._live = Live(
                console=self._terminal,
                get_renderable=self._render,
                refresh_per_second=_REFRESHES_PER_SECOND,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_display()

    def end_display(self) -> None:
        """Take the display away. Idempotent."""
        if self._live is not None:
            self._live.stop()

    # ------------------------------------------------------------------ lines

    def say(self, line: str) -> None:
        """Tell a person; with `as_json` only one who is looking on."""
        console = self._terminal if self._as_json else self._results
        if console is not None:
            console.out(line, highlight=False)

    def give_json(self, document: str) -> None:
        """Write a document to standard output."""
        self._results.out(document, highlight=False)

    def complain(self, line: str) -> None:
        """Write an error."""
        self._errors.out(f"Error: {line}", highlight=False)

    def show_failure(self, file: str, info: TaskInfo) -> None:
        """Show a failure where there is a display, once for each file; elsewhere the log has it."""
        if self._terminal is None or file in self._failures_shown:
            return
        self._failures_shown.add(file)
        line = Text.assemble(
            ("  failed  ", "red"),
            file,
            (f"  {info.error_type}: {' '.join((info.error or '').split())}", "dim"),
        )
        self._terminal.print(line, no_wrap=True, overflow="ellipsis", crop=True)

    # ------------------------------------------------------------------ display

    def watch(self, number: int, tally: Tally, counts: Counts) -> None:
        """Show how a round goes on."""
        self._counts = counts
        self._next_at = None
        self._waits_for_trouble = False
        self._round = _Round(number, tally, time.monotonic())

    def wait_for_trouble(self) -> None:
        """Show that the files are done, and that what goes wrong on purpose is not."""
        self._waits_for_trouble = True

    def rest(self, seconds: float) -> None:
        """Show that the next round starts in `seconds`."""
        self._next_at = time.monotonic() + seconds

    def _render(self) -> Group | Text:
        """Called by the display's own thread."""
        if self._round is None:
            return Text("")
        number, tally, started_at = self._round
        if self._next_at is not None:
            left = self._next_at - time.monotonic()
            when = f"in {max(0, math.ceil(left))} s" if left < math.inf else "never"
            return Text(f"\nround {number + 1} {when}; Ctrl-C stops", style="dim")
        if self._waits_for_trouble:
            return Group(
                Text(f"\nround {number}: all {tally.done:,} files are surveyed, the trouble goes on"),
                self._tasks(),
            )
        seconds = time.monotonic() - started_at
        rate = tally.done / seconds if seconds else 0.0
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            f"round {number}",
            ProgressBar(tally.files or None, tally.done, width=_BAR_WIDTH, pulse=not tally.files),
            f"{tally.done:,} of {tally.files:,} files" if tally.files else "looking for files",
            f"{rate:,.0f} files/s",
            f"{(tally.files - tally.done) / rate:.0f} s left" if rate else "",
        )
        return Group(Text(""), bar, self._tasks())

    def _tasks(self) -> Text:
        counts = self._counts()
        tasks = Text("tasks    ")
        for status in _SHOWN:
            style = "red" if status is TaskStatus.FAILED and counts[status] else ""
            tasks.append(f"{counts[status]:,} {status.value}   ", style)
        return tasks
