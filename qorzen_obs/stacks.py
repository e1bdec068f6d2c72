"""Where code is right now: stacks of threads and suspended coroutines, as plain data without values of variables.

Reading a stack is cheap and changes nothing: frames of another thread are read under the interpreter's lock, each by
`unmoved`, and released at once. Knows nothing about tasks. Worker processes import this, so it must stay cheap.
"""

from __future__ import annotations

import asyncio
import gc
import linecache
import operator
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import Context
from dataclasses import dataclass, replace
from functools import partial
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final, NamedTuple, TypeVar

from qorzen_obs import foreign

R = TypeVar("R")

MAX_FRAMES: Final = 100  #: a deeper stack keeps its innermost frames: they show what happens now
MAX_TASKS: Final = 50  #: most asyncio tasks shown for one of our tasks
_MAX_LINE: Final = 200


class Place(NamedTuple):
    """A frame before it is shown: the data that can be copied without holding the frame."""

    code: CodeType
    line: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a stack. `code` is the text of the line, if its file can be read."""

    file: str
    line: int
    function: str
    code: str | None = None


# The states of a live stack.
STARTING: Final = "starting"  #: its callable has not begun
RUNNING: Final = "running"  #: its code executes
WAITING: Final = "waiting"  #: it is suspended in an await
ABANDONED: Final = "abandoned"  #: nobody waits for it any more, but it still runs

Frames = tuple[Frame, ...]  #: the innermost last


@dataclass(frozen=True, slots=True)
class AsyncioTask:
    """An asyncio task that was started inside a task of ours."""

    name: str
    frames: Frames
    awaiting: str | None


@dataclass(frozen=True, slots=True)
class LiveStack:
    """Where a running attempt is."""

    state: str  #: one of the four above
    frames: Frames = ()
    awaiting: str | None = None  #: what its innermost await waits for
    tasks: tuple[AsyncioTask, ...] = ()
    pid: int | None = None  #: id of the worker process that runs it; None on other engines


# ---------------------------------------------------------------------- threads


def unmoved(read: Callable[..., R], *arguments: object) -> R:
    """Return what `read`, a function written in C, returns of code that may run in another thread.

    It creates frame objects. On Python 3.11 that may start the garbage collector, whose callbacks let the other thread
    go on and leave the frame in the middle of the reading; the process then crashes (docs/decisions/0086). So the
    collector is switched off meanwhile, and no other thread gets a turn: C calls C.
    """
    if not (_CREATING_COLLECTS and gc.isenabled()):
        return read(*arguments)
    steps: tuple[Callable[[], Any], ...] = (gc.disable, partial(read, *arguments), gc.enable)
    try:
        results: list[Any] = list(map(_call, steps))
    except BaseException:
        gc.enable()
        raise
    found: R = results[1]
    return found


_call: Final[Callable[[Callable[[], Any]], Any]] = operator.call
_CREATING_COLLECTS: Final = sys.version_info < (3, 12)  # newer ones collect before the next step of some code

#: What is read of a frame: the next one outwards, and its variables.
back_of: Final[Callable[[FrameType], FrameType | None]] = operator.attrgetter("f_back")
variables_of: Final[Callable[[FrameType], Mapping[str, Any]]] = operator.attrgetter("f_locals")


def thread_frame(thread_id: int) -> FrameType | None:
    """Return the innermost frame that a thread executes; None when it is gone."""
    return unmoved(sys._current_frames).get(thread_id)


def places_of(frame: FrameType | None, around: Callable[[FrameType], bool]) -> list[Place]:
    """Return the frames from `frame` outwards, innermost first, up to the frames that run them.

    `around` recognises the latter. Seen from outside, the first run of such frames is cut off, with everything around
    it; such frames further in were called by the code itself.
    """
    places, outside = [], []
    while frame is not None:
        places.append(Place(frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno))
        outside.append(around(frame))
        frame = unmoved(back_of, frame)
    return places[: _cut(outside)]


def _cut(outside: list[bool]) -> int:
    """Return how many of the innermost frames to keep; the argument says of each whether it runs others."""
    at = len(outside)
    while at and not outside[at - 1]:
        at -= 1
    if not at:
        return len(outside)
    while at and outside[at - 1]:
        at -= 1
    return at


def belongs_to(frame: FrameType, package: str) -> bool:
    """Return whether a frame executes code of `package` or below it."""
    return f"{foreign.module_of(frame)}.".startswith(f"{package}.")


def is_of_engines(frame: FrameType) -> bool:
    """Return whether a frame is an engine's own: no frame outside it is a task's code."""
    return belongs_to(frame, "qorzen_obs.engines")


def shown(places: list[Place]) -> Frames:
    """Return the lines to show for frames given innermost first. Reads source files."""
    return tuple(
        Frame(code.co_filename, line, code.co_qualname, _source(code.co_filename, line))
        for code, line in reversed(places[:MAX_FRAMES])
    )


def _source(file: str, line: int) -> str | None:
    try:
        return linecache.getline(file, line).strip()[:_MAX_LINE] or None
    except Exception:  # noqa: BLE001 - a code object may name any file, and a module's loader may raise anything
        return None


def redacted(stack: LiveStack, redact: Callable[[str], str]) -> LiveStack:
    """Return a stack with its source lines and names of asyncio tasks, which are the program's, passed to `redact`."""
    tasks = tuple(
        AsyncioTask(redact(task.name), redacted_frames(task.frames, redact), _redacted(task.awaiting, redact))
        for task in stack.tasks
    )
    frames, awaiting = redacted_frames(stack.frames, redact), _redacted(stack.awaiting, redact)
    return replace(stack, frames=frames, awaiting=awaiting, tasks=tasks)


