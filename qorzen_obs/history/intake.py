"""What the work loop hands to the writer of a durable history: a queue that costs the loop two reads and an append.

Any thread may add; one thread takes.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from qorzen_obs.record import End, TaskEvent, TaskRecord


class Offer(NamedTuple):
    """A record that is to be on disk before its task is accepted."""

    record: TaskRecord
    at: float  #: Unix seconds
    future: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class Withdrawal(NamedTuple):
    """An offered record whose task was not accepted after all."""

    record: TaskRecord


Change = TaskEvent | End | Offer | Withdrawal


class Intake:
    """The changes that the writer has not taken yet, and its wake-up calls."""

    def __init__(self) -> None:
        self.queue: deque[Change] = deque()
        self._called = False  # reading this costs a tenth of setting an Event again
        self._hurried = False
        self._calls = threading.Event()
        self._hurries = threading.Event()

    def add(self, change: Change) -> None:
        """Add one change; the writer takes it within some milliseconds."""
        self.queue.append(change)
        if not self._called:
            self.call()

    def extend(self, changes: Iterable[Change]) -> None:
        """Add several changes."""
        self.queue.extend(changes)
        if not self._called:
            self.call()

    def call(self) -> None:
        """Wake the writer, which may wait for more to come."""
        self._called = True
        self._calls.set()

    def hurry(self) -> None:
        """Wake the writer, which shall not wait: somebody waits for it."""
        if not self._hurried:
            self._hurried = True
            self._hurries.set()
            self.call()

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to do, for so long at most; return whether there is. The writer's."""
        return self._calls.wait(seconds)

    def gather(self, seconds: float) -> None:
        """Wait for more changes, which then share a commit, unless somebody is in a hurry. The writer's."""
        self._hurries.wait(seconds)

    def begin(self) -> None:
        """Prepare to take what is there: whatever is added from now on calls again. The writer's."""
        self._calls.clear()
        self._called = False
        self._hurries.clear()
        self._hurried = False
