"""Frames survive any splitting, large ones wait for a thread, and nonsense is refused."""

import socket
import struct
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.engines.processes import channel
from qorzen_obs.engines.processes.channel import FrameReader, frame_parts, send_all, send_some

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    right.setblocking(False)
    with left, right:
        yield left, right


@given(
    frames=st.lists(
        st.tuples(st.binary(max_size=300), st.lists(st.binary(max_size=300), max_size=4)), max_size=4
    ),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=20),
)
def test_frames_arrive_as_they_were_sent_however_they_are_cut(
    frames: list[tuple[bytes, list[bytes]]], cuts: list[int]
) -> None:
    left, right = socket.socketpair()
    with left, right:
        right.setblocking(False)
        stream = b"".join(
            bytes(part) for body, buffers in frames for part in frame_parts(channel.CALL, [body], buffers)
        )
        reader, received = FrameReader(right), []
        position = turn = 0
        while position < len(stream):
            cut = cuts[turn % len(cuts)]
            left.sendall(stream[position : position + cut])
            position, turn = position + cut, turn + 1
            while (frame := reader.read()) is not None:
                received.append((bytes(frame.body), [bytes(buffer) for buffer in frame.buffers]))
        assert received == frames


def read_on(reader: FrameReader) -> bool:
    """Whether a thread has to; asked anew, where a type checker remembers the answer."""
    return reader.large


def test_a_large_frame_waits_for_a_thread(pair: Pair) -> None:
    left, right = pair
    reader = FrameReader(right, large_bytes=1_000)
    sent = frame_parts(channel.RESULT, [b"x" * 5_000_000], [b"y" * 2_000])
    sender = threading.Thread(target=send_all, args=(left, sent))
    sender.start()
    while not read_on(reader):
        assert reader.read() is None
    frame = reader.read_large()
    sender.join()
    assert (len(frame.body), len(frame.buffers[0])) == (5_000_000, 2_000)
    assert not read_on(reader)
    send_all(left, frame_parts(channel.STARTED))
    after = reader.read()
    assert after is not None
    assert after.kind == channel.STARTED


def test_the_end_in_the_middle_of_a_frame_is_an_end(pair: Pair) -> None:
    left, right = pair
    left.sendall(b"".join(frame_parts(channel.RESULT, [b"hello"]))[:-1])
    left.close()
    with pytest.raises(EOFError):
        FrameReader(right).read()


def test_what_is_no_frame_is_refused(pair: Pair) -> None:
    left, right = pair
    left.sendall(b"print('hello')\n" * 10)
    with pytest.raises(ValueError, match="not a kind of frame"):
        FrameReader(right).read()


def test_a_frame_for_which_there_is_no_memory_is_an_error_and_no_crash(pair: Pair) -> None:
    left, right = pair
    left.sendall(channel._PREFIX.pack(channel.RESULT, 0, 1 << 62))
    with pytest.raises(MemoryError):
        FrameReader(right).read()


@pytest.mark.parametrize("large_bytes", [None, 1_000])
@pytest.mark.parametrize("size", [sys.maxsize + 1, (1 << 64) - 1])
@pytest.mark.parametrize("where", ["body", "buffer"])
def test_a_frame_that_announces_more_bytes_than_there_can_be_is_refused(
    pair: Pair, where: str, size: int, large_bytes: int | None
) -> None:
    left, right = pair
    if where == "body":
        left.sendall(channel._PREFIX.pack(channel.RESULT, 0, size))
    else:
        left.sendall(channel._PREFIX.pack(channel.RESULT, 1, 0) + struct.pack("<Q", size))
    with pytest.raises(ValueError, match="more bytes than there can be"):
        FrameReader(right, large_bytes=large_bytes).read()


def test_a_frame_of_very_many_buffers_waits_for_a_thread_before_their_sizes_arrive(pair: Pair) -> None:
    left, right = pair
    reader = FrameReader(right, large_bytes=1_000)
    buffers = [b"x"] * 1_000
    left.sendall(b"".join(frame_parts(channel.RESULT, [b"body"], buffers)))
    assert reader.read() is None
    assert read_on(reader)
    assert reader._room.nbytes == 0, "no memory was taken for them"
    frame = reader.read_large()
    assert (bytes(frame.body), [bytes(each) for each in frame.buffers]) == (b"body", buffers)


def test_a_full_socket_takes_the_rest_later(pair: Pair) -> None:
    left, right = pair
    left.setblocking(False)
    parts = frame_parts(channel.CALL, [b"a" * 400_000, b"b" * 400_000])
    received, reader = None, FrameReader(right)
    while received is None:
        try:
            while parts:
                send_some(left, parts)
        except BlockingIOError:
            pass
        received = reader.read()
    assert bytes(received.body) == b"a" * 400_000 + b"b" * 400_000


def test_a_waiting_frame_is_looked_at_without_taking_it() -> None:
    stream = b"".join(frame_parts(channel.CANCEL, [b"because"]))
    for cut in range(len(stream)):
        assert FrameReader.peek(stream[:cut]) is None
    frame = FrameReader.peek(stream + b"more")
    assert frame is not None
    assert (frame.kind, bytes(frame.body)) == (channel.CANCEL, b"because")
