"""GET /api/tasks and /api/tasks/{id}: the live, kept and stored tasks, and one of them."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from http import HTTPStatus
from operator import itemgetter
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from qorzen_obs.arguments import parse_category, parse_priority
from qorzen_obs.core.task_table import by_priority
from qorzen_obs.history.base import StoredTasks, TaskOrder, TaskQuery, sort_value_of
from qorzen_obs.in_thread import run_in_daemon_thread
from qorzen_obs.record import TaskRecord, TaskState
from qorzen_obs.server.address import address_of
from qorzen_obs.server.documents import (
    Moment,
    RerunState,
    Task,
    encode_json,
    json_response,
    now,
    task_document,
    task_line,
)
from qorzen_obs.server.family import Family, family_of, ids_below
from qorzen_obs.server.problems import ProblemError, problem
from qorzen_obs.server.query import (
    BAD_PARAMETER,
    LIMIT,
    MomentChoice,
    PriorityChoice,
    Query,
    check_parameters,
    read_choice,
    read_choices,
    read_limit,
    read_moment,
    read_names,
    read_one,
    refuse,
)
from qorzen_obs.server.routes import Access, Answer, Parameter, Route, Tag
from qorzen_obs.server.sources import LOOKS, REDACTOR, Looks
from qorzen_obs.server.stored import (
    STORE_READS,
    UNREADABLE_STORE,
    UnreadableStoreError,
    unreadable_store,
)
from qorzen_obs.server.union import RISING, Listed, Position, is_after, page_of_both, read_stored
from qorzen_obs.tasks import TaskCategory, TaskInfo, TaskPriority, TaskStatus


class Order(Enum):
    """How a list is sorted. Each order is by something that never changes, so that pages fit together."""

    NEWEST = "newest"  #: accepted last first
    OLDEST = "oldest"  #: accepted first first
    PRIORITY = "priority"  #: the highest priority first, then accepted first first
    ENDED = "ended"  #: ended last first; only tasks that have ended


#: The orders by the name that stored tasks have them by.
STORED_ORDERS: Final[Mapping[Order, TaskOrder]] = {
    Order.NEWEST: "newest",
    Order.OLDEST: "oldest",
    Order.PRIORITY: "priority",
    Order.ENDED: "ended",
}
Cursor = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]*$")]
PARAMETERS: Final = (
    Parameter("status", list[TaskStatus], "One of these statuses. Several may also stand behind commas."),
    Parameter("category", list[TaskCategory], "One of these categories, as for status."),
    Parameter("priority", list[PriorityChoice], "One of these priorities, by name or number, as for status."),
    Parameter("plugin_id", list[str], "Of one of these plugins, as for status."),
    Parameter("name", list[str], "By one of these names, as for status."),
    Parameter("definition", list[str], "Of one of these definitions or functions, as for status."),
    Parameter("error_type", list[str], "That ended with an error of one of these types, as for status."),
    Parameter("parent_id", list[str], "Submitted by one of these tasks, as for status."),
    Parameter("below", list[str], "Submitted by one of these tasks or by a task below it, as for status."),
    Parameter("instance", list[str], "Of one of these managers: each start of the service has an id."),
    Parameter(
        "q",
        list[str],
        "Tasks whose name, ids or error contain one of these texts, in whatever case; of the stored ones, the newest "
        "50,000 are searched.",
    ),
    Parameter("created_after", MomentChoice, "Submitted at this moment or later."),
    Parameter("created_before", MomentChoice, "Submitted before this moment."),
    Parameter("order", Order, "How they are sorted; newest where nothing is said."),
    LIMIT,
    Parameter("cursor", Cursor, "The next_cursor of the page before, with the same order."),
)
_NAMES: Final = [parameter.name for parameter in PARAMETERS]


class Seen(NamedTuple):
    """A task in one of its states: what the filter saw is what is shown."""

    record: TaskRecord
    state: TaskState


T = TypeVar("T")
Key = tuple[float, int]  #: what an order sorts by; the second part is the sequence, so no two are equal


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks are asked for: in each field one of the values must fit; an empty field fits always."""

    statuses: frozenset[TaskStatus] = frozenset()
    categories: frozenset[TaskCategory] = frozenset()
    priorities: frozenset[TaskPriority] = frozenset()
    plugin_ids: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    definitions: frozenset[str] = frozenset()
    error_types: frozenset[str] = frozenset()
    parent_ids: frozenset[str] = frozenset()
    below: frozenset[str] = frozenset()  #: ids of ancestors; see `resolved`
    instances: frozenset[str] = frozenset()  #: of managers; see `resolved`
    ids: frozenset[str] | None = None  #: None: any
    texts: tuple[str, ...] = ()  #: in lower case; parts of the name, an id or the error
    created_after: float | None = None  #: Unix seconds; at that moment or later
    created_before: float | None = None

    def matches(self, record: TaskRecord, state: TaskState) -> bool:
        """Return whether a task is asked for."""
        return (
            (not self.statuses or state.status in self.statuses)
            and (not self.categories or record.category in self.categories)
            and (not self.priorities or record.priority in self.priorities)
            and (not self.plugin_ids or record.plugin_id in self.plugin_ids)
            and (not self.names or record.name in self.names)
            and (not self.definitions or record.definition_name in self.definitions)
            and (not self.error_types or state.error_type in self.error_types)
            and (not self.parent_ids or record.parent_id in self.parent_ids)
            and (self.ids is None or record.task_id in self.ids)
            and (self.created_after is None or record.created_at >= self.created_after)
            and (self.created_before is None or record.created_at < self.created_before)
            and (not self.texts or self._contains_text(record, state))
        )

    def resolved(self, records: Sequence[TaskRecord], looks: Looks) -> TaskFilter:
        """Return the filter for these records with `ids` in place of what no record can answer by itself."""
        if self.instances and looks.event_ring.instance not in self.instances:
            return replace(self, ids=frozenset(), below=frozenset(), instances=frozenset())
        if not self.below:
            return self
        return replace(self, ids=frozenset(ids_below(records, looks.find, self.below)), below=frozenset())

    def query(self, order: TaskOrder) -> TaskQuery | None:
        """Return what to ask the store for; None if stored tasks are left out: nobody follows their ancestors."""
        if self.below or self.ids is not None:
            return None
        return TaskQuery(
            statuses=self.statuses,
            categories=self.categories,
            priorities=self.priorities,
            plugin_ids=self.plugin_ids,
            names=self.names,
            definitions=self.definitions,
            error_types=self.error_types,
            parent_ids=self.parent_ids,
            instances=self.instances,
            texts=self.texts,
            created_after=self.created_after,
            created_before=self.created_before,
            order=order,
        )

    def _contains_text(self, record: TaskRecord, state: TaskState) -> bool:
        fields = (record.name, record.task_id, record.plugin_id, state.error_type, state.error)
        haystack = "\n".join(filter(None, fields)).lower()
        return any(text in haystack for text in self.texts)