def _redacted(text: str | None, redact: Callable[[str], str]) -> str | None:
    return None if text is None else redact(text)


def redacted_frames(frames: Frames, redact: Callable[[str], str]) -> Frames:
    """As `redacted`, for frames."""
    return tuple(frame if frame.code is None else replace(frame, code=redact(frame.code)) for frame in frames)


def text_of(frames: Iterable[Frame]) -> str:
    """Return frames in the form of a traceback, the innermost last."""
    lines = []
    for frame in frames:
        lines.append(f'File "{frame.file}", line {frame.line}, in {frame.function}')
        if frame.code is not None:
            lines.append(f"  {frame.code}")
    return "\n".join(lines)


# ---------------------------------------------------------------------- coroutines


def coroutine_places(awaitable: object) -> list[Place]:
    """Return where a suspended coroutine is, through everything that it awaits, innermost first.

    Follows coroutines, generators and async generators; a coroutine that runs right now shows only its own frame.
    """
    places = []
    seen = 0
    while awaitable is not None and seen < 10_000:  # a cycle should be impossible, but would never end
        seen += 1
        frame, awaitable = _step(awaitable)
        if frame is not None:
            places.append(Place(frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno))
    places.reverse()
    return places


def _step(awaitable: object) -> tuple[FrameType | None, object]:
    """Return the frame of an awaitable, and what it awaits."""
    kind = type(awaitable)
    step = _STEPS.get(kind)
    if step is not None:
        return unmoved(step, awaitable)
    # they do not show what they wrap, but the garbage collector knows
    if foreign.kind_name(kind) in _WRAPPERS:
        for inner in gc.get_referents(awaitable):
            if type(inner) in _STEPS:
                return None, inner
    return None, None


_STEPS: Final[dict[type, Callable[[object], tuple[FrameType | None, object]]]] = {
    CoroutineType: operator.attrgetter("cr_frame", "cr_await"),
    GeneratorType: operator.attrgetter("gi_frame", "gi_yieldfrom"),
    AsyncGeneratorType: operator.attrgetter("ag_frame", "ag_await"),
}
_WRAPPERS: Final = frozenset(
    {"coroutine_wrapper", "async_generator_asend", "async_generator_athrow", "anext_awaitable"}
)


def awaited_by(task: asyncio.Task[Any], places: list[Place]) -> str | None:
    """Describe what a suspended asyncio task ultimately awaits; None when it is about to run.

    `places` are its frames. No value is shown: only the class of a future, or the name of an asyncio task.
    """
    waiter = foreign.attribute(task, "_fut_waiter")
    if waiter is None:
        return None
    if foreign.is_a(waiter, asyncio.Task):
        return describe_task(waiter)
    children = foreign.attribute(waiter, "_children")  # of asyncio.gather
    if type(children) is list and all(foreign.is_a(child, asyncio.Future) for child in children):
        left = sum(not child.done() for child in children)
        return f"asyncio.gather, {left} of {len(children)} not done"
    for code, _ in places:
        found = _ASYNCIO.search(code.co_filename)
        if found is None:
            break
        return f"asyncio.{code.co_qualname}"
    return f"a future in {places[0].code.co_qualname}" if places else "a future"


#: The standard library's own asyncio.
_ASYNCIO: Final = re.compile(r"[/\\]asyncio[/\\]\w+\.py$")


def describe_task(task: asyncio.Task[Any]) -> str:
    """Return an asyncio task's name and what it runs."""
    return f"asyncio task {foreign.text(task.get_name())} of {foreign.name_of(task.get_coro())}"


