"""GET /api/events: what happens to tasks, as server-sent events.

One timer serves all streams: every 100 ms it lets them see what came meanwhile, each event encoded once. A stream
holds no queue, only its place in the manager's ring of events: one that falls behind the ring says so and starts over,
one whose client does not read is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web
from msgspec import Struct
from prometheus_client import Metric
from prometheus_client.registry import Collector

from qorzen_obs.arguments import parse_category
from qorzen_obs.clock import rfc_3339
from qorzen_obs.counts import CountsView
from qorzen_obs.record import TaskEvent, TaskRecord
from qorzen_obs.server.documents import Moment, Task, encode_json, now, task_line
from qorzen_obs.server.problems import ProblemError, problem
from qorzen_obs.server.query import BAD_PARAMETER, check_parameters, read_choices, read_names
from qorzen_obs.server.routes import ANSWERED_AT, Access, Answer, Parameter, Route, Tag
from qorzen_obs.server.sources import LOOKS, Looks
from qorzen_obs.tasks import EventKind, TaskCategory, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.families import counter, gauge
from qorzen_obs.telemetry.own_log import OwnLog

logger = OwnLog(__name__)

BATCH_SECONDS: Final = 0.1
#: How often a quiet stream is written to, for proxies and clients that give up on a silent one.
HEARTBEAT_SECONDS: Final = 15.0
#: How many ticks, a second in all, a client may leave its stream unread. Ticks and not time, since the loop itself
#: may have stood still.
STALLED_TICKS: Final = 8
#: How long a stream waits until the work loop keeps events. A blocked loop does not, and has no events either.
BEGIN_SECONDS: Final = 1.0
#: How long events are kept after the last client has left, so that it can come back.
LINGER_SECONDS: Final = 60.0
#: Of the connections that the ops plane takes, so that scrapes and probes always find one.
MAX_STREAMS: Final = 384
MAX_BATCH_EVENTS: Final = 256
#: Bytes written before the stream checks whether the client reads. asyncio buffers at most 64 KiB besides.
MAX_PIECE_BYTES: Final = 32 * 1024
#: What the system may buffer for a client; by default it would be megabytes. Linux takes twice this.
SEND_BUFFER_BYTES: Final = 64 * 1024
NEWEST: Final = 200
MAX_RUNNING: Final = 200
LAST_ENDED: Final = 25  #: of all that have ended, and of those that failed

CONTENT_TYPE: Final = "text/event-stream"
_MOST_SHARED: Final = 16
RETRY_MILLISECONDS: Final = 1_000  #: after how long a browser's EventSource reconnects

Place = tuple[int, bytes]  #: the sequence of the last event that was sent, and what to write to get there


class Counts(Struct, frozen=True, kw_only=True):
    """How many tasks there are, as `status()` says: pending and running now, the others since the start."""

    total: int
    by_status: dict[TaskStatus, int]
    by_category: dict[TaskCategory, int]
    by_priority: dict[str, int]
    pending_by_priority: dict[str, int]
    pending_by_category: dict[TaskCategory, int]
    running_by_category: dict[TaskCategory, int]


class Snapshot(Struct, frozen=True, kw_only=True):
    """Where a stream begins.

    The counts are those right after the event that its id names. A task may be further already: the next events
    tell how it got there.
    """

    state: str  #: the manager's
    at: Moment
    counts: Counts | None  #: None where tasks were asked for by their id
    running: list[Task]  #: the newest MAX_RUNNING of them
    newest: list[Task]  #: those of the newest NEWEST tasks that do not run
    #: The LAST_ENDED kept tasks that ended last and the LAST_ENDED that failed last, without those in `newest`; the
    #: last end first.
    ended: list[Task]


class Happened(Struct, frozen=True, kw_only=True):
    """One event: what happened, and the task as it was right after."""

    kind: EventKind
    at: Moment
    previous: TaskStatus | None  #: None for submitted
    task: Task


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which tasks a client follows: in each field one of the values must fit; an empty field fits always."""

    categories: frozenset[TaskCategory] = frozenset()
    task_ids: frozenset[str] = frozenset()

    def matches(self, task: TaskRecord) -> bool:
        """Return whether a task is asked for."""
        return (not self.categories or task.category in self.categories) and (
            not self.task_ids or task.task_id in self.task_ids
        )


