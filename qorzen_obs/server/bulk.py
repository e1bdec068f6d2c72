"""POST /api/bulk/cancel and /api/bulk/rerun: one command for all tasks that a filter selects, a page at a time.

The answer accounts for each task: it was done, or refused for a reason. Repeating a request is safe: a task that has
ended is not cancelled, and a task that was run again is not run again by these commands.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Final, Literal, NamedTuple

from aiohttp import web
from msgspec import Struct

from qorzen_obs.errors import (
    HistoryUnavailableError,
    TaskManagerClosedError,
    TaskNotCancellableError,
    TaskNotFoundError,
    TaskNotRerunnableError,
    TaskQueueFullError,
)
from qorzen_obs.in_thread import run_in_daemon_thread
from qorzen_obs.server.caller import caller_of
from qorzen_obs.server.commands import NO_WORK_LOOP, NoAnswerError, on_work_loop
from qorzen_obs.server.documents import Moment, json_response, now
from qorzen_obs.server.problems import ProblemError
from qorzen_obs.server.query import BAD_PARAMETER, Query, check_parameters, read_limit, read_one, refuse
from qorzen_obs.server.routes import Access, Answer, Parameter, Route, Tag
from qorzen_obs.server.sources import COMMANDS, LOOKS, REDACTOR, Commands, Looks
from qorzen_obs.server.submit import TRACE_PARAMETERS, as_caller
from qorzen_obs.server.tasks import (
    ONE_LIST,
    Order,
    TaskFilter,
    read_cursor,
    read_filter,
    select,
    write_cursor,
)
from qorzen_obs.server.tasks import PARAMETERS as LIST_PARAMETERS
from qorzen_obs.tasks import CANCELLED, FAILED, PENDING, RUNNING, TaskInfo, TaskStatus

DEADLINE_SECONDS: Final = 4.0  #: the page waits for five
TURN_TASKS: Final = 50  #: so many in one turn of the work loop
ORDER: Final = Order.OLDEST

_ENDED: Final = "it has ended"
_NOT_CANCELLABLE: Final = "it was submitted with cancellable=False"
_GONE: Final = "it is not kept any more"
_REPEATED: Final = "it was run again before"
_FULL: Final = "the queue is full; try again later"
_CLOSED: Final = "the service takes no new tasks"
_UNRECORDED: Final = "the history cannot record a task now; see /health"
_REFUSALS: Final[Mapping[type[Exception], str]] = {
    TaskQueueFullError: _FULL,
    TaskManagerClosedError: _CLOSED,
    HistoryUnavailableError: _UNRECORDED,
}
_LATE: Final = "the work loop did not answer in time; try again"

#: What a free text in the filter of a command is taken as: one name, whatever it contains.
_WHOLE: Final = ("plugin_id", "name", "definition", "error_type", "parent_id", "below", "instance")
_FILTERS: Final = ("status", "category", "priority", *_WHOLE, "q", "created_after", "created_before")


class Refusal(Struct, frozen=True, kw_only=True):
    """Tasks of which nothing was done, for one reason."""

    reason: str
    count: int
    example: str  #: the id of one of them


class BulkOutcome(Struct, frozen=True, kw_only=True):
    """What became of the tasks of one page; `asked` is the sum of `done` and all refusals."""

    dry_run: bool  #: nothing was done, and this says what would be
    matching: int  #: tasks that the filter selects, those of other pages too
    asked: int
    done: int  #: cancelled or asked to stop; run again
    refused: list[Refusal]
    #: Of those done, or of the new tasks that run them again; of a dry run of those it would be.
    task_ids: list[str]
    next_cursor: str | None  #: null when there is no other page
    at: Moment


class _Account:
    """What became of each task; written on the work loop.

    Args:
        ids: of the tasks, in order.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self._left = deque(ids)  # of which nothing is known yet
        self._current: str | None = None  # what is being acted on
        self.done: list[str] = []
        self.refusals: dict[str, list[str]] = {}

    def take(self) -> str | None:
        """Return the next task to act on; None after the last."""
        self._current = self._left.popleft() if self._left else None
        return self._current

    def acted(self) -> None:
        """Note that it is known what became of the task that was taken last."""
        self._current = None

    def refuse(self, task_id: str, reason: str) -> None:
        """Note that nothing was done of a task."""
        self.refusals.setdefault(reason, []).append(task_id)

    def refuse_the_rest(self, reason: str) -> None:
        """Note that nothing was done of those that are left."""
        while self._left:
            self.refuse(self._left.popleft(), reason)

    def out_of_time(self) -> _Account:
        """Return this account with all refused of which nothing is known; the work loop may still write to this one."""
        ended = _Account([*([] if self._current is None else [self._current]), *self._left])
        ended.done.extend(self.done)
        ended.refusals.update((reason, list(ids)) for reason, ids in self.refusals.items())
        ended.refuse_the_rest(_LATE)
        return ended


