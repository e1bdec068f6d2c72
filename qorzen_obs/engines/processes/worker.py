"""The worker process: takes one call at a time off the channel, runs it, sends back how it ended.

It has no thread of its own while a call runs, so that user code may fork. Whether the call was asked to
stop is seen by looking at the channel: during a call the service sends nothing but that. Imports little,
since each worker waits for it; telemetry is brought in by name, when the service says whose it is.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from types import FrameType
from typing import Any, Final, NamedTuple, Protocol

from qorzen_obs.current import CURRENT
from qorzen_obs.engines.processes import channel
from qorzen_obs.engines.processes.channel import Frame, FrameReader, frame_parts
from qorzen_obs.engines.processes.codec import decode, decode_encoded, encode, names_something
from qorzen_obs.engines.processes.failure import failure_of, untransferable
from qorzen_obs.engines.processes.far_imports import when_imported
from qorzen_obs.engines.processes.far_script import Script, be_script
from qorzen_obs.engines.processes.far_task import FarTask
from qorzen_obs.engines.processes.reports import Reports

_MAX_FRAMES: Final = 100  # as faulthandler's own
#: The worker's exit code when it has no memory left to say what happened.
EXIT_NO_MEMORY: Final = 77


class Call(NamedTuple):
    """What a CALL frame holds."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_async: bool
    wants_progress: bool
    about: dict[str, Any]  #: the task's identity, see FarTask
    surroundings: Any  #: what the far side's telemetry needs to know


class SetUp(NamedTuple):
    """What a SETUP frame holds: where a worker imports from, and for whom it works."""

    path: list[str]
    telemetry: str  #: what observes its calls, as `module:name`
    script: Script | None
    authkey: bytes | None  #: of multiprocessing in the service, where that is imported


class FarTelemetry(Protocol):
    """The telemetry inside a worker, made with a function that takes (kind, data)."""

    def around(self, surroundings: Any) -> AbstractContextManager[None]: ...


class Worker:
    """One worker process. `serve` is its life."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader(sock)
        self._process = os.getpid()
        self._reports = Reports(sock)
        self._telemetry: FarTelemetry | None = None
        self._is_set_up: SetUp | None = None
        self._used: tuple[float, float] | None = None  # by the last call: seconds, and of processors
        os.register_at_fork(after_in_child=self._let_go)

    def serve(self) -> None:
        """Take calls until the service is gone."""
        self._send(channel.READY, str(self._process).encode())
        while True:
            try:
                frame = self._reader.read()
            except EOFError:
                return
            assert frame is not None, "the channel blocks here"
            if frame.kind == channel.SETUP:
                self._set_up(SetUp(*decode(frame)))
            elif frame.kind == channel.CALL:
                self._take(frame)
            # CANCEL: the call that it meant has ended

    def _send(self, kind: int, body: bytes = b"") -> None:
        self._reports.send(frame_parts(kind, [body]))

    def _set_up(self, new: SetUp) -> None:
        old, self._is_set_up = self._is_set_up, new
        sys.path[:] = new.path
        importlib.invalidate_caches()
        if old is None or new.script != old.script:
            be_script(new.script)
        if new.authkey is not None:
            when_imported("multiprocessing.process", self._take_authkey)
        if new.telemetry and (old is None or new.telemetry != old.telemetry):
            module, _, name = new.telemetry.partition(":")
            self._telemetry = getattr(importlib.import_module(module), name)(self._reports.add)

    def _take_authkey(self) -> None:
        """Be trusted by the managers of multiprocessing that the service has started."""
        from multiprocessing.process import current_process  # noqa: PLC0415  # 14 ms that most workers never spend

        assert self._is_set_up is not None, "this is asked for when it is"
        current_process().authkey = self._is_set_up.authkey  # type: ignore[assignment]  # some key is there

    def _take(self, frame: Frame) -> None:
        try:
            parts = self._outcome(frame)
        except MemoryError:  # not even the failure could be put into words
            os._exit(EXIT_NO_MEMORY)
        _flush_output()
        self._reports.flush()
        if self._used is not None:
            parts = frame_parts(channel.USAGE, [channel.USED.pack(*self._used)]) + parts
        self._reports.send(parts)

    def _outcome(self, frame: Frame) -> list[memoryview]:
        """Run the call; return the frame that says how it ended."""
        self._used = None
        try:
            call = Call(*decode(frame))
        except BaseException as error:  # noqa: BLE001  # the run boundary: user code runs here
            return failure_of(untransferable("the call", "read in the worker process", error))
        del frame
        task = FarTask(call.about, self._sock, self._reports)
        try:
            value = copy_context().run(self._run, call, task)
        except BaseException as error:  # noqa: BLE001  # the run boundary: a task's exception is data
            self._leave_if_forked(error)
            return failure_of(error)
        finally:
            task.end()
        self._leave_if_forked(None)
        return _result(value)

    def _run(self, call: Call, task: FarTask) -> Any:
        CURRENT.set(task)
        kwargs = {**call.kwargs, "progress_reporter": task.progress} if call.wants_progress else call.kwargs
        self._send(channel.STARTED)
        if self._telemetry is None:
            return self._call(call, kwargs, task)
        with self._telemetry.around(call.surroundings):
            return self._call(call, kwargs, task)

    def _call(self, call: Call, kwargs: dict[str, Any], task: FarTask) -> Any:
        began, cpu = time.monotonic(), time.process_time()
        try:
            return self._result_of(call, kwargs, task)
        finally:
            self._used = time.monotonic() - began, time.process_time() - cpu

    def _result_of(self, call: Call, kwargs: dict[str, Any], task: FarTask) -> Any:
        if not call.is_async:
            return call.func(*call.args, **kwargs)
        from qorzen_obs.engines.processes.far_loop import run_async  # noqa: PLC0415  # asyncio takes 60 ms

        return run_async(call.func, call.args, kwargs, task, self._sock, self._reader)

    def _leave_if_forked(self, error: BaseException | None) -> None:
        """End a child that user code has forked and that came back from the call, as Python itself would."""
        if os.getpid() == self._process:
            return
        code: object = 0
        if isinstance(error, SystemExit):
            code = error.code or 0
        elif error is not None:
            sys.excepthook(type(error), error, error.__traceback__)
            code = 1
        _flush_output()
        os._exit(code if isinstance(code, int) else 1)

    def _let_go(self) -> None:
        """In a child that user code has forked: the channel is the worker's alone."""
        self._reports.mute()
        self._sock.close()


