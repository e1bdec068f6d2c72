"""The worker process: takes one call at a time off the channel, runs it, and sends back how it ended.

It has no thread of its own while a call runs, so that user code may fork. It looks at the channel to see
whether the call was asked to stop: during a call the service sends nothing else. Imports little, since each
worker waits for it; telemetry is imported by the name that the service gives.
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
    surroundings: Any  #: what the worker's telemetry needs to know


class SetUp(NamedTuple):
    """What a SETUP frame holds: where a worker imports from, and which service it works for."""

    path: list[str]
    telemetry: str  #: the observer of its calls, as `module:name`
    script: Script | None
    authkey: bytes | None  #: multiprocessing's key in the service, if it is imported there


class FarTelemetry(Protocol):
    """The telemetry inside a worker; it gets a function that takes (kind, data)."""

    def around(self, surroundings: Any) -> AbstractContextManager[None]: ...


class Worker:
    """One worker process; `serve` runs until it ends."""

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
        """Take the key that multiprocessing's managers in the service require."""
        from multiprocessing.process import current_process  # noqa: PLC0415  # 14 ms that most workers never spend

        assert self._is_set_up is not None, "this is asked for when it is"
        current_process().authkey = self._is_set_up.authkey  # type: ignore[assignment]  # some key is there

    def _take(self, frame: Frame) -> None:
        try:
            parts = self._outcome(frame)
        except MemoryError:  # not even the failure could be encoded
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
        """End a child that user code forked and that returned from the call, as Python itself would."""
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
        """Close the channel in a child that user code forked: it belongs to the worker only."""
        self._reports.mute()
        self._sock.close()


def serve(descriptor: int, stacks: int, stack_signal: int, stack_signal_at_once: int) -> None:
    """Run as a worker on this inherited socket, and write the stack to the descriptor `stacks` on either signal.

    It answers `stack_signal` as soon as it runs Python, and `stack_signal_at_once` whatever it does.
    """
    # A handler that does nothing, since programs that user code executes would inherit SIG_IGN.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.enable()  # a crash leaves its stack in the task's output
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]  # text files here
    os.set_inheritable(descriptor, False)
    os.set_inheritable(stacks, False)
    # The one in C answers while C code holds the interpreter; stack_reader.py says why it is not used first.
    signal.signal(stack_signal, lambda _, frame: _write_stack(stacks, frame))
    signal.siginterrupt(stack_signal, False)
    faulthandler.register(stack_signal_at_once, file=stacks, all_threads=False)

    def leave_stacks() -> None:
        """Remove the handlers in a child that user code forked: nobody asks for its stack."""
        signal.signal(stack_signal, lambda *_: None)
        faulthandler.unregister(stack_signal_at_once)
        os.close(stacks)

    os.register_at_fork(after_in_child=leave_stacks)
    Worker(socket.socket(fileno=descriptor)).serve()


def _write_stack(descriptor: int, frame: FrameType | None) -> None:
    """Write a stack in faulthandler's format."""
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

    If rebuilding it runs code, try that here first: the code may end or block its process, and this one can be
    killed.
    """
    try:
        encoded = encode(value, answer=True)
    except BaseException as error:  # noqa: BLE001  # the run boundary: user code runs here
        return failure_of(untransferable("the result", "sent back", error))
    try:
        if names_something(encoded):
            decode_encoded(encoded)
    except MemoryError:  # the service may have room for one copy of it
        pass
    except BaseException as error:  # noqa: BLE001  # as above
        return failure_of(untransferable("the result", "rebuilt", error))
    return frame_parts(channel.RESULT, *encoded)


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # user code has closed or replaced it
            stream.flush()