Act = Callable[[_Account, str], Awaitable[None]]


class _Command(NamedTuple):
    """What there is to know of one of the two."""

    default: frozenset[TaskStatus]
    allowed: frozenset[TaskStatus]
    #: Why nothing would be done of a task; None where it would.
    problem: Callable[[Looks, TaskInfo], str | None]
    #: Makes what does it of one task, on the work loop.
    act: Callable[[Commands, Looks], Act]


def _no_cancel(looks: Looks, info: TaskInfo) -> str | None:
    return None if info.cancellable else _NOT_CANCELLABLE


def _cancelling(commands: Commands, looks: Looks) -> Act:
    async def cancel(account: _Account, task_id: str) -> None:
        try:
            asked = await commands.cancel_task(task_id, reason="cancelled over HTTP")
        except TaskNotCancellableError:
            account.refuse(task_id, _NOT_CANCELLABLE)
        except TaskNotFoundError:
            account.refuse(task_id, _GONE)
        else:
            if asked:
                account.done.append(task_id)
            else:
                account.refuse(task_id, _ENDED)

    return cancel


def _no_rerun(looks: Looks, info: TaskInfo) -> str | None:
    again = looks.may_rerun(info.task_id)
    return again.why_not or (None if again.rerun_as is None else _REPEATED)


def _rerunning(commands: Commands, looks: Looks) -> Act:
    async def rerun(account: _Account, task_id: str) -> None:
        if looks.may_rerun(task_id).rerun_as is not None:
            account.refuse(task_id, _REPEATED)
            return
        try:
            account.done.append(await commands.rerun(task_id))
        except TaskNotRerunnableError as error:
            account.refuse(task_id, error.reason)
        except TaskNotFoundError:
            account.refuse(task_id, _GONE)
        except (TaskQueueFullError, TaskManagerClosedError, HistoryUnavailableError) as error:
            reason = _REFUSALS[type(error)]
            account.refuse(task_id, reason)
            account.refuse_the_rest(reason)

    return rerun


_LIVE: Final = frozenset({PENDING, RUNNING})
_CANCEL: Final = _Command(_LIVE, _LIVE, _no_cancel, _cancelling)
_RERUN: Final = _Command(frozenset({FAILED}), frozenset({FAILED, CANCELLED}), _no_rerun, _rerunning)


class _Chosen(NamedTuple):
    """The tasks of one page of a filter."""

    infos: list[TaskInfo]
    matching: int
    next_cursor: str | None


def _read_filter(query: Query, redact: Callable[[str], str], command: _Command) -> TaskFilter:
    if not any(value for name in _FILTERS for value in query.getall(name, [])):
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"say which tasks: give at least one of {', '.join(_FILTERS)}",
        )
    wanted = read_filter(query, redact)
    if not wanted.statuses <= command.allowed:
        refuse("status", f"one or more of {', '.join(sorted(status.value for status in command.allowed))}")
    whole = {name: frozenset(filter(None, query.getall(name, []))) for name in _WHOLE}
    return replace(
        wanted,
        statuses=wanted.statuses or command.default,
        plugin_ids=frozenset(map(redact, whole["plugin_id"])),
        names=frozenset(map(redact, whole["name"])),
        definitions=frozenset(map(redact, whole["definition"])),
        error_types=whole["error_type"],
        parent_ids=whole["parent_id"],
        below=whole["below"],
    )


def _read_dry_run(query: Query) -> bool:
    text = read_one(query, "dry_run")
    if text not in (None, "true", "false"):
        refuse("dry_run", "true or false")
    return text == "true"