class Streams:
    """The open streams of one application, and the timer that serves them while there are any.

    Everything here runs on the loop that serves them.
    """

    def __init__(self, looks: Looks) -> None:
        self.looks = looks
        self.ring = looks.event_ring
        self.position = 0  #: the last event that streams may see, moved by the timer
        self.state = ""
        self.beat = 0  #: rises when every stream shall be written to
        self.closing = False
        self._kept: Future[None] = Future()
        self._open: set[Stream] = set()
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._beat_at = 0.0
        # What was made since the last tick, for the next stream that asks.
        self._shared: dict[tuple[int | None, Wanted], Place | None] = {}
        self._frames: dict[int, bytes] = {}  # of events, by sequence

    @contextlib.contextmanager
    def opened(self, stream: Stream) -> Iterator[None]:
        """Count a stream among the open ones; the first starts the timer.

        Raises:
            ProblemError: there are MAX_STREAMS, or the server stops.
        """
        if self.closing or len(self._open) >= MAX_STREAMS:
            detail = (
                "the server is stopping"
                if self.closing
                else f"no more than {MAX_STREAMS} streams may be open"
            )
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={hdrs.RETRY_AFTER: "5"})
        self._open.add(stream)
        self.ring.stream_opened()
        if len(self._open) == 1:
            self._kept = self.ring.listen(self)
            self._beat_at = asyncio.get_running_loop().time() + HEARTBEAT_SECONDS
            self._tick()
        try:
            yield
        finally:
            self._open.discard(stream)
            self.ring.stream_closed()
            if not self._open:
                self._end_listening()

    def _end_listening(self) -> None:
        """Drop the events when nobody listens: later, since a client may come back, or at once at the end."""
        if self.closing:
            self._rest()
        else:
            self._set_timer(LINGER_SECONDS)

    async def kept(self) -> None:
        """Return when events are kept, or after BEGIN_SECONDS: what happens before they are is lost to a stream."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_SECONDS):
                await asyncio.shield(asyncio.wrap_future(self._kept))

    async def change(self) -> None:
        """Return after the next tick at which there is something to see."""
        await self._changed.wait()

    def close(self) -> None:
        """Let the streams see what has happened, and end; the last of them drops the events."""
        self.closing = True
        self._look()
        if self._timer is not None:
            self._timer.cancel()
        if not self._open:
            self.ring.leave(self)

    def batch(self, after: int, wanted: Wanted) -> Place | None:
        """Return the next events after `after`, encoded; None when one of them is gone from the ring."""
        key = (after, wanted)
        if key not in self._shared:
            events = self.ring.since(after, min(self.position - after, MAX_BATCH_EVENTS))
            self._share(key, None if events is None else self._encoded(events, wanted))
        return self._shared[key]

    def snapshot(self, wanted: Wanted) -> Place:
        """Return how things stand, encoded."""
        key = (None, wanted)
        found = self._shared.get(key)
        if found is None:
            sequence, counts = self.ring.counted()
            document = self._snapshot(counts, wanted)
            found = sequence, self.frame("snapshot", document, sequence)
            self._share(key, found)
        return found

    def frame(self, event: str, document: object, sequence: int | None = None) -> bytes:
        """Return one server-sent event."""
        head = b"" if sequence is None else b"id: %b\n" % self.event_id(sequence)
        return b"%bevent: %b\ndata: %b\n\n" % (head, event.encode(), encode_json(document))

    def event_id(self, sequence: int) -> bytes:
        """Return the id of an event, which tells it from those of another looks."""
        return f"{self.ring.instance}-{sequence}".encode()

    def place_of(self, event_id: str) -> int | None:
        """Return the sequence that an id stands for; None where this manager has not given it out."""
        instance, _, digits = event_id.rpartition("-")
        if instance != self.ring.instance or not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            return None
        return int(digits) if int(digits) <= self.ring.last else None

    def _share(self, key: tuple[int | None, Wanted], place: Place | None) -> None:
        if len(self._shared) >= _MOST_SHARED:
            self._shared.clear()
        self._shared[key] = place

    def _encoded(self, events: list[TaskEvent], wanted: Wanted) -> Place:
        frames = (self._frame_of(event) for event in events if wanted.matches(event.record))
        return events[-1].sequence, b"".join(frames)

    def _frame_of(self, event: TaskEvent) -> bytes:
        frame = self._frames.get(event.sequence)
        if frame is None:
            document = Happened(
                kind=event.kind,
                at=rfc_3339(event.at),
                previous=event.previous,
                task=task_line(event.info),
            )
            frame = self.frame(event.kind.value, document, event.sequence)
            if len(self._frames) >= _MOST_SHARED * MAX_BATCH_EVENTS:
                self._frames.clear()
            self._frames[event.sequence] = frame
        return frame

    def _snapshot(self, counts: CountsView, wanted: Wanted) -> Snapshot:
        records = [record for record in self.looks.records() if wanted.matches(record)]
        seen = [(record, record.state) for record in records]
        running = [one for one in seen if one[1].status is TaskStatus.RUNNING][:MAX_RUNNING]
        newest = [one for one in seen[:NEWEST] if one[1].status is not TaskStatus.RUNNING]
        told = {record.sequence for record, _ in newest}
        return Snapshot(
            state=self.looks.state.value,
            at=now(),
            counts=None if wanted.task_ids else _counts_of(counts, wanted.categories),
            running=[task_line(record.info(state)) for record, state in running],
            newest=[task_line(record.info(state)) for record, state in newest],
            ended=[
                task_line(record.info()) for record in self._last_ended(wanted) if record.sequence not in told
            ],
        )

    def _last_ended(self, wanted: Wanted) -> Iterator[TaskRecord]:
        """Yield the kept tasks that ended last and those that failed last, the last end first."""
        ended = failed = 0
        for record in reversed(self.looks.kept_records()):
            if not wanted.matches(record):
                continue
            is_failed = record.state.status is TaskStatus.FAILED
            if ended < LAST_ENDED or (is_failed and failed < LAST_ENDED):
                yield record
            ended += 1
            failed += is_failed
            if min(ended, failed) >= LAST_ENDED:
                return

    def _tick(self) -> None:
        try:
            self._look()
        finally:
            self._set_timer(BATCH_SECONDS)

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._tick if self._open else self._rest)

    def _rest(self) -> None:
        """Nobody has come back: the manager need keep no events any more."""
        self.ring.leave(self)
        self._drop_shared()

    def _drop_shared(self) -> None:
        self._shared.clear()
        self._frames.clear()

    def _look(self) -> None:
        """Move on to what has happened, cut off clients that do not read, and wake those who wait."""
        self._drop_shared()
        time_now = asyncio.get_running_loop().time()
        before = (self.position, self.state, self.beat)
        self.position = self.ring.last
        self.state = self.looks.state.value
        if time_now >= self._beat_at:
            self.beat += 1
            self._beat_at = time_now + HEARTBEAT_SECONDS
        gone = False
        for stream in self._open:
            if stream.tick():
                self.ring.stream_evicted()
                stream.abort()
            gone = gone or stream.gone
        if gone or self.closing or before != (self.position, self.state, self.beat):
            self._changed.set()  # wakes all who wait now
            self._changed.clear()


class Stream:
    """One client's stream."""

    def __init__(self, request: web.Request, response: web.StreamResponse, wanted: Wanted) -> None:
        self._writing = False
        self._unread_ticks = 0  # how many ticks have found it writing the same piece
        self._streams = request.app[STREAMS]
        self._request = request
        self._response = response
        self._wanted = wanted
        self._place = 0  # the last event that its client knows of
        self._state = ""
        self._beat = self._streams.beat

    @property
    def gone(self) -> bool:
        """Whether its connection is closed, or about to be."""
        transport = self._request.transport
        return transport is None or transport.is_closing()

    def tick(self) -> bool:
        """Count a tick of the timer; return True at the tick that finds the client stalled."""
        if not self._writing:
            return False
        self._unread_ticks += 1
        return self._unread_ticks == STALLED_TICKS

    def abort(self) -> None:
        """Cut the client off."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def follow(self) -> None:
        """Write what happens until the client goes or the server stops.

        Raises:
            ConnectionError: the client has gone in the middle of something.
        """
        streams = self._streams
        await self._write(b"retry: %d\n\n" % RETRY_MILLISECONDS)
        await streams.kept()
        await self._begin()
        while not self.gone:
            if self._place < streams.position:
                await self._write_events()
            elif self._state != streams.state:
                self._state = streams.state
                await self._write(streams.frame("state", {"state": self._state, "at": now()}))
            elif self._beat != streams.beat:
                self._beat = streams.beat
                # With the place, so that a client that gets few events need not start over either.
                await self._write(b": still here\nid: %b\n\n" % streams.event_id(self._place))
            elif streams.closing:
                return
            else:
                await streams.change()

    async def _begin(self) -> None:
        """Go on where the client was cut off, or start with a snapshot."""
        last_event_id = self._request.headers.get("Last-Event-ID", "")
        place = self._streams.place_of(last_event_id)
        if place is not None:
            self._place = place
        elif last_event_id:
            await self._start_over("unknown")
        else:
            await self._write_snapshot()

    async def _write_events(self) -> None:
        batch = self._streams.batch(self._place, self._wanted)
        if batch is None:
            await self._start_over("lost")
        else:
            self._place, frames = batch
            await self._write(frames)

    async def _start_over(self, reason: str) -> None:
        await self._write(self._streams.frame("reset", {"reason": reason}))
        await self._write_snapshot()

    async def _write_snapshot(self) -> None:
        self._state = self._streams.state
        self._place, frame = self._streams.snapshot(self._wanted)
        await self._write(frame)

    async def _write(self, data: bytes) -> None:
        """Return when the client has read, or the system has taken, all but a little."""
        for start in range(0, len(data), MAX_PIECE_BYTES):
            self._writing, self._unread_ticks = True, 0
            await self._response.write(data[start : start + MAX_PIECE_BYTES])
            await self._request.writer.drain()
            self._writing = False
            await asyncio.sleep(0)  # a client that reads fast must not keep the loop for itself


class StreamCollector(Collector):
    """How many streams there are, and how many were cut off. Register it with the manager's registry."""

    def __init__(self, looks: Looks) -> None:
        self._ring = looks.event_ring

    def collect(self) -> Iterator[Metric]:
        """Yield both families; from any thread."""
        streams, evicted = gauge(names.HTTP_STREAMS), counter(names.HTTP_STREAMS_EVICTED)
        streams.add_metric((), self._ring.streams)
        evicted.add_metric((), self._ring.evicted)
        yield from (streams, evicted)


