"""Awaits code that is not ours: returns whatever it raises, and gives it a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

_SLICE_SECONDS: Final = 0.001  # for calls that never wait; then the loop gets its turn


class ContainedCalls:
    """Awaits calls one after the other, each for `deadline_seconds` at most; made by the asyncio task that awaits them.

    One timer watches them all, since a timeout for each costs as much as the call that it guards.
    """

    def __init__(self, deadline_seconds: float) -> None:
        caller = asyncio.current_task()
        assert caller is not None, "only asyncio tasks await"
        self._caller = caller
        self._asked = caller.cancelling()
        self._loop = caller.get_loop()
        self._deadline_seconds = deadline_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0  # the loop's time by which the present call must end
        self._expired = False
        self._slice_ends = 0.0  # by the loop's time

    def begin(self) -> None:
        """Begin a series of calls; call `rest` after it."""
        self._slice_ends = self._loop.time() + _SLICE_SECONDS

    async def let_others_run(self) -> None:
        """Give the loop its turn between two calls once they have used up a slice, for they may never wait."""
        if self._loop.time() >= self._slice_ends:
            self.rest()
            await asyncio.sleep(0)
            self.begin()

    async def outcome_of(self, call: Callable[..., Awaitable[Any]], *args: Any) -> BaseException | None:
        """Await `call(*args)` and return what it raised, None where it returned.

        SystemExit and KeyboardInterrupt are returned too: raised in an asyncio task they would end the loop. Past its
        deadline the call is cancelled and a TimeoutError returned. If the call ignores the cancellation, this waits.

        Raises:
            CancelledError: the caller itself was cancelled, not the code that it awaits.
        """
        self._until = self._loop.time() + self._deadline_seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._until, self._look)
        error: BaseException | None = None
        try:
            await call(*args)
        except GeneratorExit as closed:
            if not _runs(self._caller):  # the caller is being closed, since its loop was
                raise
            error = closed
        except BaseException as raised:  # noqa: BLE001 - theirs, not the caller's
            error = raised
        return error if self._caller.cancelling() == self._asked else self._after_cancel(error)

    def rest(self) -> None:
        """Stop the timer until the next call. Call this before the asyncio task waits for anything else."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _after_cancel(self, error: BaseException | None) -> BaseException | None:
        if self._expired:
            self._expired = False
            if self._caller.uncancel() == self._asked:
                return error and TimeoutError(
                    f"it took longer than {self._deadline_seconds:g} s and was cancelled"
                )
        raise asyncio.CancelledError

    def _look(self) -> None:
        """Cancel the present call if it has passed its deadline."""
        self._timer = None
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._look)
        else:
            self._expired = True
            self._caller.cancel()


async def outcome_of(
    deadline_seconds: float, call: Callable[..., Awaitable[Any]], *args: Any
) -> BaseException | None:
    """Await one call as `ContainedCalls.outcome_of` does."""
    calls = ContainedCalls(deadline_seconds)
    try:
        return await calls.outcome_of(call, *args)
    finally:
        calls.rest()


def _runs(task: asyncio.Task[Any]) -> bool:
    try:
        return asyncio.current_task() is task
    except RuntimeError:  # no loop runs in this thread
        return False