def read_filter(query: Query, redact: Callable[[str], str]) -> TaskFilter:
    """Return the filter that a query asks for, with its names as tasks have them: redacted."""
    return TaskFilter(
        statuses=read_choices(query, "status", TaskStatus, [status.value for status in TaskStatus]),
        categories=read_choices(
            query, "category", parse_category, [category.value for category in TaskCategory]
        ),
        priorities=read_choices(
            query,
            "priority",
            parse_priority,
            [f"{priority.label} ({priority.value})" for priority in TaskPriority],
        ),
        plugin_ids=frozenset(map(redact, read_names(query, "plugin_id"))),
        names=frozenset(map(redact, read_names(query, "name"))),
        definitions=frozenset(map(redact, read_names(query, "definition"))),
        error_types=read_names(query, "error_type"),
        parent_ids=read_names(query, "parent_id"),
        below=read_names(query, "below"),
        instances=read_names(query, "instance"),
        texts=tuple(text.lower() for text in query.getall("q", []) if text),
        created_after=_read_seconds(query, "created_after"),
        created_before=_read_seconds(query, "created_before"),
    )


def _read_seconds(query: Query, parameter: str) -> float | None:
    at = read_moment(query, parameter)
    return None if at is None else at.timestamp()


def select(
    records: Sequence[TaskRecord], wanted: TaskFilter, order: Order, after: Key | None, limit: int
) -> tuple[list[TaskInfo], Key | None]:
    """Return at most `limit` tasks after the key `after`, and the key to go on from, None at the end.

    `records` come newest first.
    """
    in_order: Iterable[TaskRecord] = records
    if order is Order.OLDEST:
        in_order = reversed(records)
    elif order is Order.PRIORITY:
        in_order = by_priority(records)
    found = _seen(in_order, wanted, order, after)
    if order is Order.ENDED:
        page = heapq.nlargest(limit + 1, found, key=lambda seen: _key(seen, order))
    else:
        page = list(itertools.islice(found, limit + 1))
    shown = page[:limit]
    following = _key(shown[-1], order) if len(page) > limit else None
    return [record.info(state) for record, state in shown], following


