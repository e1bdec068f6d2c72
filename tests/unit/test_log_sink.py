"""The log's way out: in order, never waited for, lost lines counted and said, and nothing left at the end."""

import asyncio
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

import pytest

from qorzen_obs.telemetry import log_sink
from qorzen_obs.telemetry.log_sink import LogSink
from tests.support import PATIENCE_SECONDS, until


def said(lines: int) -> str:
    return f"lost {lines}"


class Pipe:
    """A pipe whose reading end reads when it is told to."""

    def __init__(self) -> None:
        self.reading, writing = os.pipe()
        self.stream: TextIO = os.fdopen(writing, "w")
        self.seen = b""
        self._reader: threading.Thread | None = None

    def read_all(self) -> None:
        """Begin to read, until every writing end is closed."""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while data := os.read(self.reading, 65_536):
            self.seen += data

    def lines(self) -> list[str]:
        """Close the writing end and return what has come out."""
        self.stream.close()
        assert self._reader is not None
        self._reader.join()
        return self.seen.decode().splitlines()

    def close(self) -> None:
        with suppress(OSError):
            self.stream.close()
        if self._reader is not None:
            self._reader.join()
        os.close(self.reading)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_lines_come_out_whole_and_in_order(pipe: Pipe) -> None:
    pipe.read_all()
    sink = LogSink(pipe.stream, said)
    wanted = [f"line {number} größe" for number in range(5_000)]
    for line in wanted:
        sink.write(line)
    sink.close()
    assert (pipe.lines(), sink.lost) == (wanted, 0)


def test_lines_of_many_threads_come_out_whole_and_each_threads_in_order(pipe: Pipe) -> None:
    pipe.read_all()
    sink = LogSink(pipe.stream, said)

    def write(name: str) -> None:
        for number in range(500):
            sink.write(f"{name} {number}")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    seen = [line.split() for line in pipe.lines()]
    for name in "abcd":
        assert [number for one, number in seen if one == name] == [str(number) for number in range(500)]


async def test_f17_a_pipe_that_nobody_reads_loses_lines_and_never_holds_the_loop(pipe: Pipe) -> None:
    sink = LogSink(pipe.stream, said)
    line = "x" * 1_000
    for _ in range(300):  # a direct write would wait for ever
        for _ in range(100):
            sink.write(line)
        await asyncio.sleep(0)
    assert sink.lost > 10_000
    await asyncio.to_thread(sink.close, 0.2)
    assert 30_000 - 66 - 64 <= sink.lost <= 30_000, (
        "what was queued is lost too: 64 KiB fit into the pipe, and as much may be under way"
    )
    pipe.read_all()  # lets the thread go that was left behind


async def test_once_the_pipe_flows_again_a_line_says_how_many_are_missing(pipe: Pipe) -> None:
    sink = LogSink(pipe.stream, said)
    written = log_sink.MAX_LINES + 3_000
    with sink._lock:  # or the thread might take some meanwhile, and the note would come among the lines
        for number in range(written):
            sink.write(f"{number} {'x' * 100}")
    lost = sink.lost
    assert lost > 0
    pipe.read_all()
    await until(lambda: f"lost {lost}\n".encode() in pipe.seen)
    sink.write("after")
    sink.close()
    *before, note, after = pipe.lines()
    assert (note, after) == (f"lost {lost}", "after")
    assert [line.split()[0] for line in before] == [str(number) for number in range(written - lost)]


async def test_a_stream_whose_reader_is_gone_costs_nothing_but_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    tried, write = list[bytes](), os.write
    with os.fdopen(writing, "w") as stream:

        def try_to_write(descriptor: int, data: bytes) -> int:
            if descriptor == writing:
                tried.append(bytes(data))
            return write(descriptor, data)

        monkeypatch.setattr(os, "write", try_to_write)
        sink = LogSink(stream, said)
        sink.write("first")
        await until(lambda: sink.lost == 1)
        for _ in range(100):
            sink.write("more")
        sink.close()
        assert sink.lost == 101
        assert tried == [b"first\n"]


