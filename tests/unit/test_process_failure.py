"""An exception arrives as what it was, or as its name and message; never as something else."""

import asyncio
from typing import Any, NoReturn

import pytest

from qorzen_obs.engines.processes.channel import Frame
from qorzen_obs.engines.processes.failure import error_of, failure_in, failure_of
from qorzen_obs.errors import FarTaskError, InvalidTaskError, TaskLostError


class Missing(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(f"no such key: {key}")


class WithAttributes(ValueError):
    def __init__(self, key: str, *, code: int = 5) -> None:
        self.key, self.code = key, code

    def __str__(self) -> str:
        return f"{self.key}/{self.code}"


class WithSlots(Exception):
    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = key

    def __str__(self) -> str:
        return self.key


class WithProperty(Exception):
    def __init__(self, key: str) -> None:
        self._key = key

    @property
    def key(self) -> str:
        return self._key

    def __str__(self) -> str:
        return self.key


class Unchanging(Exception):
    def __init__(self, key: str) -> None:
        vars(self)["key"] = key

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise TypeError("cannot be changed")

    def __str__(self) -> str:
        return str(vars(self)["key"])


class OfTheSystem(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "not there", path)


class TwoArguments(Exception):
    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")


class Counts(Exception):
    made = 0

    def __init__(self) -> None:
        Counts.made += 1
        super().__init__("counted")


def noted(error: Exception) -> Exception:
    error.add_note("a note")
    return error


def there_and_back(error: BaseException) -> BaseException:
    (body,) = failure_of(error)[1:]
    return error_of(failure_in(Frame(9, bytearray(body), ())))


ARRIVE = [
    ValueError("why"),
    KeyError("k"),
    Missing("a"),
    WithAttributes("a", code=7),
    WithSlots("a"),
    WithProperty("a"),
    Unchanging("a"),
    OfTheSystem("/tmp/x"),
    TwoArguments("this", "that"),
    noted(Missing("a")),
    OSError(2, "gone", "a", None, "b"),
    FileNotFoundError(2, "gone"),
    ImportError("no", name="module", path="/x"),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
    SyntaxError("bad", ("file", 1, 2, "text")),
    StopIteration(4),
    asyncio.CancelledError("why"),
    ExceptionGroup("several", [Missing("a"), ValueError("b")]),
    InvalidTaskError("argument", "problem"),
    TaskLostError("name", "reason"),
]


@pytest.mark.parametrize("error", ARRIVE, ids=map(str, range(len(ARRIVE))))
def test_it_arrives_as_itself_with_all_that_it_says(error: BaseException) -> None:
    back = there_and_back(error)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert repr(back.args) == repr(error.args)
    assert repr(vars(back)) == repr(vars(error))
    for name in ("key", "filename", "filename2", "name", "path", "value", "exceptions", "reason", "lineno"):
        assert repr(getattr(back, name, None)) == repr(getattr(error, name, None))


def test_rebuilding_an_exception_does_not_call_its_init() -> None:
    error = Counts()
    there_and_back(error)
    assert Counts.made == 1


class Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in {"__qualname__", "__module__", "__mro__", "__dict__", "__name__", "__flags__"}:
            raise SystemExit
        return super().__getattribute__(name)


class OfMeta(Exception, metaclass=Meta):
    pass


def exits(*_: object) -> NoReturn:
    raise SystemExit


ATTRIBUTES = ["__notes__", "__class__", "__cause__", "__context__", "__traceback__", "__dict__", "args"]
METHODS = [
    "__str__",
    "__reduce__",
    "__reduce_ex__",
    "__getattribute__",
    "__setattr__",
    "__getstate__",
    "__eq__",
]


@pytest.mark.parametrize("hook", [*ATTRIBUTES, *METHODS])
def test_f37_whatever_a_hook_of_it_raises_there_is_a_failure(hook: str) -> None:
    namespace: dict[str, Any] = {
        "__module__": "theirs",
        hook: property(exits) if hook in ATTRIBUTES else exits,
    }
    kind: Any = type("Hostile", (Exception,), namespace)
    failure = failure_in(Frame(9, bytearray(failure_of(kind("why"))[1]), ()))
    assert failure.name == "theirs.Hostile"
    assert failure.message == ("<its message cannot be shown: SystemExit>" if hook == "__str__" else "why")
    assert isinstance(error_of(failure), (Exception, FarTaskError))


def test_f37_a_metaclass_that_raises_hides_nothing() -> None:
    back = there_and_back(OfMeta("why"))
    assert "OfMeta" in repr(back) or "OfMeta" in str(back)