def _seen(
    records: Iterable[TaskRecord], wanted: TaskFilter, order: Order, after: Key | None
) -> Iterator[Seen]:
    for record in records:
        seen = Seen(record, record.state)
        if order is Order.ENDED and seen.state.completed_at is None:
            continue
        if after is not None:
            key = _key(seen, order)
            if key <= after if order is Order.OLDEST else key >= after:
                continue
        if wanted.matches(record, seen.state):
            yield seen


def _key(seen: Seen, order: Order) -> Key:
    if order is Order.ENDED:
        return seen.state.completed_at or 0.0, seen.record.sequence
    if order is Order.PRIORITY:
        return float(seen.record.priority), -seen.record.sequence
    return 0.0, seen.record.sequence


def write_cursor(order: Order, key: Key | Position) -> str:
    """Return where a page ended, for the next request to go on; its content is nobody's business."""
    return urlsafe_b64encode(msgspec.json.encode((order.value, *key))).decode().rstrip("=")


def read_cursor(query: Query, order: Order) -> Key | None:
    """Return where to go on in the tasks in memory; None from the start."""
    return _read_cursor(query, order, tuple[str, float, int])


def read_position(query: Query, order: Order) -> Position | None:
    """Return where to go on in the tasks of memory and store; None from the start."""
    return _read_cursor(query, order, tuple[str, float, str])


_RIGHT_CURSOR: Final = "the next_cursor of the page before, with the same order"


def _read_cursor(query: Query, order: Order, kind: type[tuple[str, float, T]]) -> tuple[float, T] | None:
    text = read_one(query, "cursor")
    if text is None:
        return None
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        name, place, last = msgspec.json.decode(urlsafe_b64decode(padded), type=kind)
    except (ValueError, msgspec.MsgspecError):
        refuse("cursor", _RIGHT_CURSOR)
    if name != order.value:
        refuse("cursor", _RIGHT_CURSOR)
    return place, last


#: Held while a list is made: one thread at a time is enough.
ONE_LIST: Final = web.AppKey("one_list", asyncio.Lock)


class TaskPage(Struct, frozen=True, kw_only=True):
    """A page of tasks, without their tracebacks and with long texts cut."""

    items: list[Task]
    next_cursor: str | None  #: null on the last page
    at: Moment  #: the moment that it shows
    #: Stored tasks are missing here, since the store cannot be read now.
    history_unavailable: bool = False


async def get_tasks(request: web.Request) -> web.Response:
    """Answer with a page of the live, kept and stored tasks; `at` is the moment that it shows."""
    query = request.query
    check_parameters(query, _NAMES)
    order = read_choice(query, "order", Order.NEWEST)
    wanted, limit = read_filter(query, request.app[REDACTOR].text), read_limit(query)
    looks = request.app[LOOKS]
    if looks.stored is not None:
        return await _answer_of_both(request, looks.stored, wanted, order, limit)
    after = read_cursor(query, order)

    def write_page() -> bytes:
        at = now()
        records = looks.records()
        tasks, following = select(records, wanted.resolved(records, looks), order, after, limit)
        return _encoded([Listed(info, stored=False) for info in tasks], order, following, at)

    # A walk over all tasks takes milliseconds, which the loop has better use for.
    async with request.app[ONE_LIST]:
        page = await run_in_daemon_thread(write_page, name="qorzen-list")
    return web.Response(body=page, content_type="application/json")


async def _answer_of_both(
    request: web.Request, stored: StoredTasks, wanted: TaskFilter, order: Order, limit: int
) -> web.Response:
    """Answer with a page of the tasks of memory and store."""
    looks, after, order_name = request.app[LOOKS], read_position(request.query, order), STORED_ORDERS[order]
    query = wanted.query(order_name)

    def walk() -> tuple[str, Mapping[Position, TaskInfo], set[str]]:
        at, records = now(), looks.records()
        known = {record.task_id for record in records}
        first = in_positions(records, wanted.resolved(records, looks), order, after, limit + 1)
        return at, first, known

    async with request.app[ONE_LIST]:  # a walk over all tasks, as above
        at, in_memory, known = await run_in_daemon_thread(walk, name="qorzen-list")

    def write_page(found: Iterator[TaskInfo], *, unavailable: bool = False) -> bytes:
        listed, following = page_of_both(in_memory, known, found, order_name, limit)
        return _encoded(listed, order, following, at, unavailable=unavailable)

    def with_stored() -> bytes:
        return write_page(iter(()) if query is None else read_stored(stored, query, after, limit + 1))

    try:
        page = await request.app[STORE_READS].read(with_stored)
    except UnreadableStoreError:
        page = write_page(iter(()), unavailable=True)
    return web.Response(body=page, content_type="application/json")


