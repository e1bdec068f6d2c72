"""Values travel by name, by value only where they must, and large ones are noticed in time."""

import pickle
from functools import partial
from typing import Any

import pytest

from qorzen_obs.engines.processes.codec import TooLargeError, decode_encoded, encode
from tests import process_tasks


def there_and_back(value: object) -> Any:
    return decode_encoded(encode(value))


@pytest.mark.parametrize("value", [None, 7, "text", b"bytes", [1, {"two": (3,)}], {"set"}, partial(int, "7")])
def test_plain_values_come_back(value: object) -> None:
    back = there_and_back(value)
    assert repr(back) == repr(value)


def test_a_function_of_a_module_travels_by_name() -> None:
    body, _ = encode(process_tasks.echo)
    assert sum(map(len, body)) < 100
    assert there_and_back(process_tasks.echo) is process_tasks.echo


def test_a_closure_travels_by_value() -> None:
    factor = 6
    assert there_and_back(lambda value: value * factor)(7) == 42


def test_what_belongs_to_main_travels_by_value() -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("def double(value): return value * 2", scope)
    assert there_and_back(scope["double"])(21) == 42


def test_text_that_mentions_main_is_only_text() -> None:
    assert there_and_back("__main__") == "__main__"


def test_a_large_buffer_goes_beside_the_stream_uncopied() -> None:
    data = bytearray(1_000_000)
    body, buffers = encode(pickle.PickleBuffer(data))
    assert sum(map(len, body)) < 100
    (buffer,) = buffers
    assert isinstance(buffer, memoryview)
    assert buffer.obj is data


def test_large_bytes_are_passed_on_uncopied() -> None:
    data = bytes(1_000_000)
    body, _ = encode([data])
    assert any(part is data for part in body)


def test_a_limit_stops_the_encoding_early() -> None:
    with pytest.raises(TooLargeError):
        encode(["x" * 100 for _ in range(100_000)], limit=100_000)
    encode(["x" * 100 for _ in range(100)], limit=100_000)


def test_what_does_not_pickle_raises_what_it_raises() -> None:
    with pytest.raises(TypeError, match="generator"):
        encode(iter_nothing())


def iter_nothing() -> Any:
    yield
