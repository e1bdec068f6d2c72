"""Runs calls of executors as tasks: checks them on the thread that submits, accepts them on the work loop.

A durable history records such a call soon after it is accepted, also if `history.accept` is `committed`: many callers
are on threads that must not wait for a disk.

A call is accepted in its submitter's context. An asyncio task follows it and gives its outcome to the future. It waits
like any caller of the manager, so the task that submitted the call lends its slot meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from math import inf
from types import BuiltinMethodType
from typing import Any, Final, NamedTuple, NoReturn

from qorzen_obs.callables import traits_of
from qorzen_obs.core.admission import Admission, Refusal
from qorzen_obs.core.lifecycle import Lifecycle
from qorzen_obs.core.retention import Retention
from qorzen_obs.core.runtime import ManagerState, Runtime
from qorzen_obs.core.task_future import TaskFuture
from qorzen_obs.engines.base import ThreadedEngine
from qorzen_obs.engines.traits import EngineTraits
from qorzen_obs.errors import (
    ExecutorRefusedError,
    HistoryUnavailableError,
    InvalidTaskError,
    TaskManagerClosedError,
    TaskQueueFullError,
)
from qorzen_obs.record import Attempt, TaskRecord
from qorzen_obs.tasks import TaskCategory, TaskPriority

_FUTURE_CANCELLED: Final = "its future was cancelled"

OnEnd = Callable[[TaskFuture[Any]], object]


class CallOptions(NamedTuple):
    """What all calls of an executor are submitted with."""

    category: TaskCategory | None
    priority: TaskPriority | None
    timeout: float | None
    engine: EngineTraits | None  #: None: each callable's own


class Calls:
    """Runs the calls of one manager's executors (core/executor.py)."""

    def __init__(
        self, runtime: Runtime, admission: Admission, lifecycle: Lifecycle, retention: Retention
    ) -> None:
        self.runtime = runtime
        self._admission = admission
        self._lifecycle = lifecycle
        self._retention = retention
        self._following: set[asyncio.Task[None]] = set()
        self._keeping: set[str] = set()  # the kinds of engines that have had calls

    def check(
        self, options: CallOptions, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> TaskRecord:
        """Return the record of a call; from any thread.

        Raises:
            InvalidTaskError: it cannot be a task.
        """
        context, func, args, kwargs = _without_context(func, args, kwargs)
        traits, engine = traits_of(func), options.engine
        if engine is not None and not engine.runs(is_async=traits.is_async):
            kind = "async" if traits.is_async else "synchronous"
            raise InvalidTaskError(
                "fn", f"{traits.name} is {kind}, and {engine.kind!r} does not run {kind} callables"
            )
        record = self._admission.check(
            func,
            args,
            kwargs,
            name=None,
            category=options.category,
            plugin_id=None,
            priority=options.priority,
            metadata=None,
            timeout=options.timeout or traits.definition.timeout or inf,
            cancellable=True,
            again=True,  # all keywords are the callable's
        )
        if engine is not None:
            record.engine = engine
        if context is not None:
            record.context = context.copy()
        return record

    def submit(self, record: TaskRecord, future: TaskFuture[Any], on_end: OnEnd) -> None:
        """Have the task of a call accepted: at once on the work loop, soon from another thread.

        Raises:
            ExecutorRefusedError: it is not accepted.
        """
        assert record.context is not None, "a record keeps its context until it ends"
        self._keep_thread(record.engine.kind)
        loop, within = self.runtime.loop, record.context.copy()
        record.on_start = functools.partial(self._starts, future)
        future.follow(functools.partial(self._cancel, record, future))
        refusal = within.run(self._admission.refusal)
        if loop is None or (refusal is None and self.runtime.runs_here):
            within.run(self._accept, record, future, on_end)
            return
        if refusal is None:
            step = functools.partial(self._arrive, record, future, on_end)
        else:
            step = functools.partial(self._admission.count_refusal, [record.cell], refusal)
        try:
            loop.call_soon_threadsafe(step, context=within)
        except RuntimeError:  # the loop is closed
            refusal = refusal or TaskManagerClosedError(ManagerState.STOPPED.value)
        if refusal is not None:
            raise _refused(refusal)

    def _keep_thread(self, kind: str) -> None:
        """Make the engine keep a thread for calls that it starts while the interpreter exits and waits for them."""
        if kind in self._keeping or kind not in self.runtime.engines:
            return
        self._keeping.add(kind)
        engine = self.runtime.engines[kind]
        if isinstance(engine, ThreadedEngine):
            with suppress(RuntimeError):  # the system has no more threads: the attempt will report it
                engine.keep_thread()

    def _arrive(self, record: TaskRecord, future: TaskFuture[Any], on_end: OnEnd) -> None:
        """Accept what another thread has submitted. This and the methods below run on the work loop."""
        try:
            self._accept(record, future, on_end)
        except BaseException as error:  # noqa: BLE001 - it is the submitter's, and must not end the work loop
            future.fail(error)
            on_end(future)

    def _accept(self, record: TaskRecord, future: TaskFuture[Any], on_end: OnEnd) -> None:
        refusal = self._admission.refusal()
        if refusal is not None:
            self._admission.count_refusal([record.cell], refusal)
            raise _refused(refusal)
        # Without the loop's task factory: an eager one would begin it before the task is accepted.
        following = asyncio.Task(self._follow(record, future, on_end), name=f"call of {record.name}")
        try:
            if self._admission.has_room() and not future.cancelled():
                self._lifecycle.accept(record)
        except BaseException:
            following.cancel()
            raise
        self._following.add(following)
        following.add_done_callback(self._following.discard)

    async def _follow(self, record: TaskRecord, future: TaskFuture[Any], on_end: OnEnd) -> None:
        """Give the outcome of the task to the future, and keep nothing of it."""
        try:
            if not record.sequence and not future.cancelled():
                await self._admission.wait_for_room(record.cell)
                if not future.cancelled():
                    self._lifecycle.accept(record)
            if record.sequence:
                await self._lifecycle.waiting.for_end(record, None)
        except (TaskManagerClosedError, TaskQueueFullError, HistoryUnavailableError) as refusal:
            future.fail(_refused(refusal))
        except Exception as error:  # noqa: BLE001 - it is the submitter's
            future.fail(error)
        finally:
            future.end(record)
            on_end(future)
            if record.state.status.final:
                self._retention.handed_over(record)

    def _starts(self, future: TaskFuture[Any], attempt: Attempt) -> None:
        """Make the future RUNNING. If it was cancelled just now, make the attempt run nothing instead."""
        if not future.begin():
            record = attempt.record
            record.func, record.args, attempt.kwargs = _run_nothing, (), {}
            self.runtime.work_loop.call_soon(self._lifecycle.cancel, record, _FUTURE_CANCELLED)

    def _cancel(self, record: TaskRecord, future: TaskFuture[Any]) -> None:
        if not record.sequence:  # it waits for room, and will not be accepted
            future.begin()
        elif not record.state.status.final:
            self._lifecycle.cancel(record, _FUTURE_CANCELLED)


def _refused(refusal: Refusal) -> ExecutorRefusedError:
    refused = ExecutorRefusedError(str(refusal))
    refused.__cause__ = refusal
    return refused


def _run_nothing(**_: object) -> NoReturn:
    raise asyncio.CancelledError(_FUTURE_CANCELLED)


def _without_context(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Context | None, Any, tuple[Any, ...], dict[str, Any]]:
    """Return the context of a `Context.run` call, and the call inside it; for any other call, None and the call."""
    run, run_args, run_kwargs = func, args, kwargs
    if type(func) is functools.partial:
        run, run_args, run_kwargs = func.func, (*func.args, *args), {**func.keywords, **kwargs}
    if type(run) is not BuiltinMethodType or type(run.__self__) is not Context or not run_args:
        return None, func, args, kwargs
    if run.__name__ != "run":
        return None, func, args, kwargs
    return run.__self__, run_args[0], run_args[1:], run_kwargs
