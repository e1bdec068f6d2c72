"""The health checks of a program's own, such as whether its database answers; /readyz and /health ask them.

A check runs when somebody asks and its last result is too old, one run at a time, so more probes do not make it run
more often. A plain function runs in a daemon thread. A coroutine function runs on the work loop, where the pools are
that it looks at. Nobody waits for either past its timeout, so a wedged work loop never blocks a probe.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, Final, Unpack

from qorzen_obs import foreign
from qorzen_obs.callables import traits_of
from qorzen_obs.clock import Clock, SystemClock
from qorzen_obs.errors import InvalidHealthCheckError, InvalidTaskError
from qorzen_obs.health import (
    CheckDefinition,
    CheckOptions,
    check_check_name,
    definition_of,
    with_check_options,
)

MAX_CHECKS: Final = 50  #: each adds a metric series, and may need a thread
_MAX_OUTPUT: Final = 500
_CLOSE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one run of a check."""

    passed: bool
    output: str  #: what is wrong, or a remark when all is well; one line
    seconds: float  #: how long it took, or has taken so far
    at: float  #: when it began, Unix seconds


class _Run:
    """One run of a check, from its start to its real end, which may come long after its timeout."""

    __slots__ = ("at", "began", "ended", "overdue", "result")

    def __init__(self, clock: Clock) -> None:
        self.at = clock.now()
        self.began = clock.monotonic()
        self.overdue = False
        self.result: CheckResult | None = None
        self.ended: Future[None] = Future()
        self.ended.set_running_or_notify_cancel()  # a waiter that gives up must not cancel it for the others


class UserCheck:
    """One check, its present run and its last result. From any thread."""

    def __init__(
        self,
        func: Callable[[], Any],
        definition: CheckDefinition,
        *,
        work_loop: Callable[[], asyncio.AbstractEventLoop | None],
        clock: Clock,
        redact: Callable[[str, int], str],
        on_change: Callable[[str, CheckResult], None],
    ) -> None:
        traits = traits_of(func)
        self.func = func
        self.name = traits.name.rpartition(".")[2] if definition.name is None else definition.name
        self.critical = definition.critical
        self.timeout = definition.timeout
        self.max_age = definition.max_age
        self._is_async = traits.is_async
        self._work_loop = work_loop
        self._clock = clock
        self._redact = redact
        self._on_change = on_change
        self._passes = True  # the last reported result
        self._lock = threading.Lock()
        self._run: _Run | None = None  # the last run that began
        self._before: CheckResult | None = None  # the result of the run before it
        self._task: asyncio.Task[None] | None = None  # the asyncio task of a run on the work loop

    def begin(self) -> None:
        """Begin a run if the last one has ended and its result is too old. Returns at once."""
        with self._lock:
            last = self._run
            if last is not None:
                if last.result is None:
                    return
                ended = last.began + last.result.seconds
                if self._clock.monotonic() - ended < self.max_age:
                    return
                self._before = last.result
            run = self._run = _Run(self._clock)
        if self._is_async:
            self._begin_on_loop(run)
        else:
            name = f"qorzen-check-{self.name}"
            try:
                threading.Thread(target=self._run_in_thread, args=(run,), name=name, daemon=True).start()
            except RuntimeError as error:  # the system has no more threads
                self._end(run, False, str(error))

    async def refresh(self) -> None:
        """Refresh `result` if it is too old; returns by the timeout, whatever the check does."""
        self.begin()
        run = self._run
        assert run is not None, "one has begun"
        left = run.began + self.timeout - self._clock.monotonic()
        if run.result is None and left > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await asyncio.wrap_future(run.ended)
        if run.result is None:
            run.overdue = True
            self._report(self._overdue(run))

    def result(self) -> CheckResult | None:
        """Return the last run's result, or the previous one while the last still has time; None at first."""
        run = self._run
        if run is None or run.result is not None:
            return None if run is None else run.result
        is_overdue = run.overdue or self._clock.monotonic() - run.began >= self.timeout
        return self._overdue(run) if is_overdue else self._before

    def cancel(self) -> asyncio.Task[None] | None:
        """Ask a run on the work loop to stop and return it; on that loop."""
        if self._task is not None:
            self._task.cancel()
        return self._task

    def _overdue(self, run: _Run) -> CheckResult:
        seconds = self._clock.monotonic() - run.began
        problem = f"did not end within {self.timeout:g} s and still runs, after {seconds:.1f} s"
        return CheckResult(False, problem, seconds, run.at)

    def _begin_on_loop(self, run: _Run) -> None:
        loop = self._work_loop()
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(self._make_task, loop, run)
                return
        self._end(run, False, "the work loop does not run")

    def _make_task(self, loop: asyncio.AbstractEventLoop, run: _Run) -> None:
        self._task = loop.create_task(self._run_on_loop(run), name=f"health check {self.name}")

    async def _run_on_loop(self, run: _Run) -> None:
        limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                value = await self.func()
            self._end(run, *_judge(value))
        except asyncio.CancelledError:
            self._end(run, False, "it was cancelled")
            raise
        except BaseException as error:  # noqa: BLE001 - a check's exception must not end the work loop
            self._end(
                run,
                False,
                f"did not end within {self.timeout:g} s" if limit.expired() else foreign.described(error),
            )
        finally:
            self._task = None

    def _run_in_thread(self, run: _Run) -> None:
        try:
            self._end(run, *_judge(self.func()))
        except BaseException as error:  # noqa: BLE001 - a thread's top: it is the check's result
            self._end(run, False, foreign.described(error))

    def _end(self, run: _Run, passed: bool, output: str) -> None:
        seconds = self._clock.monotonic() - run.began
        if passed and seconds > self.timeout:
            passed, output = False, f"took {seconds:.1f} s; {self.timeout:g} s are allowed"
        shown = self._redact(output, _MAX_OUTPUT)
        line = "".join(character if character.isprintable() else " " for character in shown)
        run.result = CheckResult(passed, line, seconds, run.at)
        run.ended.set_result(None)
        self._report(run.result)

    def _report(self, result: CheckResult) -> None:
        with self._lock:
            changed, self._passes = result.passed is not self._passes, result.passed
        if changed:
            self._on_change(self.name, result)