def serve(descriptor: int, stacks: int, stack_signal: int, stack_signal_at_once: int) -> None:
    """Be a worker over this inherited socket, and write its stack to the descriptor `stacks` on either signal.

    It answers `stack_signal` as soon as it runs Python, `stack_signal_at_once` whatever it does.
    """
    # A handler that does nothing, where SIG_IGN would be inherited by what user code executes.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.enable()  # a crash leaves its stack in the task's output
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]  # text files here
    os.set_inheritable(descriptor, False)
    os.set_inheritable(stacks, False)
    # The one in C answers while C code holds the interpreter; see stack_reader.py for why it is not asked first.
    signal.signal(stack_signal, lambda _, frame: _write_stack(stacks, frame))
    signal.siginterrupt(stack_signal, False)
    faulthandler.register(stack_signal_at_once, file=stacks, all_threads=False)

    def leave_stacks() -> None:
        """In a child that user code has forked: nobody asks it where it is."""
        signal.signal(stack_signal, lambda *_: None)
        faulthandler.unregister(stack_signal_at_once)
        os.close(stacks)

    os.register_at_fork(after_in_child=leave_stacks)
    Worker(socket.socket(fileno=descriptor)).serve()


def _write_stack(descriptor: int, frame: FrameType | None) -> None:
    """Write a stack in the form that faulthandler has."""
    lines = ["Stack (most recent call first):"]
    while frame is not None and len(lines) <= _MAX_FRAMES:
        lines.append(f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}')
        frame = frame.f_back
    if frame is not None:
        lines.append("  ...")
    with suppress(OSError):  # nobody listens any more
        os.write(descriptor, "".join(f"{line}\n" for line in lines).encode(errors="replace"))


def _result(value: object) -> list[memoryview]:
    """Return the frame that carries a result.

    Where rebuilding it runs code, that is tried here first: it may end or block its process, and this one can be
    killed.
    """
    try:
        encoded = encode(value, answer=True)
    except BaseException as error:  # noqa: BLE001  # the run boundary: user code runs here
        return failure_of(untransferable("the result", "sent back", error))
    try:
        if names_something(encoded):
            decode_encoded(encoded)
    except MemoryError:  # there may be room for one of it, in the service
        pass
    except BaseException as error:  # noqa: BLE001  # as above
        return failure_of(untransferable("the result", "rebuilt", error))
    return frame_parts(channel.RESULT, *encoded)


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # user code has closed or replaced it
            stream.flush()
