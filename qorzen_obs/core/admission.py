"""Turns a call into a checked record, or refuses it. Nothing is accepted here: core/lifecycle.py does that."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context, copy_context
from math import inf
from typing import Any, Final, NamedTuple

import msgspec

from qorzen_obs import foreign
from qorzen_obs.arguments import check_name, check_timeout, parse_category, parse_priority
from qorzen_obs.callables import CallableTraits, traits_of
from qorzen_obs.code_cache import code_cache
from qorzen_obs.core.runtime import ManagerState, Runtime
from qorzen_obs.core.waiting import Waiting
from qorzen_obs.counts import CELL_OF
from qorzen_obs.current import CURRENT
from qorzen_obs.engines.choice import EngineChoice
from qorzen_obs.errors import (
    HistoryUnavailableError,
    InvalidTaskError,
    TaskManagerClosedError,
    TaskQueueFullError,
)
from qorzen_obs.history.base import Recorder
from qorzen_obs.options import DEFINITION_OPTIONS, refuse_definition_options
from qorzen_obs.record import NO_KWARGS, Attempt, TaskRecord
from qorzen_obs.scheduling.scheduler import Scheduler
from qorzen_obs.settings import TaskSettings
from qorzen_obs.tasks import TaskCategory, TaskPriority
from qorzen_obs.telemetry.metrics import TaskMetrics
from qorzen_obs.telemetry.redaction import Redactor

_TASK_ID: Final = "%032x"  # with %, which costs half as much as `format`
MAX_METADATA_BYTES: Final = 16_384
#: levels of nested mappings and lists, which the code that shows them walks recursively
MAX_METADATA_DEPTH: Final = 64

# As in tasks.py: what is needed for each task, by names that Python finds at once.
_READY: Final = ManagerState.READY
_CORE: Final = TaskCategory.CORE
_NORMAL: Final = TaskPriority.NORMAL
_copy: Final[Callable[[TaskRecord], TaskRecord]] = TaskRecord.__copy__  # type: ignore[attr-defined]  # msgspec's stubs lack it


Refusal = TaskManagerClosedError | TaskQueueFullError | HistoryUnavailableError


class _Usual(NamedTuple):
    """The record of a call without options, to be copied. Its fields follow from these settings and engines."""

    record: TaskRecord
    settings: TaskSettings
    choice: EngineChoice


class _Known:
    """What is known of a callable."""

    __slots__ = ("traits", "usual")

    def __init__(self, func: Callable[..., Any]) -> None:
        self.traits = traits_of(func)
        self.usual: _Usual | None = None  #: set by the first such call

    def remember(self, record: TaskRecord, settings: TaskSettings, choice: EngineChoice) -> None:
        """Keep the new record of a call without options as the one to copy."""
        self.usual = _Usual(_copy(record), settings, choice)


class Admission:
    """Checks what is submitted to one manager, and whether there is room for it.

    For the work loop; `check` and `refusal` are for any thread. `ledger_clock` is the time ledger's; None
    where the ledger is off. `recorder` is that of the durable history, if there is one, and `instance` the manager's
    id.
    """

    def __init__(
        self,
        runtime: Runtime,
        scheduler: Scheduler[TaskRecord],
        waiting: Waiting,
        metrics: TaskMetrics,
        redactor: Redactor,
        ledger_clock: Callable[[], float] | None,
        *,
        recorder: Recorder | None,
        instance: str,
    ) -> None:
        self._runtime = runtime
        self._scheduler = scheduler
        self._waiting = waiting
        self._metrics = metrics
        self._shown_name, self._ledger_clock = redactor.name, ledger_clock
        self._recorder, self._instance = recorder, instance
        self._getrandbits = random.Random().getrandbits
        self._known_of = code_cache(_Known)

    def check(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        name: str | None,
        category: TaskCategory | str | None,
        plugin_id: str | None,
        priority: TaskPriority | str | int | None,
        metadata: Mapping[str, Any] | None,
        timeout: float | None,
        cancellable: bool,
        again: bool = False,
    ) -> TaskRecord:
        """Return the record of a call, which is not accepted yet. `again`: the call was accepted before.

        Raises:
            InvalidTaskError: an argument is unusable.
        """
        known_of, getrandbits, runtime = self._known_of, self._getrandbits, self._runtime
        known = known_of(func)
        traits, usual, settings, choice = known.traits, known.usual, runtime.settings, runtime.engine_choice
        if traits.ambiguous and not again:
            _refuse_ambiguous(
                traits,
                name=name,
                category=category,
                plugin_id=plugin_id,
                priority=priority,
                metadata=metadata,
                timeout=timeout,
                cancellable=None if cancellable else False,
            )
        if kwargs and not again and not DEFINITION_OPTIONS.isdisjoint(kwargs):
            refuse_definition_options(func, kwargs)
        has_options = not (
            name is None
            and category is None
            and plugin_id is None
            and priority is None
            and metadata is None
            and timeout is None
            and cancellable is True
        )
        if usual is None or has_options or usual.settings is not settings or usual.choice is not choice:
            record = self._new_record(
                traits,
                name=name,
                category=category,
                plugin_id=plugin_id,
                priority=priority,
                metadata=metadata,
                timeout=timeout,
                cancellable=cancellable,
            )
            if not has_options:
                known.remember(record, settings, choice)
        else:
            record = _copy(usual.record)
        record.task_id = _TASK_ID % getrandbits(128)
        record.func, record.args, record.context = func, args, (context := copy_context())
        if CURRENT in context:
            record.parent_id = self._parent_in(context)
        if kwargs:
            record.kwargs = kwargs
        place = traits.reporter_place
        if place is not None:
            record.wants_progress = len(args) <= place and "progress_reporter" not in kwargs
        return record

    def _new_record(
        self,
        traits: CallableTraits,
        *,
        name: str | None,
        category: TaskCategory | str | None,
        plugin_id: str | None,
        priority: TaskPriority | str | int | None,
        metadata: Mapping[str, Any] | None,
        timeout: float | None,
        cancellable: bool,
    ) -> TaskRecord:
        """Return the record of a call, still without its callable, arguments and context."""
        definition, runtime = traits.definition, self._runtime
        if category is None:
            category = definition.category or _CORE
        elif type(category) is not TaskCategory:
            category = parse_category(category)
        if priority is None:
            priority = _NORMAL if definition.priority is None else definition.priority
        elif type(priority) is not TaskPriority:
            priority = parse_priority(priority)
        if timeout is not None:
            timeout = check_timeout(timeout)
        timeout = timeout or definition.timeout or runtime.settings.default_timeout
        shown_name = self._shown_name  # every sink has the names, so they become data without secrets
        definition_name = shown_name(traits.name)
        return TaskRecord(
            task_id="",
            name=definition_name if name is None else shown_name(check_name("name", name)),
            func=None,
            args=(),
            kwargs=NO_KWARGS,
            category=category,
            priority=priority,
            cell=CELL_OF[category, priority],
            plugin_id=None if plugin_id is None else shown_name(check_name("plugin_id", plugin_id)),
            metadata=None if metadata is None else _as_json("metadata", metadata),
            timeout=None if timeout == inf else timeout,
            cancellable=cancellable is True or _is_true("cancellable", cancellable),
            definition=definition,
            limit=None,
            wants_progress=False,
            engine=runtime.engine_choice.engine_of(category, traits),
            context=None,
            definition_name=definition_name,
            clock=self._ledger_clock,
            instance=self._instance,
        )

    def _parent_in(self, context: Context) -> str | None:
        """Return the id of the task of this manager that a context belongs to."""
        attempt = context[CURRENT]
        if isinstance(attempt, Attempt) and attempt.owner is self._waiting.owner:
            return attempt.task_id
        return None

    def has_room(self) -> bool:
        """Return whether a task may be accepted at once; `wait_for_room` says why not."""
        runtime, waiting = self._runtime, self._waiting
        return (
            (runtime.state is _READY or self._is_in_running_task())
            and asyncio.get_running_loop() is runtime.loop
            and self._scheduler.waiting + waiting.reserved + waiting.promised < runtime.settings.max_pending
            and (self._recorder is None or self._recorder.refusal() is None)
        )

    def refusal(self) -> Refusal | None:
        """Return why a submission by the calling code is refused now; None when it is not refused."""
        settings, waiting = self._runtime.settings, self._waiting
        if settings.when_full != "refuse":
            return self._closed()
        if self._scheduler.waiting + waiting.reserved + waiting.promised >= settings.max_pending:
            return self._closed() or TaskQueueFullError(settings.max_pending)
        return self._closed() or self._unrecordable()

    def count_refusal(self, cells: Iterable[int], refusal: Refusal) -> None:
        """Count refused submissions."""
        if isinstance(refusal, TaskManagerClosedError):
            reason = "closed"
        else:
            reason = "queue_full" if isinstance(refusal, TaskQueueFullError) else "history"
        for cell in cells:
            self._metrics.on_rejected(cell, reason)

    def refuse_if_closed(self, cells: Sequence[int]) -> None:
        """Raise TaskManagerClosedError if the manager takes no work, or none from this caller."""
        self._raise(cells, self._closed())

    def _unrecordable(self) -> HistoryUnavailableError | None:
        problem = None if self._recorder is None else self._recorder.refusal()
        return None if problem is None else HistoryUnavailableError(problem)

    def _closed(self) -> TaskManagerClosedError | None:
        runtime = self._runtime
        if runtime.state is _READY or self._is_in_running_task():
            return None
        return TaskManagerClosedError(runtime.state.value)

    def _is_in_running_task(self) -> bool:
        """Whether the manager drains but the caller may submit: it is one of its tasks and was not asked to stop."""
        attempt = CURRENT.get()
        return (
            self._runtime.state is ManagerState.DRAINING
            and isinstance(attempt, Attempt)
            and attempt.owner is self._waiting.owner
            and not (attempt.settled or attempt.asked)
        )

    async def wait_for_room(self, cell: int) -> None:
        """Return once there is room for one more pending task.

        Raises:
            TaskQueueFullError: the queue is full, and `tasks.when_full` says to refuse.
            HistoryUnavailableError: the task cannot be recorded; if the disk is only slow, `tasks.when_full` decides.
            TaskManagerClosedError: the manager takes no work, or none from this caller.
            InvalidTaskError: this is not the manager's loop.
        """
        while not self.has_room():
            self._raise([cell], self.refusal())
            if (problem := self._unrecordable()) is None:
                await self._waiting.for_room()
            elif not await self._has_caught_up():
                self._raise([cell], problem)

    async def wait_for_room_for_all(self, cells: Sequence[int]) -> None:
        """Return once there is room for a task of each of these cells. The caller accepts them in the same step.

        A batch keeps each place that it gets while it waits for more, so that no stream of single tasks holds it up for
        ever. Only one batch does so at a time: two would wait for each other's places.

        Raises:
            TaskQueueFullError: there is no room and `tasks.when_full` says to refuse, or there never will be room.
            HistoryUnavailableError, TaskManagerClosedError, InvalidTaskError: as `wait_for_room`.
        """
        waiting, kept = self._waiting, 0
        places = self._places(cells, kept)
        try:
            while places < len(cells) or waiting.reserved != kept or self._unrecordable():
                if (problem := self._unrecordable()) is not None:
                    if not await self._has_caught_up():
                        self._raise(cells, problem)
                    places = self._places(cells, kept)
                    continue
                if waiting.reserved == kept:  # no other batch waits
                    waiting.reserved = kept = places
                await waiting.for_room(first=kept > 0)
                places = self._places(cells, kept)
        except BaseException:
            waiting.reserved -= kept
            waiting.pass_on_room()
            raise
        waiting.reserved -= kept

    def _places(self, cells: Sequence[int], kept: int) -> int:
        """Return how many tasks of a batch there is room for, and keep some of those places; or refuse the batch."""
        settings = self._runtime.settings
        taken = self._scheduler.waiting + self._waiting.reserved + self._waiting.promised
        places = kept + max(0, settings.max_pending - taken)
        is_full = len(cells) > settings.max_pending or (
            places < len(cells) and settings.when_full == "refuse"
        )
        full = TaskQueueFullError(settings.max_pending) if is_full else None
        refusal: Refusal | None = self._closed() or full
        if refusal is None and settings.when_full == "refuse":
            refusal = self._unrecordable()
        self._raise(cells, refusal)
        return places

    async def _has_caught_up(self) -> bool:
        """Wait while the history only lags; return False at once if it is broken."""
        recorder = self._recorder
        assert recorder is not None, "it has refused"
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        await recorder.wait_for_room()  # at once if it is broken; then the loop has not turned
        return turned.is_set() or recorder.refusal() is None

    def _raise(self, cells: Sequence[int], refusal: Refusal | None) -> None:
        """Raise the error for submissions that cannot even wait."""
        if isinstance(refusal, TaskManagerClosedError):
            self._waiting.pass_on_room()
        elif asyncio.get_running_loop() is not self._runtime.loop:
            problem = "is not the manager's; use manager.from_thread in other threads"
            raise InvalidTaskError("event loop", problem)
        if refusal is not None:
            self.count_refusal(cells, refusal)
            raise refusal


def _is_true(argument: str, value: object) -> bool:
    try:
        return bool(value)
    except BaseException as error:
        raise InvalidTaskError(argument, f"is neither true nor false: {foreign.text(error)}") from error


def _refuse_ambiguous(traits: CallableTraits, **given: object) -> None:
    """Refuse an option that the callable also has as a parameter, since it may be meant for the callable."""
    for option in sorted(traits.ambiguous):
        if given[option] is not None:
            problem = (
                f"{traits.name} has a parameter of this name too; give it its argument by functools.partial(…, "
                f"{option}=…), or the task its option by with_options(…, {option}=…)"
            )
            raise InvalidTaskError(option, problem)


def _as_json(argument: str, value: object) -> dict[str, Any]:
    """Return a copy of `value` as JSON shows it."""
    if not foreign.is_a(value, Mapping):
        raise InvalidTaskError(
            argument, f"{foreign.kind_name(type(value))} must be a mapping that JSON can show"
        )
    try:
        encoded = msgspec.json.encode(dict(value))
    except BaseException as error:  # its values' own code may raise anything
        raise InvalidTaskError(argument, f"cannot be shown as JSON: {foreign.text(error)}") from error
    if len(encoded) > MAX_METADATA_BYTES:
        problem = f"takes {len(encoded)} bytes as JSON; {MAX_METADATA_BYTES} are allowed"
        raise InvalidTaskError(argument, problem)
    copy: dict[str, Any] = msgspec.json.decode(encoded)
    if encoded.count(b"{") + encoded.count(b"[") > MAX_METADATA_DEPTH and _depth(copy) > MAX_METADATA_DEPTH:
        raise InvalidTaskError(argument, f"is nested more than {MAX_METADATA_DEPTH} levels deep")
    return copy


def _depth(value: object) -> int:
    """Return how many levels of mappings and lists are nested, without a call for each."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [below for item in level for below in (item.values() if isinstance(item, dict) else item)]
    return depth
