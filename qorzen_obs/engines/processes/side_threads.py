"""Threads beside the loop, for work that takes long or runs user code that may never end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from qorzen_obs.engines.base import exit_refuses

_MAX_IDLE: Final = 4
_LOOK_SECONDS: Final = 0.5  # as for the threads that run callables

#: Runs on a thread, raises nothing, and returns what is to be called on the loop afterwards.
Work = Callable[[], Callable[[], None]]


class SideThreads:
    """Daemon threads, one for each piece of concurrent work. A stuck thread blocks no other work.

    Starting a thread takes 60 µs and waking one 20, so a few are kept. Belongs to the work loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._idle: list[SimpleQueue[Work | None]] = []
        self._closed = False

    def run(self, work: Work) -> None:
        """Run `work` on a thread, then what it returns on the loop; run it here if the interpreter exits.

        Raises:
            RuntimeError: the system has no more threads.
        """
        try:
            inbox = self._idle.pop() if self._idle else self._start()
        except RuntimeError as error:
            if not exit_refuses(error):
                raise
            self._loop.call_soon(work())
        else:
            inbox.put(work)

    def close(self) -> None:
        """End the threads; busy ones end after their work."""
        self._closed = True
        for inbox in self._idle:
            inbox.put(None)
        self._idle.clear()

    def _start(self) -> SimpleQueue[Work | None]:
        inbox: SimpleQueue[Work | None] = SimpleQueue()
        threading.Thread(target=self._serve, args=(inbox,), name="qorzen-pickle", daemon=True).start()
        return inbox

    def _serve(self, inbox: SimpleQueue[Work | None]) -> None:
        work = inbox.get()
        while work is not None:
            answers = [work()]
            work = None  # a result must not stay alive until the next one
            work = self._exchange(inbox, answers)

    def _exchange(self, inbox: SimpleQueue[Work | None], answers: list[Callable[[], None]]) -> Work | None:
        """Wake the loop to take what is in `answers`; return its reply: work, or None to end.

        The loop is called again when it takes nothing: its callback may have been interrupted before its first line,
        and nobody else would learn of that.
        """
        seconds = _LOOK_SECONDS
        while answers:
            try:
                self._loop.call_soon_threadsafe(self._done, inbox, answers)
            except BaseException:  # noqa: BLE001 - such as MemoryError: it is tried again
                if self._loop.is_closed():  # nobody is left to notify
                    return None
            with suppress(Empty):
                return inbox.get(timeout=seconds)
            seconds *= 2  # as there
        return inbox.get()

    def _done(self, inbox: SimpleQueue[Work | None], answers: list[Callable[[], None]]) -> None:
        if not answers:  # it was notified twice
            return
        then = answers.pop()
        if self._closed or len(self._idle) >= _MAX_IDLE:
            inbox.put(None)
        else:
            self._idle.append(inbox)
        then()