def in_positions(
    records: Iterable[TaskRecord], wanted: TaskFilter, order: Order, after: Position | None, most: int
) -> dict[Position, TaskInfo]:
    """Return the first tasks that are asked for and come after a position, at most so many, by their own."""
    stored_order = STORED_ORDERS[order]
    best = heapq.nsmallest if stored_order in RISING else heapq.nlargest
    found = ((_position(seen, stored_order), seen) for seen in _seen(records, wanted, order, None))
    first = best(most, (one for one in found if is_after(one[0], after, stored_order)), key=itemgetter(0))
    return {position: record.info(state) for position, (record, state) in first}


def _position(seen: Seen, order: TaskOrder) -> Position:
    record, state = seen
    value = sort_value_of(order, record.created_at, record.priority, state.completed_at)
    return value, record.task_id


def _encoded(
    listed: Iterable[Listed],
    order: Order,
    following: Key | Position | None,
    at: str,
    *,
    unavailable: bool = False,
) -> bytes:
    page = TaskPage(
        items=[task_line(info, stored=stored) for info, stored in listed],
        next_cursor=None if following is None else write_cursor(order, following),
        at=at,
        history_unavailable=unavailable,
    )
    return encode_json(page)


async def get_task(request: web.Request) -> web.Response:
    """Answer with one task."""
    (info, stored), looks = await find_task(request), request.app[LOOKS]

    def find_family() -> Family:
        return family_of(info, looks.records(), looks.find)

    async with request.app[ONE_LIST]:  # a walk over all tasks, as for a list
        family = await run_in_daemon_thread(find_family, name="qorzen-family")
    return json_response(
        task_document(
            info, request.app[REDACTOR], family=family, rerun=_rerun_state(info, looks), stored=stored
        )
    )


def _rerun_state(info: TaskInfo, looks: Looks) -> RerunState:
    if looks.find(info.task_id) is None:
        return RerunState(possible=False, why_not=EARLIER_PROCESS)
    again = looks.may_rerun(info.task_id)
    return RerunState(possible=again.why_not is None, why_not=again.why_not, task_id=again.rerun_as)


#: Why nothing can be done with a task that is stored only.
EARLIER_PROCESS: Final = "it ran in an earlier process"


async def find_task(request: web.Request) -> Listed:
    """Return the task that the path names: from memory, else from the store, which also has those that were evicted.

    Raises:
        ProblemError: its id is unknown, or only the store may know it and cannot be read now.
    """
    looks, task_id = request.app[LOOKS], request.match_info["task_id"]
    info, stored = looks.find(task_id), looks.stored
    if info is not None and not (info.evicted and stored is not None):
        return Listed(info, stored=False)
    if stored is None:
        raise unknown_task()
    try:
        whole = await request.app[STORE_READS].read(lambda: stored.find(task_id))
    except UnreadableStoreError:
        if info is None:
            raise unreadable_store() from None
        whole = None
    # The store may not have heard yet how an evicted task has ended.
    if whole is not None and (info is None or whole.status is info.status):
        return Listed(whole, stored=True)
    if info is None:
        raise unknown_task()
    return Listed(info, stored=False)


UNKNOWN_TASK: Final = problem("No live, kept, remembered or stored task has this id.")


def unknown_task() -> ProblemError:
    """Return the error that answers with UNKNOWN_TASK."""
    return ProblemError(HTTPStatus.NOT_FOUND, "no live, kept, remembered or stored task has this id")


def location_of(request: web.Request, task_id: str) -> str:
    """Return where clients find a task."""
    return address_of(request, f"/api/tasks/{task_id}")


ROUTES: Final = (
    Route(
        "/api/tasks",
        get_tasks,
        Access.READ,
        summary="The live, kept and stored tasks, a page at a time.",
        tag=Tag.TASKS,
        description="Filters narrow the list. `next_cursor` of an answer is the `cursor` of the next page; it is "
        "null on the last one. With a durable history the list has the tasks of earlier processes too; "
        "`history_unavailable` is true while they cannot be read.",
        parameters=PARAMETERS,
        answers={200: Answer("A page of them.", TaskPage), 422: BAD_PARAMETER},
    ),
    Route(
        "/api/tasks/{task_id}",
        get_task,
        Access.READ,
        summary="One task.",
        tag=Tag.TASKS,
        description="State, times, progress, error with traceback, attempts and metadata, redacted. Never its "
        "arguments or result. `family` counts the tasks that it led to, `rerun` says whether it can be run again. "
        "`stored` is true if memory does not have it any more and the durable history does.",
        answers={
            200: Answer("Everything that is shown of it.", Task),
            404: UNKNOWN_TASK,
            503: UNREADABLE_STORE,
        },
    ),
)
