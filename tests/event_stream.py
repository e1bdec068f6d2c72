"""A client of the event stream: what it reads it checks, and folds into counts as a page would."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.support import until


@dataclass
class Message:
    """One server-sent event; a comment or a mere id has no event."""

    event: str | None = None
    id: str | None = None
    data: Any = None
    lines: list[str] = field(default_factory=list)

    @property
    def sequence(self) -> int:
        """The number in its id."""
        assert self.id is not None
        return int(self.id.rpartition("-")[2])


def parse(block: str) -> Message:
    """Return what one block of lines says."""
    message = Message(lines=block.split("\n"))
    for line in message.lines:
        name, _, value = line.partition(": ")
        if name == "event":
            message.event = value
        elif name == "id":
            message.id = value
        elif name == "data":
            message.data = json.loads(value)
    return message


class Follower:
    """Reads one stream to its end, in a task of its own.

    With `gapless` each task event must have the number after the one before, unless a reset came.
    """

    def __init__(self, *, gapless: bool = True) -> None:
        self.messages: list[Message] = []
        self.counts: Counter[str] = Counter()
        self.statuses: dict[str, str] = {}
        self.last = -1
        self.last_id: str | None = None
        self.ended = False  #: in order, by the server
        self.cut_off = False
        self.problem: str | None = None
        self._gapless = gapless

    def of(self, event: str) -> list[Message]:
        """The messages of one kind."""
        return [message for message in self.messages if message.event == event]

    @property
    def events(self) -> list[tuple[str, str]]:
        """What was told of tasks: kind and name."""
        return [
            (message.event, message.data["task"]["name"])
            for message in self.messages
            if message.event is not None and message.event.startswith("task/")
        ]

    async def read(self, content: aiohttp.StreamReader) -> None:
        """Take everything until the end."""
        text = b""
        try:
            async for chunk in content.iter_any():
                *blocks, text = (text + chunk).split(b"\n\n")
                for block in blocks:
                    self.take(parse(block.decode()))
        except aiohttp.ClientError:
            self.cut_off = True
        else:
            self.ended = True

    def take(self, message: Message) -> None:
        """Fold one message in."""
        self.messages.append(message)
        self.last_id = message.id or self.last_id
        if message.event == "snapshot":
            self._start(message)
        elif message.event is not None and message.event.startswith("task/"):
            self._go_on(message)

    def _start(self, message: Message) -> None:
        self.last = message.sequence
        counts = message.data["counts"]
        self.counts = Counter(counts["by_status"] if counts else {})
        for task in (*message.data["newest"], *message.data["running"]):
            self.statuses[task["task_id"]] = task["status"]

    def _go_on(self, message: Message) -> None:
        expected = self.last + 1
        if self._gapless and self.last >= 0 and message.sequence != expected:
            self.problem = self.problem or f"{message.id} came where {expected} was due"
        self.last = message.sequence
        task = message.data["task"]
        self.statuses[task["task_id"]] = task["status"]
        if message.event != "task/progress":
            if message.data["previous"] is not None:
                self.counts[message.data["previous"]] -= 1
            self.counts[task["status"]] += 1

    async def reaches(self, sequence: int) -> None:
        """Return once the event of this number has come."""
        await until(lambda: self.last >= sequence)

    async def at_its_end(self) -> None:
        """Return once the server has ended the stream, in order."""
        await until(lambda: self.ended)

    async def has(self, event: str, number: int = 1) -> Message:
        """Return the n-th message of one kind once it has come."""
        await until(lambda: len(self.of(event)) >= number)
        return self.of(event)[number - 1]


@asynccontextmanager
async def following(
    url: str,
    *,
    gapless: bool = True,
    query: str = "",
    last_event_id: str | None = None,
    token: str | None = None,
) -> AsyncIterator[Follower]:
    """A follower of the stream of a server; it hangs up at the end of the block."""
    headers = {}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"{url}/api/events{query}", headers=headers) as response,
    ):
        assert response.status == 200, await response.text()
        follower = Follower(gapless=gapless)
        reading = asyncio.create_task(follower.read(response.content))
        try:
            yield follower
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        if not reading.cancelled():
            await reading
    assert follower.problem is None, follower.problem