class HealthChecks:
    """`manager.health`: the program's own checks, by name. From any thread.

    Args:
        work_loop: where coroutine functions run; None while there is none.
        redact: takes each text of a check, and the number of characters to keep, before the text is shown.
        on_change: called when a check begins to fail and when it passes again; from any thread.
    """

    def __init__(
        self,
        work_loop: Callable[[], asyncio.AbstractEventLoop | None] = lambda: None,
        *,
        clock: Clock | None = None,
        redact: Callable[[str, int], str] = lambda text, limit: text[:limit],
        on_change: Callable[[str, CheckResult], None] = lambda name, result: None,
    ) -> None:
        self._make = functools.partial(
            UserCheck,
            work_loop=work_loop,
            clock=clock or SystemClock(),
            redact=redact,
            on_change=on_change,
        )
        self.stopping = False  #: the process was asked to stop; the work loop may not know yet
        self._checks: dict[str, UserCheck] = {}
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[UserCheck]:
        return iter(list(self._checks.values()))

    def add(self, check: Callable[[], object], **options: Unpack[CheckOptions]) -> None:
        """Add a function without arguments; `options` override those of its `@health_check`.

        A plain function runs in a thread of its own, a coroutine function on the work loop; one run at a time, and only
        when somebody asks. Nobody waits for a run beyond its timeout.

        Raises:
            InvalidHealthCheckError: it cannot be called, its name is taken or unfit, or there are too many.
        """
        if not callable(check):
            raise InvalidHealthCheckError("check", f"{foreign.shown(check)} is not callable")
        try:
            made = self._make(check, with_check_options(definition_of(check), options))
        except InvalidTaskError as error:
            raise InvalidHealthCheckError("check", error.problem) from None
        check_check_name(made.name)
        with self._lock:
            if len(self._checks) >= MAX_CHECKS:
                raise InvalidHealthCheckError(
                    "check", f"there are {MAX_CHECKS} already; look at several things in one"
                )
            if self._checks.setdefault(made.name, made) is not made:
                raise InvalidHealthCheckError(
                    "name", f"two checks are named {made.name!r}; give one another name"
                )

    def refuse_traffic(self) -> None:
        """Make /readyz report "not ready" from now on; from any thread or signal handler."""
        self.stopping = True

    async def close(self) -> None:
        """Cancel the runs on the work loop and wait a second at most; on that loop."""
        running = {task for check in self if (task := check.cancel()) is not None}
        if running:
            await asyncio.wait(running, timeout=_CLOSE_SECONDS)


def _judge(value: object) -> tuple[bool, str]:
    if foreign.is_a(value, Awaitable):
        with contextlib.suppress(BaseException):
            if type(value) is CoroutineType:
                value.close()
        return False, "it returned an awaitable; make it a coroutine function, with async def"
    if value is False:
        return False, "it returned False"
    return True, foreign.plain(value) if foreign.is_a(value, str) else ""