def _counts_of(counts: CountsView, categories: frozenset[TaskCategory]) -> Counts:
    if categories:
        counts = CountsView({cell: n for cell, n in counts.by_cell.items() if cell[0] in categories})
    return Counts(
        total=counts.total,
        by_status=counts.by_status(),
        by_category=counts.by_category(),
        by_priority={priority.label: n for priority, n in counts.by_priority().items()},
        pending_by_priority={
            priority.label: n for priority, n in counts.by_priority(TaskStatus.PENDING).items()
        },
        pending_by_category=counts.by_category(TaskStatus.PENDING),
        running_by_category=counts.by_category(TaskStatus.RUNNING),
    )


STREAMS: Final = web.AppKey("streams", Streams)


def set_up(app: web.Application) -> None:
    """Let an application with a manager have streams, which end before its connections are closed."""
    app[STREAMS] = Streams(app[LOOKS])
    app.on_shutdown.append(_close)


async def _close(app: web.Application) -> None:
    app[STREAMS].close()


async def get_events(request: web.Request) -> web.StreamResponse:
    """Answer with a snapshot, or where Last-Event-ID is known from there on, and all that happens from then on."""
    check_parameters(request.query, ("category", "task_id"))
    wanted = Wanted(
        read_choices(
            request.query, "category", parse_category, [category.value for category in TaskCategory]
        ),
        read_names(request.query, "task_id"),
    )
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: CONTENT_TYPE, "X-Accel-Buffering": "no"})
    if request.method == hdrs.METH_HEAD:
        return response
    stream = Stream(request, response, wanted)
    with request.app[STREAMS].opened(stream):
        _bound_send_buffer(request.transport)
        await response.prepare(request)
        request[ANSWERED_AT] = time.monotonic()
        try:
            await stream.follow()
        except ConnectionError:
            pass  # the client has gone
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException:  # no problem document can follow what was sent already
            logger.exception("a stream of events failed and is cut off")
            stream.abort()
    return response


def _bound_send_buffer(transport: asyncio.Transport | None) -> None:
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


ROUTES: Final = (
    Route(
        "/api/events",
        get_events,
        Access.READ,
        summary="What happens to tasks, as server-sent events.",
        tag=Tag.EVENTS,
        description="A snapshot, then every event, numbered. A client that comes back with `Last-Event-ID` goes "
        "on where it was, or gets a `reset` when events were lost.",
        parameters=(
            Parameter("category", list[TaskCategory], "Only tasks of these categories."),
            Parameter("task_id", list[str], "Only these tasks; the snapshot has no counts then."),
            Parameter(
                "Last-Event-ID",
                str,
                "The id of the last event that the client has seen: no snapshot, but what has happened since.",
                "header",
            ),
        ),
        answers={
            200: Answer(
                "A `snapshot`, then `task/…` events with ids that rise by one, where nothing is filtered; `state` when "
                "the manager's state changes; `reset` and a new snapshot where events were lost.",
                None,
                (CONTENT_TYPE,),
            ),
            422: BAD_PARAMETER,
            503: problem("Too many streams are open, or the server is stopping.", hdrs.RETRY_AFTER),
        },
    ),
)
