"""Finds what runs on a loop's thread right now: the task whose code it is, or the name of a foreign callback.

Used from another thread while the loop is blocked. The task is found through the context in which the loop runs the
present callback, so callbacks that a task has started (asyncio tasks, `call_later`) count as the task's.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextvars import Context
from types import FrameType
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.current import CURRENT
from qorzen_obs.record import Attempt
from qorzen_obs.stacks import (
    Frames,
    Place,
    back_of,
    context_of,
    describe_task,
    is_handle_run,
    is_of_engines,
    places_of,
    shown,
    thread_frame,
    unmoved,
    users_frames,
    variables_of,
)

THE_LOOP: Final = "the event loop itself"
ANOTHER_THREAD: Final = "another thread, which held the interpreter"
NOBODY: Final = "nobody: the process did not get to run"
UNSEEN: Final = "code that held the interpreter, so that nobody could look"


class Culprit:
    """What holds the loop. `attempt` is None for code outside any task. `dump` returns a better stack, if any."""

    def __init__(
        self,
        name: str,
        attempt: Attempt | None,
        places: list[Place],
        dump: Callable[[], Frames] = tuple,
    ) -> None:
        self.name = name
        self.attempt = attempt
        #: Kept here, since the attempt drops it at its end.
        self.context = None if attempt is None else attempt.context
        self._places = places
        self._dump = dump

    @functools.cached_property
    def frames(self) -> Frames:
        """Where it was seen. The first read opens source files."""
        return users_frames(self._dump()) or shown(self._places)

    @property
    def place(self) -> str:
        """Where it was seen, without the text of the line: reads no file. Empty when that is not known."""
        if not self._places:
            return ""
        code, line = self._places[0]
        return f'File "{code.co_filename}", line {line}, in {code.co_qualname}'

    @property
    def category(self) -> str | None:
        """The task's category, None outside any task."""
        return None if self.attempt is None else self.attempt.category.value

    @functools.cached_property
    def kind(self) -> str:
        """A name that stays the same from one task to the next: that of the callable, if there is one."""
        func = None if self.attempt is None else self.attempt.record.func
        return self.name if func is None else foreign.full_name_of(foreign.inside_partial(func))

    def is_same(self, other: Culprit) -> bool:
        """Return whether it is the same code, even at another line."""
        return self.attempt is other.attempt and self.name == other.name


def find_culprit(
    loop: asyncio.AbstractEventLoop, thread_id: int, dump: Callable[[], Frames] = tuple
) -> Culprit:
    """Return what runs on `loop`, whose thread is `thread_id`; from any other thread. `dump` is as in Culprit.

    It neither waits nor reads a file: code that held the interpreter continues as soon as this thread releases it.
    """
    innermost = thread_frame(thread_id)
    handle = _handle_of(innermost)
    if handle is not None:
        attempt, name = _attempt_in(handle._context), _name_of(handle._callback)
    else:  # uvloop shows no frame of its own
        attempt, name = _of_current_task(loop)
    attempt = _of_engine(innermost) or attempt
    places = places_of(innermost, _is_outside)
    del innermost, handle  # or they would live as long as this thread sleeps
    if attempt is not None:
        name = attempt.name
    return Culprit(name, attempt, places, dump)


def _is_outside(frame: FrameType) -> bool:
    return is_handle_run(frame) or is_of_engines(frame)


def _handle_of(frame: FrameType | None) -> Any:
    while frame is not None:
        if is_handle_run(frame):
            return unmoved(variables_of, frame).get("self")
        frame = unmoved(back_of, frame)
    return None


def _attempt_in(context: Context | None) -> Attempt | None:
    attempt = None if context is None else context.get(CURRENT)
    return attempt if foreign.is_a(attempt, Attempt) else None


def _of_current_task(loop: asyncio.AbstractEventLoop) -> tuple[Attempt | None, str]:
    task = asyncio.current_task(loop)
    if task is None:
        return None, THE_LOOP
    return _attempt_in(context_of(task)), describe_task(task)


def _of_engine(frame: FrameType | None) -> Attempt | None:
    """Return the attempt that an engine runs on the loop's thread; its asyncio task, if any, is the engine's own."""
    while frame is not None:
        if is_of_engines(frame):
            attempt = unmoved(variables_of, frame).get("attempt")
            return attempt if foreign.is_a(attempt, Attempt) else None
        frame = unmoved(back_of, frame)
    return None


def _name_of(callback: Any) -> str:
    """Return a callback's qualified name; for a step of an asyncio task, the name of its coroutine."""
    owner = foreign.attribute(callback, "__self__")
    if foreign.is_a(owner, asyncio.Task):
        return describe_task(owner)
    return foreign.full_name_of(foreign.inside_partial(callback))