def context_of(task: asyncio.Task[Any]) -> Context | None:
    """Return the context that an asyncio task runs in; `Task.get_context` is new in Python 3.12."""
    get = getattr(task, "get_context", None)
    if get is not None:
        context = get()
        return context if isinstance(context, Context) else None
    return next((found for found in gc.get_referents(task) if isinstance(found, Context)), None)


def asyncio_stack(task: asyncio.Task[Any], thread_id: int, start: object = None) -> LiveStack:
    """Return where an asyncio task is; from any thread.

    Args:
        thread_id: the id of its loop's thread, whose stack counts while the task runs.
        start: the coroutine to begin at, if that is not the task's own.
    """
    coroutine = start if start is not None else task.get_coro()
    own = task.get_coro()
    if isinstance(own, CoroutineType) and own.cr_running:
        frame = thread_frame(thread_id)
        return LiveStack(RUNNING, shown(places_of(frame, _is_outside_a_task)))
    places = coroutine_places(coroutine)
    if start is None:  # drop the engine's own frames
        places = [place for place in places if not _is_of_engines_file(place.code)]
    return LiveStack(WAITING, shown(places), awaited_by(task, places))


def asyncio_tasks_of(loop: asyncio.AbstractEventLoop, wanted: Callable[[Context], bool]) -> Iterator[Any]:
    """Yield the asyncio tasks of a loop whose context is `wanted`; from any thread, as asyncio allows."""
    for task in asyncio.all_tasks(loop):
        context = context_of(task)
        if context is not None and wanted(context):
            yield task


def show_asyncio_task(task: asyncio.Task[Any], thread_id: int) -> AsyncioTask:
    """Return one asyncio task in the form to show."""
    stack = asyncio_stack(task, thread_id)
    return AsyncioTask(describe_task(task), stack.frames, stack.awaiting)


def is_handle_run(frame: FrameType) -> bool:
    """Return whether a frame is asyncio's own frame that runs a callback of a loop."""
    return frame.f_code is _HANDLE_RUN


def _is_outside_a_task(frame: FrameType) -> bool:
    return is_handle_run(frame) or is_of_engines(frame)


def _is_of_engines_file(code: CodeType) -> bool:
    return _ENGINES.search(code.co_filename) is not None


_HANDLE_RUN: Final = asyncio.events.Handle._run.__code__
_RUNS_OTHERS: Final = re.compile(r"[/\\](asyncio|qorzen_obs[/\\]engines([/\\]processes)?)[/\\]\w+\.py$")
_ENGINES: Final = re.compile(r"[/\\]qorzen_obs[/\\]engines[/\\]\w+\.py$")


def all_stacks(loop: asyncio.AbstractEventLoop | None = None) -> str:
    """Return the stacks of all threads, and of the asyncio tasks of a loop, as text. From any thread."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for thread_id, frame in unmoved(sys._current_frames).items():
        places = places_of(frame, lambda _: False)
        parts.append(f"Thread {names.get(thread_id, thread_id)}:\n{_indented(shown(places))}")
    if loop is not None:
        for task in asyncio.all_tasks(loop):
            places = coroutine_places(task.get_coro())
            title = describe_task(task)
            awaiting = awaited_by(task, places)
            parts.append(
                f"{title}{f', awaiting {awaiting}' if awaiting else ''}:\n{_indented(shown(places))}"
            )
    return "\n\n".join(parts) + "\n"


def _indented(frames: Frames) -> str:
    return "\n".join(f"  {line}" for line in text_of(frames).splitlines())


# ---------------------------------------------------------------------- what faulthandler writes

_THREAD: Final = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+)")
_LINE: Final = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')


def users_frames(frames: Frames) -> Frames:
    """Return the frames inside the engine and the loop that run them, as `places_of` does."""
    outside = [_RUNS_OTHERS.search(frame.file) is not None for frame in reversed(frames)]
    return frames[len(frames) - _cut(outside) :]


def parse_dump(text: str, thread_id: int | None = None) -> Frames:
    """Return the stack that faulthandler wrote for one thread, or for the only one. Innermost last."""
    frames: list[Frame] = []
    wanted = thread_id is None
    for line in text.splitlines():
        head = _THREAD.match(line)
        if head is not None:
            wanted = thread_id is None or int(head[1], 16) == thread_id
            continue
        found = _LINE.match(line) if wanted else None
        if found is not None:
            number = int(found[2])
            frames.append(Frame(found[1], number, found[3], _source(found[1], number)))
    return tuple(reversed(frames[:MAX_FRAMES]))