async def _command_all(request: web.Request, command: _Command) -> web.Response:
    query, looks = request.query, request.app[LOOKS]
    check_parameters(query, [*_FILTERS, "dry_run", "limit", "cursor"])
    wanted = _read_filter(query, request.app[REDACTOR].text, command)
    is_dry, limit, after = _read_dry_run(query), read_limit(query), read_cursor(query, ORDER)

    def choose() -> _Chosen:
        records = looks.records()
        resolved = wanted.resolved(records, looks)
        infos, following = select(records, resolved, ORDER, after, limit)
        matching = sum(resolved.matches(record, record.state) for record in records)
        return _Chosen(infos, matching, None if following is None else write_cursor(ORDER, following))

    at = now()
    async with request.app[ONE_BULK]:  # so that each sees what the one before has done
        async with request.app[ONE_LIST]:
            chosen = await run_in_daemon_thread(choose, name="qorzen-choose")
        account = _Account(info.task_id for info in chosen.infos)
        if is_dry:
            _say_what_would_be(account, chosen.infos, functools.partial(command.problem, looks))
        elif chosen.infos:
            account = await _do(request, account, command.act(request.app[COMMANDS], looks))
    return json_response(
        BulkOutcome(
            dry_run=is_dry,
            matching=chosen.matching,
            asked=len(chosen.infos),
            done=len(account.done),
            refused=list(_refusals(account)),
            task_ids=account.done,
            next_cursor=chosen.next_cursor,
            at=at,
        )
    )


def _say_what_would_be(
    account: _Account, infos: Sequence[TaskInfo], problem_of: Callable[[TaskInfo], str | None]
) -> None:
    for info in infos:
        reason = problem_of(info)
        if reason is None:
            account.done.append(info.task_id)
        else:
            account.refuse(info.task_id, reason)


async def _do(request: web.Request, account: _Account, act: Act) -> _Account:
    """Act on each task, on the work loop, and return what became of them; what it has no time for is refused.

    Raises:
        NoAnswerError: the work loop does not answer, and nothing was done.
    """

    async def act_on_all() -> None:
        for number in itertools.count(1):
            task_id = account.take()
            if task_id is None:
                return
            await act(account, task_id)
            account.acted()
            if number % TURN_TASKS == 0:
                await asyncio.sleep(0)

    whole = as_caller(caller_of(request.headers), act_on_all)
    try:
        await on_work_loop(request, whole, seconds=DEADLINE_SECONDS)
    except NoAnswerError:
        if not (account.done or account.refusals):
            raise
        return account.out_of_time()
    return account


def _refusals(account: _Account) -> Iterator[Refusal]:
    for reason, ids in sorted(account.refusals.items(), key=lambda item: -len(item[1])):
        yield Refusal(reason=reason, count=len(ids), example=ids[0])


async def cancel_tasks(request: web.Request) -> web.Response:
    """Cancel the tasks that the query selects."""
    return await _command_all(request, _CANCEL)


async def rerun_tasks(request: web.Request) -> web.Response:
    """Run the tasks that the query selects again."""
    return await _command_all(request, _RERUN)


ONE_BULK: Final = web.AppKey("one_bulk", asyncio.Lock)


def _parameters(status: object, description: str) -> tuple[Parameter, ...]:
    """Return the parameters of the list that choose tasks, with this for the status."""
    others = [one for one in LIST_PARAMETERS if one.name not in ("status", "order")]
    whole = {
        one.name: one._replace(
            description=one.description.replace(", as for status", "") + " Commas are part of it."
        )
        for one in others
        if one.name in _WHOLE
    }
    return (
        Parameter("status", status, description),
        *(whole.get(one.name, one) for one in others),
        Parameter("dry_run", Literal["true", "false"], "Say what would be done, and do nothing."),
    )


_AGAIN: Final = (
    "`limit` is the size of a page. While `next_cursor` is not null, ask for the next page with it as `cursor`, and "
    "with `created_before` at the `at` of the first answer, so that tasks that come meanwhile are left alone."
)

ROUTES: Final = (
    Route(
        "/api/bulk/cancel",
        cancel_tasks,
        Access.CONTROL,
        method="POST",
        summary="Cancel the pending and running tasks that the query selects.",
        tag=Tag.TASKS,
        description="At least one filter is needed. `below=ID` selects all that a task led to. " + _AGAIN,
        parameters=_parameters(
            list[Literal["pending", "running"]], "One of these statuses; both where nothing is said."
        ),
        answers={
            200: Answer("What became of each of them.", BulkOutcome),
            422: BAD_PARAMETER,
            503: NO_WORK_LOOP,
        },
    ),
    Route(
        "/api/bulk/rerun",
        rerun_tasks,
        Access.CONTROL,
        method="POST",
        summary="Run the failed or cancelled tasks that the query selects again.",
        tag=Tag.TASKS,
        description="At least one filter is needed. A task that was run again before is refused, so that a request may "
        "be repeated. " + _AGAIN,
        parameters=(
            *_parameters(
                list[Literal["failed", "cancelled"]], "One of these statuses; failed where nothing is said."
            ),
            *TRACE_PARAMETERS,
        ),
        answers={
            200: Answer("What became of each of them.", BulkOutcome),
            422: BAD_PARAMETER,
            503: NO_WORK_LOOP,
        },
    ),
)
