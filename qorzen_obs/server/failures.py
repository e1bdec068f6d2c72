"""GET /api/failures: the failed tasks that are kept, grouped by definition and error type.

The groups are made from the records when somebody asks, so they say no more than the history keeps; `failed_total`
says how much more has failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from aiohttp import web
from msgspec import Struct

from qorzen_obs.arguments import parse_category
from qorzen_obs.in_thread import run_in_daemon_thread
from qorzen_obs.record import TaskRecord, TaskState
from qorzen_obs.server.documents import MAX_LISTED_TEXT, Moment, encode_json, now, timestamp
from qorzen_obs.server.query import (
    BAD_PARAMETER,
    LIMIT,
    MomentChoice,
    check_parameters,
    read_choices,
    read_limit,
    read_moment,
    read_names,
)
from qorzen_obs.server.routes import Access, Answer, Parameter, Route, Tag
from qorzen_obs.server.sources import LOOKS, REDACTOR, Looks
from qorzen_obs.server.tasks import ONE_LIST
from qorzen_obs.tasks import FAILED, TaskCategory

PARAMETERS: Final = (
    Parameter("category", list[TaskCategory], "Of one of these categories. Several may stand behind commas."),
    Parameter("definition", list[str], "Of one of these definitions or functions, as for category."),
    Parameter("ended_after", MomentChoice, "That failed at this moment or later."),
    Parameter("ended_before", MomentChoice, "That failed before this moment."),
    LIMIT,
)
UNKNOWN: Final = "unknown"  #: the error type of a failure that has none


class FailureExample(Struct, frozen=True, kw_only=True):
    """The last task of a group."""

    task_id: str
    name: str
    error: str | None  #: its message, cut as in lists


class FailureGroup(Struct, frozen=True, kw_only=True):
    """The kept failures of one definition with one type of error."""

    definition: str  #: or function
    error_type: str
    count: int
    first_at: Moment  #: when the first and the last of them failed
    last_at: Moment
    example: FailureExample
    rerun: int  #: of how many a rerun was asked for
    rerunnable: int  #: how many of the others can be run again


class Failures(Struct, frozen=True, kw_only=True):
    """The groups, the one that failed last first."""

    items: list[FailureGroup]
    groups: int  #: with those past the limit
    count: int  #: failures in all groups
    failed_total: int  #: tasks that failed since the start, also those that are not kept
    kept_since: Moment | None  #: when the oldest kept failure ended; null where none is kept
    at: Moment


class _Group:
    """The failures of one group, as they are found."""

    def __init__(self) -> None:
        self.count = self.rerun = self.rerunnable = 0
        self.first = self.last = 0.0
        self.example: tuple[TaskRecord, TaskState] | None = None

    def add(self, record: TaskRecord, state: TaskState, ended_at: float, *, may_rerun: bool) -> None:
        self.first = ended_at if self.example is None else min(self.first, ended_at)
        if self.example is None or ended_at >= self.last:
            self.last, self.example = ended_at, (record, state)
        self.count += 1
        if record.rerun_as is not None:
            self.rerun += 1
        elif may_rerun:
            self.rerunnable += 1


def failed_records(records: Iterable[TaskRecord]) -> list[tuple[TaskRecord, TaskState, float]]:
    """Return the records that failed, with the state that says so and the moment (Unix seconds)."""
    seen = ((record, record.state) for record in records)
    return [(record, state, state.completed_at or 0.0) for record, state in seen if state.status is FAILED]


def grouped(
    found: Iterable[tuple[TaskRecord, TaskState, float]], looks: Looks
) -> dict[tuple[str, str], _Group]:
    """Return the groups of failures, by definition and error type."""
    groups: dict[tuple[str, str], _Group] = {}
    for record, state, ended_at in found:
        group = groups.setdefault((record.definition_name, state.error_type or UNKNOWN), _Group())
        may_rerun = record.rerun_as is None and looks.may_rerun(record.task_id).why_not is None
        group.add(record, state, ended_at, may_rerun=may_rerun)
    return groups


def _shown(definition: str, error_type: str, group: _Group) -> FailureGroup:
    assert group.example is not None, "a group has a first failure"
    record, state = group.example
    error = state.error
    if error is not None and len(error) > MAX_LISTED_TEXT:
        error = error[: MAX_LISTED_TEXT - 1] + "…"
    return FailureGroup(
        definition=definition,
        error_type=error_type,
        count=group.count,
        first_at=timestamp(group.first) or "",
        last_at=timestamp(group.last) or "",
        example=FailureExample(task_id=record.task_id, name=record.name, error=error),
        rerun=group.rerun,
        rerunnable=group.rerunnable,
    )


async def get_failures(request: web.Request) -> web.Response:
    """Answer with the kept failures by group, the one that failed last first."""
    query, looks, redact = request.query, request.app[LOOKS], request.app[REDACTOR].text
    check_parameters(query, [parameter.name for parameter in PARAMETERS])
    categories = read_choices(query, "category", parse_category, [one.value for one in TaskCategory])
    definitions = frozenset(map(redact, read_names(query, "definition")))
    after, before = read_moment(query, "ended_after"), read_moment(query, "ended_before")
    limit = read_limit(query)

    def wanted(record: TaskRecord, ended_at: float) -> bool:
        return (
            (not categories or record.category in categories)
            and (not definitions or record.definition_name in definitions)
            and (after is None or round(ended_at, 6) >= after.timestamp())  # to what is shown
            and (before is None or round(ended_at, 6) < before.timestamp())
        )

    def write() -> bytes:
        at = now()
        kept: Sequence[tuple[TaskRecord, TaskState, float]] = failed_records(looks.kept_records())
        groups = grouped((one for one in kept if wanted(one[0], one[2])), looks)
        newest = sorted(groups.items(), key=lambda item: item[1].last, reverse=True)
        return encode_json(
            Failures(
                items=[_shown(*names, group) for names, group in newest[:limit]],
                groups=len(groups),
                count=sum(group.count for group in groups.values()),
                failed_total=looks.load(float("inf")).counts.by_status()[FAILED],
                kept_since=timestamp(min((ended_at for _, _, ended_at in kept), default=None)),
                at=at,
            )
        )

    async with request.app[ONE_LIST]:  # a walk over all kept tasks, as for a list
        document = await run_in_daemon_thread(write, name="qorzen-failures")
    return web.Response(body=document, content_type="application/json")


ROUTES: Final = (
    Route(
        "/api/failures",
        get_failures,
        Access.READ,
        summary="The kept failures, grouped by definition and error type.",
        tag=Tag.TASKS,
        description="For each group its count, the first and the last failure, an example, and how many of it can be "
        "run again. `POST /api/bulk/rerun` with its `definition` and `error_type` does that.",
        parameters=PARAMETERS,
        answers={200: Answer("The groups, the one that failed last first.", Failures), 422: BAD_PARAMETER},
    ),
)
