"""Tasks for worker processes. Apart from the tests, so that a worker imports no pytest to find them."""

# They are what users write: they print, and import where they need it.
# ruff: noqa: PLC0415, T201, TRY301

import asyncio
import atexit
import ctypes
import enum
import functools
import importlib
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

from qorzen_obs.core.current_task import current_task
from qorzen_obs.current import track
from qorzen_obs.options import task

process = task(engine="process")


def say_pid() -> None:
    """Tell the test that the task runs, and where."""
    current_task().progress(1, str(os.getpid()))


@process
def echo(value: Any = None) -> Any:
    return value


@process
def add(left: int, right: int, *, times: int = 1) -> int:
    return (left + right) * times


@process
def pid() -> int:
    return os.getpid()


@process
async def async_echo(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@process
async def async_forever() -> None:
    say_pid()
    await asyncio.Event().wait()


@process
async def async_stubborn() -> None:
    say_pid()
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


@process
def spin() -> None:
    """Ignore everything that can be ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say_pid()
    while True:
        pass


@process
def hold_the_gil() -> None:
    """Never let another line of Python run, by a regular expression that takes ages."""
    say_pid()
    re.match(r"(a+)+$", "a" * 64 + "b")


@process
def call_functions_for_ever() -> None:
    """Be in the middle of making a frame as often as can be."""
    say_pid()
    while True:
        sorted(range(5), key=lambda value: -value)


@process
def add_for_ever() -> None:
    """Never let another line of Python run, nor a handler of signals."""
    say_pid()
    sum(range(10**12))


@process
def sleep_for_ever() -> None:
    say_pid()
    time.sleep(600)


@process
def until_told() -> str:
    say_pid()
    while not current_task().wait(60):
        pass
    return "told"


@process
def told_within(seconds: float) -> bool:
    say_pid()
    return current_task().wait(seconds)


@process
def until_cancelled() -> None:
    say_pid()
    while True:
        current_task().wait(60)
        current_task().raise_if_cancelled()


@process
def until_file(path: str) -> int:
    """Return this worker's number once the file is there: a gate that the test opens."""
    say_pid()
    with Path(path).open("rb"):  # a named pipe: opens when the test opens its other end
        return os.getpid()


@process
def large(size: int) -> bytes:
    say_pid()
    return bytes(size)


@process
def die_by(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(600)


@process
def abort() -> None:
    os.abort()


@process
def exit_hard(code: int) -> None:
    os._exit(code)


@process
def crash() -> None:
    ctypes.string_at(0)


@process
def die_once(marker: str) -> None:
    """Leave a mark for each time that it was begun."""
    with Path(marker).open("a") as file:
        file.write("begun\n")
    os.kill(os.getpid(), signal.SIGKILL)


@process
def raise_it(kind: type[BaseException], *args: Any) -> None:
    raise kind(*args)


class TwoArguments(Exception):
    """Pickles, and does not come back: the classic mistake."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")


@process
def raise_two_arguments() -> None:
    raise TwoArguments("this", "that")


class HasLock(Exception):
    """Does not pickle."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


@process
def raise_has_lock() -> None:
    raise HasLock


class FailsToArrive:
    """Pickles; unpickling raises."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return int, ("no number",)


GATE = threading.Event()  # in the service; of a worker's nobody ever asks
ARRIVED = threading.Event()  # as above


def elsewhere(made_in: int, act: Callable[[], Any]) -> Any:
    """Do nothing in the process that a result was made in, and `act` in the one that rebuilds it."""
    return None if os.getpid() == made_in else act()


def hold_up() -> str:
    ARRIVED.set()
    GATE.wait()
    return "late"


class RunsOnArrival:
    """A result that runs `act` wherever it is rebuilt, or only in the service."""

    def __init__(self, act: Callable[..., Any], *args: Any, only_there: bool = False) -> None:
        self.reduced: tuple[Any, ...] = (act, args)
        if only_there:
            self.reduced = elsewhere, (os.getpid(), functools.partial(act, *args))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@process
def return_what_runs(act: Callable[..., Any], *args: Any, only_there: bool = False) -> Any:
    say_pid()
    return RunsOnArrival(act, *args, only_there=only_there)


def raise_on_arrival(kind: type[BaseException]) -> None:
    raise kind


class RaisesOnDeparture:
    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        raise self.kind


class RaisesOnArrival(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return raise_on_arrival, (SystemExit,)


@process
def raise_what_raises_on_arrival() -> None:
    raise RaisesOnArrival("first")


class Registered:
    """A class with a memory, which each process has for itself."""

    made = 0

    def __init__(self) -> None:
        Registered.made += 1


@process
def make_registered() -> tuple[Registered, int]:
    made = Registered()
    return made, made.made


class Number(enum.IntEnum):
    ONE = 1


@process
def log_a_number() -> None:
    logging.getLogger("theirs").warning(
        "counted", extra={"number": Number.ONE, "text": StringOfItsOwn("text")}
    )


class StringOfItsOwn(str):
    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return raise_on_arrival, (SystemExit,)


@process
def return_lock() -> Any:
    return threading.Lock()


@process
def return_lambda(factor: int) -> Any:
    return lambda value: value * factor


@process
def return_what_fails_to_arrive() -> Any:
    return FailsToArrive()


@process
def use_up_memory(limit: int) -> int:
    """Allocate beyond a limit that the task sets for its own process."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    kept = []
    while True:
        kept.append(bytearray(10_000_000))


@process
def fork_and_return() -> str:
    """Forget that the child comes back as well."""
    child = os.fork()
    if child == 0:
        current_task().progress(50, "from the child")
        return "child"
    os.waitpid(child, 0)
    return "parent"


@process
def fork_while_reporting() -> list[int]:
    """Fork in the middle of a flood of reports, which has a lock and a thread; the child uses them too."""
    log = logging.getLogger("forking")
    codes = []
    for number in range(20):
        for step in range(20):
            log.warning("step %d", step)
        child = os.fork()
        if child == 0:
            log.warning("child %d", number)
            current_task().progress(number, "child")
            os._exit(threading.active_count() - 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return codes


@process
def start_grandchildren() -> None:
    """Leave a child of the group, a child in a session of its own, and a daemon that nobody's child is."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    group = subprocess.Popen(sleeper)
    session = subprocess.Popen(sleeper, start_new_session=True)
    daemon = int(subprocess.check_output(["/bin/sh", "-c", "setsid sleep 600 >/dev/null & echo $!"]))
    current_task().progress(1, f"{os.getpid()} {group.pid} {session.pid} {daemon}")
    while True:
        pass


KEPT: list[Any] = []  # in a worker, until it ends


@process
def leave_things(folder: str) -> str:
    """Make what is to be cleaned up at the worker's end; return the name of a segment of shared memory."""
    KEPT.append(tempfile.TemporaryDirectory(dir=folder))
    atexit.register(Path(folder, "exit handler ran").touch)
    segment = shared_memory.SharedMemory(create=True, size=100)
    KEPT.append(segment)
    return segment.name


@process
def share_memory_and_spin() -> None:
    segment = shared_memory.SharedMemory(create=True, size=100)
    current_task().progress(1, segment.name)
    while True:
        pass


@process
def until_exists(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


@process
def never_leave() -> int:
    """Keep the worker from ending by itself."""
    threading.Thread(target=threading.Event().wait).start()
    return os.getpid()


@process
def use_queue(queue: Any, value: Any) -> Any:
    queue.put(value)
    return queue


@process
def read_stdin() -> str:
    return sys.stdin.read()


@process
def print_lines() -> None:
    print("to the output")
    print("to the errors", file=sys.stderr)
    os.system("echo from a child")
    print("unfinished", end="")


@process
def print_flood(lines: int) -> None:
    for number in range(lines):
        print(f"line {number}", flush=True)


@process
def log_lines() -> None:
    import structlog

    logging.getLogger("theirs").warning("by logging: %d", 7, extra={"answer": 42})
    structlog.get_logger().info("by structlog", answer=43, odd=object)
    try:
        raise ValueError("seen")
    except ValueError:
        logging.getLogger("theirs").exception("with a traceback")


@process
def make_spans() -> str:
    from opentelemetry import baggage, trace

    with trace.get_tracer("theirs", "1.0").start_as_current_span("outer", attributes={"a": 1}) as span:
        span.add_event("happened", {"b": "two"})
        with trace.get_tracer("theirs").start_as_current_span("inner"):
            logging.getLogger("theirs").warning("inside")
    return str(baggage.get_baggage("tenant"))


@process
def import_lazily(name: str) -> str:
    """Be the first to import what imports OpenTelemetry, and use that at once."""
    importlib.import_module(name)
    return make_spans()


@process
def count_up(steps: int, progress_reporter: Callable[..., None]) -> None:
    for _ in track(range(steps)):
        pass
    progress_reporter(100, "done")


@process
def who_am_i() -> dict[str, Any]:
    me = current_task()
    return {
        "task_id": me.task_id,
        "name": me.name,
        "category": me.category,
        "priority": me.priority,
        "number": me.number,
        "cancelled": me.cancelled,
    }


@process
def ask_for_the_manager() -> Any:
    return current_task().manager


@process
def close_everything() -> None:
    """What old recipes for daemons do."""
    os.closerange(3, 256)
    say_nothing = threading.Event()
    say_nothing.wait(600)


@process
def write_to_channel(junk: bytes, *, goes_on: bool) -> str:
    """What no code should do that finds a socket of ours. It says as progress in which process it is."""
    task: Any = current_task()
    task.progress(1, str(os.getpid()))
    task._sock.sendall(junk)
    if not goes_on:
        threading.Event().wait(600)
    return "went on"


@process
def write_to_channel_and_die(junk: bytes) -> None:
    task: Any = current_task()
    task._sock.sendall(junk)
    os.kill(os.getpid(), signal.SIGKILL)


@process
def use_processor(seconds: float, pause: float) -> None:
    """Use a processor for so long, then wait."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    time.sleep(pause)


@process
def raise_hostile(hook: str, raised: type[BaseException]) -> None:
    from tests import hostile

    hostile.throw(hook, raised)


@process
def return_hostile(hook: str, raised: type[BaseException]) -> object:
    from tests import hostile

    return hostile.value(hook, raised)
