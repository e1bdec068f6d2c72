"""The methods of TaskManager that submit tasks.

They keep the types of the callables. A type checker can follow a call in two forms: all arguments as the callable
takes them, without options; or arguments by position, then options. Python's types cannot express both at once, so
keyword arguments beside options are a type error, and `with_options` is the solution.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, Unpack, overload

from qorzen_obs import foreign
from qorzen_obs.callables import refuse_parameter, traits_of
from qorzen_obs.core.admission import Admission
from qorzen_obs.core.base import QorzenManager
from qorzen_obs.core.batch import Batches
from qorzen_obs.core.calls import Calls
from qorzen_obs.core.control import Control
from qorzen_obs.core.executor import TaskExecutor, make_executor
from qorzen_obs.core.handle import TaskHandle
from qorzen_obs.core.idempotency import Submission, digest_of
from qorzen_obs.core.lifecycle import Lifecycle
from qorzen_obs.core.recording import Recording
from qorzen_obs.core.task_table import TaskTable
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.options import SubmitOptions
from qorzen_obs.record import TaskRecord
from qorzen_obs.tasks import CategoryOrName, EngineOrName, PriorityOrName, TaskCategory, TaskPriority

P = ParamSpec("P")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


class Submitting(QorzenManager):
    """The submitting methods of TaskManager, which makes the parts that they delegate to."""

    _admission: Admission
    _batches: Batches
    _calls: Calls
    _control: Control
    _lifecycle: Lifecycle
    _recording: Recording | None
    _table: TaskTable

    @overload
    async def submit_task(self, func: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> str: ...
    @overload
    async def submit_task(
        self, func: Callable[[*Ts], object], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> str: ...
    async def submit_task(  # type: ignore[misc]  # mypy does not see that Any takes the arguments of both
        self,
        func: Callable[..., Any],
        /,
        *args: Any,
        name: str | None = None,
        category: TaskCategory | str | None = None,
        plugin_id: str | None = None,
        priority: TaskPriority | str | int | None = None,
        metadata: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        cancellable: bool = True,
        **kwargs: Any,
    ) -> str:
        """Accept `func(*args, **kwargs)`, synchronous or async, and return the task's id.

        An unset `category` or `priority` comes from the callable's `@task`, else it is CORE and NORMAL. `timeout` is in
        seconds for one attempt: None takes the definition's, else `tasks.default_timeout`; math.inf means no limit.
        `metadata` is kept as JSON shows it. The task runs with the submitter's context variables. See SubmitOptions for
        all options.

        A type checker compares the arguments with the parameters of `func`. Beside options it accepts only positional
        arguments. If `func` also needs keyword arguments, give the options with `with_options(func, timeout=…)`.

        If an option has the same name as a parameter of `func`, it is refused, since it may be meant for either.
        `functools.partial(func, timeout=…)` passes it to `func`; `with_options(func, timeout=…)` makes it the task's
        option.

        Returns at once, with two exceptions. If `tasks.when_full` is 'wait', it waits while the queue is full or too
        many changes wait for the disk. If `history.accept` is 'committed', it waits until the task's record is on disk.
        If that wait is cancelled, nothing was accepted.

        Raises:
            InvalidTaskError: an argument is unusable.
            TaskQueueFullError: `tasks.max_pending` tasks are pending.
            HistoryUnavailableError: the durable history cannot record the task.
            TaskManagerClosedError: not initialized or stopped; or draining, and the caller is not in a running task.
        """
        record = self._admission.check(
            func,
            args,
            kwargs,
            name=name,
            category=category,
            plugin_id=plugin_id,
            priority=priority,
            metadata=metadata,
            timeout=timeout,
            cancellable=cancellable,
        )
        if not self._admission.has_room():
            await self._admission.wait_for_room(record.cell)
        if self._recording is None:
            self._lifecycle.accept(record)
        else:
            await self._recording.then([record], partial(self._lifecycle.accept, record))
        return record.task_id

    @overload
    async def submit_async_task(
        self, func: Callable[P, Awaitable[object]], /, *args: P.args, **kwargs: P.kwargs
    ) -> str: ...
    @overload
    async def submit_async_task(
        self, func: Callable[[*Ts], Awaitable[object]], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> str: ...
    async def submit_async_task(  # type: ignore[misc]  # as above
        self,
        func: Callable[..., Awaitable[Any]],
        /,
        *args: Any,
        name: str | None = None,
        category: TaskCategory | str | None = None,
        plugin_id: str | None = None,
        priority: TaskPriority | str | int | None = None,
        metadata: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        cancellable: bool = True,
        **kwargs: Any,
    ) -> str:
        """Accept a task as `submit_task` does, for async callables only.

        Raises:
            InvalidTaskError: `func` is not async.
            InvalidTaskError, TaskQueueFullError, HistoryUnavailableError, TaskManagerClosedError: as `submit_task`.
        """
        if not traits_of(func).is_async:
            problem = f"{foreign.shown(func)} is not async; use submit_task for synchronous callables"
            raise InvalidTaskError("func", problem)
        return await self.submit_task(
            func,
            *args,
            name=name,
            category=category,
            plugin_id=plugin_id,
            priority=priority,
            metadata=metadata,
            timeout=timeout,
            cancellable=cancellable,
            **kwargs,
        )

    @overload
    async def run(
        self, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def run(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(
        self,
        func: Callable[[*Ts], Coroutine[Any, Any, R]],
        /,
        *args: *Ts,
        **options: Unpack[SubmitOptions],
    ) -> R: ...
    @overload
    async def run(self, func: Callable[[*Ts], R], /, *args: *Ts, **options: Unpack[SubmitOptions]) -> R: ...
    async def run(self, func: Callable[..., Any], /, *args: object, **options: object) -> Any:
        """Submit, wait, and return the value or raise what the task raised.

        Takes the arguments of `submit_task`, and raises what that raises. A task that awaits this lends its slot
        meanwhile. Cancelling the wait cancels the task, if it is cancellable.

        Raises:
            TaskCancelled: the task was cancelled.
            TaskTimeoutError: it passed its timeout.
            TaskFailedError: it raised SystemExit, KeyboardInterrupt or anything else that is not an Exception; in a
                worker process FarTaskError.
        """
        return await self._control.value_of(self._accepted(await self.submit_task(func, *args, **options)))

    @overload
    async def start(
        self, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]: ...
    @overload
    async def start(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]: ...
    @overload
    async def start(
        self,
        func: Callable[[*Ts], Coroutine[Any, Any, R]],
        /,
        *args: *Ts,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle[R]: ...
    @overload
    async def start(
        self, func: Callable[[*Ts], R], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> TaskHandle[R]: ...
    async def start(self, func: Callable[..., Any], /, *args: object, **options: object) -> TaskHandle[Any]:
        """Accept a task as `submit_task` does, and return a handle on it.

            handle = await tasks.start(resize, path, timeout=5)
            ...
            image = await handle

        The handle knows the task's outcome for as long as you keep it. The task does not need the handle: dropping it
        changes nothing.

        Raises:
            InvalidTaskError, TaskQueueFullError, HistoryUnavailableError, TaskManagerClosedError: as `submit_task`.
        """
        return self._control.handle_on(self._accepted(await self.submit_task(func, *args, **options)))

    @overload
    async def start_all(
        self, calls: Iterable[Callable[[], Coroutine[Any, Any, R]]], /, **options: Unpack[SubmitOptions]
    ) -> list[TaskHandle[R]]: ...
    @overload
    async def start_all(
        self, calls: Iterable[Callable[[], R]], /, **options: Unpack[SubmitOptions]
    ) -> list[TaskHandle[R]]: ...
    async def start_all(
        self,
        calls: Iterable[Callable[[], Any]],
        /,
        *,
        name: str | None = None,
        category: TaskCategory | str | None = None,
        plugin_id: str | None = None,
        priority: TaskPriority | str | int | None = None,
        metadata: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        cancellable: bool = True,
    ) -> list[TaskHandle[Any]]:
        """Accept a task for each of the calls, all of them or none, and return their handles in the same order.

        A call is a callable that needs no more arguments, usually a functools.partial. The options apply to each task.
        `with_options` gives one task options of its own.

            handles = await tasks.start_all([partial(resize, path, width=80) for path in paths], timeout=5)
            images = [await handle for handle in handles]

        If one call cannot be accepted, none is. The queue must have room for all of them, as if none could start at
        once. If `tasks.when_full` is 'wait', this waits for that room, and batches take turns; if the wait is
        cancelled, nothing was accepted. Otherwise it takes one turn of the loop: ten thousand calls hold the loop for
        0.1 to 0.2 seconds.

        Raises:
            InvalidTaskError: an argument is unusable; `argument` names a call by its place, such as `calls[3]`.
            TaskQueueFullError: the queue lacks room for all of them, or there are more than `tasks.max_pending`.
            HistoryUnavailableError, TaskManagerClosedError: as `submit_task`.
        """
        return await self._batches.accept(
            calls,
            self._control.handle_on,
            name=name,
            category=category,
            plugin_id=plugin_id,
            priority=priority,
            metadata=metadata,
            timeout=timeout,
            cancellable=cancellable,
        )

    def _accepted(self, task_id: str) -> TaskRecord:
        """Return the record of the task that was just accepted."""
        live, history = self._table.live, self._table.history
        # A drain may cancel it at once.
        record = live[task_id] if task_id in live else history.record(task_id)
        assert record is not None, "what has just ended is kept whole for this turn of the loop"
        return record

    async def submit_once(
        self, func: Callable[..., Any], /, *args: Any, key: str, digest: bytes | None = None, **options: Any
    ) -> Submission:
        """Submit a task, unless `key` was used before for a task of this name; then return that task's id.

            task_id, first = await tasks.submit_once(resize, path, key=request_id)

        While the first task is live or kept whole, repeating the call with the same key and the same arguments and
        options returns the first task's id and submits nothing, also when the queue is full or the manager drains. A
        call that comes while the first is being submitted waits for it. A submission that raised does not use the key.

        Arguments are the same when their JSON is the same. For arguments that JSON cannot show or that may differ, give
        a `digest`, which then identifies the whole call. The contents of a closure or a bound method are not compared.

        Raises:
            IdempotencyConflictError: the key was used with other arguments, or with another digest.
            InvalidTaskError: `key` is unusable, it has 1 to 128 printable characters; or an argument cannot be
                compared, or is unusable as `submit_task` says.
            TaskQueueFullError, HistoryUnavailableError, TaskManagerClosedError: as `submit_task`.
        """
        for option in ("key", "digest"):
            refuse_parameter(func, option)
        name = options.get("name") or traits_of(func).name
        if digest is None:
            digest = digest_of(func, args, options)
        submit = partial(self.submit_task, func, *args, **options)
        return await self._control.submit_once(submit, name=name, key=key, digest=digest)

    async def rerun(self, task_id: str) -> str:
        """Submit the call of a failed or cancelled task again, and return the new task's id.

        The same callable runs with the same argument objects, as the first run left them: an iterator that it used up
        stays used up. Name, category, priority, metadata, timeout and plugin are the first task's. Delay, retries and
        limits from `@task` apply anew, and the context variables are the caller's. The new span links to the last span
        of the first task, whose id is `TaskInfo.rerun_of`.

        Raises:
            TaskNotFoundError: the id is unknown.
            TaskNotRerunnableError: it is live, completed, not kept whole any more, or without its arguments.
            TaskQueueFullError, HistoryUnavailableError, TaskManagerClosedError: as `submit_task`.
        """
        return await self._control.rerun(task_id)

    def executor(
        self,
        *,
        category: CategoryOrName | None = None,
        engine: EngineOrName | None = None,
        priority: PriorityOrName | None = None,
        timeout: float | None = None,
    ) -> TaskExecutor:
        """Return a `concurrent.futures.Executor` whose calls are tasks, for libraries that take one; from any thread.

            loop.set_default_executor(tasks.executor(category="io"))  # each asyncio.to_thread is a task

        If its engine runs callables on threads, it is a ThreadPoolExecutor. Unset options are as in `submit_task`, but
        a call has no timeout unless `timeout` or its `@task` sets one. A durable history records a call soon after it
        is accepted, also if `history.accept` is 'committed'. See TaskExecutor for what a call does.

        Raises:
            InvalidTaskError: an option is unusable, or the engine does not run synchronous callables.
        """
        return make_executor(
            self._calls, category=category, engine=engine, priority=priority, timeout=timeout
        )