def test_a_closed_stream_is_not_written_by_its_number(pipe: Pipe) -> None:
    sink = LogSink(pipe.stream, said)
    pipe.stream.close()
    with suppress(ValueError):
        sink.write("lost")
    sink.close()
    assert sink.lost <= 1


def test_a_stream_without_a_descriptor_is_written_at_once() -> None:
    stream = io.StringIO()
    sink = LogSink(stream, said)
    sink.write("one")
    assert stream.getvalue() == "one\n"
    sink.close()
    sink.write("two")
    assert stream.getvalue() == "one\ntwo\n"


def test_a_stream_of_another_encoding_gets_utf_8(pipe: Pipe) -> None:
    stream = io.TextIOWrapper(io.FileIO(os.dup(pipe.stream.fileno()), "w"), encoding="ascii")
    sink = LogSink(stream, said)
    pipe.read_all()
    sink.write("größe")
    sink.close()
    sink.write("café")
    stream.close()
    assert pipe.lines() == ["größe", "café"]


def test_a_stream_without_a_descriptor_gets_utf_8_too() -> None:
    seen = io.BytesIO()
    stream = io.TextIOWrapper(seen, encoding="ascii")
    stream.write("before\n")
    LogSink(stream, said).write("größe")
    assert seen.getvalue().decode() == "before\ngröße\n"


def test_without_a_stream_or_with_a_closed_one_all_lines_count_as_lost() -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        sink = LogSink(stream, said)
        assert not sink.isatty()
        sink.write("one", "info")
        sink.write_all(["two", "three"], "info")
        sink.close()
        sink.write("four")
        assert (sink.lost, sink.counted["info"]) == (4, 3)


def test_after_close_lines_are_written_directly_and_closing_again_is_harmless(pipe: Pipe) -> None:
    pipe.read_all()
    sink = LogSink(pipe.stream, said)
    sink.write("one")
    sink.close()
    sink.close()
    sink.write("two")
    assert pipe.lines() == ["one", "two"]


async def test_a_line_of_the_writing_thread_itself_calls_nobody_and_is_written_all_the_same(
    pipe: Pipe,
) -> None:
    sink = LogSink(pipe.stream, said)
    sleep, lines = sink._changed.wait, ["by the collector"]

    def wait(timeout: float | None = None) -> bool:
        if lines and (timeout is None or timeout > log_sink._LINGER_SECONDS):  # it is about to wait for lines
            sink.write(lines.pop())
        return sleep(timeout)

    sink._changed.wait = wait  # type: ignore[method-assign]  # the collector comes when it likes, and here it does
    sink.write("first")
    await until(lambda: not lines and not sink._lines)
    sink.close()
    assert sink.lost == 0


def test_a_forked_child_writes_directly() -> None:
    program = (
        "import os, sys\n"
        "from qorzen_obs.telemetry.log_sink import LogSink\n"
        "sink = LogSink(sys.stderr, str)\n"
        "sink.write('parent')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    sink.write('child')\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "sink.close()\n"
    )
    # In a process of its own: from 3.12 on Python warns of a fork with threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
    assert sorted(ended.stderr.split()) == ["child", "parent"]


def test_the_exit_of_the_interpreter_flushes() -> None:
    program = (
        "import sys\n"
        "from qorzen_obs.telemetry.log_sink import LogSink\n"
        "sink = LogSink(sys.stderr, str)\n"
        "for number in range(1000): sink.write(str(number))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    assert ended.stderr.split() == [str(number) for number in range(1000)]


def test_the_exit_of_the_interpreter_does_not_wait_for_a_reader_that_does_not_read() -> None:
    reading, writing = os.pipe()
    program = (
        "import sys\n"
        "from qorzen_obs.telemetry.log_sink import LogSink\n"
        "sink = LogSink(sys.stderr, str)\n"
        "for number in range(1000): sink.write('x' * 1000)\n"
    )
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program], stderr=writing, timeout=PATIENCE_SECONDS, check=False
        )
        assert ended.returncode == 0
    finally:
        os.close(reading)
        os.close(writing)
