"""Raises an exception at the n-th call that the manager makes in a step of a task, as SQLite does for malloc.

A profile hook sees each call of a Python function. Python drops a hook that raises; where each later call is to raise
too, a trace hook puts it back before the next line of any frame on the stack.
"""

from __future__ import annotations

import inspect
import sys
import traceback
import typing
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, Final, Self

from qorzen_obs.core.lifecycle import Lifecycle
from qorzen_obs.core.runner import Runner
from qorzen_obs.core.task_manager import TaskManager

_STEPS: Final = (
    Lifecycle.accept,
    Lifecycle.dispatch,
    Lifecycle.cancel,
    Lifecycle._deadline_passed,
    Runner.ended,
    Runner._pass_deadline,
    Runner._end_grace,
    Runner._abandon_after,
)
#: What a step begins with, by its code: it is left when none of these is on the stack.
STEPS: Final[frozenset[CodeType]] = frozenset(
    code for step in _STEPS for code in (step.__code__, inspect.unwrap(step).__code__)
)
#: With what goes before a step, and changes nothing.
CALLS: Final[frozenset[CodeType]] = STEPS | {
    TaskManager.submit_task.__code__,
    TaskManager.cancel_task.__code__,
}

_ROOT: Final = Path(__file__).parents[2]
#: Where nothing is raised: in what observes, whose failures have rules of their own, and in the model.
_OBSERVERS: Final = (
    str(_ROOT / "tests"),
    str(_ROOT / "qorzen_obs" / "telemetry"),
    str(_ROOT / "qorzen_obs" / "core" / "event_feed.py"),
    str(_ROOT / "qorzen_obs" / "core" / "ends.py"),
    str(_ROOT / "qorzen_obs" / "retry.py"),  # where the user's backoff is asked, which may fail
    # Where the user's objects are looked at, whatever they raise.
    str(_ROOT / "qorzen_obs" / "core" / "decision.py"),
    str(_ROOT / "qorzen_obs" / "foreign.py"),
    inspect.__file__,
    # In whose generators Python ignores what is raised.
    typing.__file__,
    traceback.__file__,
)


#: Each function on it with its line.
_Stack = tuple[tuple[CodeType, int], ...]


def _stack_of(frame: FrameType | None) -> _Stack:
    stack = []
    while frame is not None:
        stack.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(stack)


class Interruption:
    """Raises `error` at the `number`-th call of a step inside the block, and at every later one where it `goes_on`.

    The latter ends when the step is left, as when the stack of a caller that recursed too deep is unwound. With the
    number 0 nothing is raised and all calls are seen.
    """

    def __init__(
        self,
        error: type[BaseException],
        number: int,
        *,
        goes_on: bool = False,
        steps: frozenset[CodeType] = STEPS,
    ) -> None:
        self._steps = steps
        self._error = error
        self._number = number
        self._goes_on = goes_on
        self._over = False
        self.where: str | None = None  #: the call at which it was raised first
        self.seen: list[_Stack] = []  #: where the calls up to there were made

    def __enter__(self) -> Self:
        if self._goes_on:
            sys.settrace(self._on_line)
        sys.setprofile(self._on_call)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.setprofile(None)
        sys.settrace(None)

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> None:
        if event != "call" or self._over:
            return
        inside = self._is_inside(frame)
        if self.where is not None:
            if inside is None:
                self._over = True  # the step is left
            elif inside:
                raise self._error("at a later call")
        elif inside:
            self.seen.append(_stack_of(frame))
            if len(self.seen) == self._number:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_qualname}"
                self._over = not self._goes_on
                above: FrameType | None = frame.f_back
                while self._goes_on and above is not None:
                    above.f_trace = self._on_line
                    above = above.f_back
                raise self._error("at a call")

    def _on_line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if self.where is not None and not self._over and sys.getprofile() is None:
            sys.setprofile(self._on_call)
        return self._on_line

    def _is_inside(self, frame: FrameType) -> bool | None:
        """Return whether a step makes this call, False where an observer makes it; None outside of all steps."""
        own, above = not frame.f_code.co_filename.startswith(_OBSERVERS), frame.f_back
        while above is not None:
            if above.f_code in self._steps:
                return own
            own = own and not above.f_code.co_filename.startswith(_OBSERVERS)
            above = above.f_back
        return None
