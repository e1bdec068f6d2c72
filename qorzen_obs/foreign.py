"""Inspects objects that are not ours, for code that must not fail.

Each attribute, method and metaclass of such an object may run its owner's code. That may raise anything, even
SystemExit, or return a wrong value. Nothing here raises: if an object cannot be shown, a plain text says why. What
Python itself keeps in an object is read through Python's own descriptors, which no class can replace.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Iterator
from types import BuiltinMethodType, FrameType, MethodType, TracebackType
from typing import Any, Final, TypeGuard, TypeVar

T = TypeVar("T")

_MAX_NAME: Final = 500
_MAX_FRAMES: Final = 100

_qualname_of: Final = type.__dict__["__qualname__"].__get__
_module_of: Final = type.__dict__["__module__"].__get__
_bases_of: Final = type.__dict__["__mro__"].__get__
_dict_of: Final = type.__dict__["__dict__"].__get__
_traceback: Final = BaseException.__dict__["__traceback__"]
_cause: Final = BaseException.__dict__["__cause__"]
_context: Final = BaseException.__dict__["__context__"]
_partials_func: Final = functools.partial.__dict__["func"]
_members: Final = BaseExceptionGroup.__dict__["exceptions"]

# ---------------------------------------------------------------------- kinds and names


def is_a(value: object, kind: type[T] | tuple[type[T], ...]) -> TypeGuard[T]:
    """Return whether `value` is of this type, which may be an ABC; does not read its `__class__`."""
    try:
        return issubclass(type(value), kind)
    except BaseException:  # noqa: BLE001 - an ABC asks the metaclass
        return False


def is_scalar(value: object) -> bool:
    """Return whether `value` is None, or exactly a bool, an int or a float.

    Classes are compared by identity: looking one up in a set or a tuple asks its metaclass.
    """
    kind = type(value)
    return value is None or kind is bool or kind is int or kind is float


def same(one: object, other: object) -> bool:
    """Return whether both are the same object, or the same method of the same object."""
    if one is other:
        return True
    if type(one) is MethodType and type(other) is MethodType:
        return one.__self__ is other.__self__ and one.__func__ is other.__func__
    if type(one) is BuiltinMethodType and type(other) is BuiltinMethodType:
        return one == other  # by Python's own comparison of identities
    return False


def kind_name(kind: type) -> str:
    """Return the qualified name of a class, without its module and without characters that mislead a reader."""
    try:
        name = plain(_qualname_of(kind))[:_MAX_NAME]
        return (name if name.isprintable() else repr(name)[1:-1]) or "?"
    except BaseException:  # noqa: BLE001 - there is nothing left to ask
        return "?"


def full_name(kind: type) -> str:
    """Return the qualified name of a class, with its module unless that is `builtins`."""
    name = kind_name(kind)
    try:
        module = _module_of(kind)
    except BaseException:  # noqa: BLE001 - the class has lost it
        return name
    if not is_a(module, str):
        return name
    module = plain(module)
    if module == "builtins":
        return name
    if not module.isprintable():
        module = repr(module)[1:-1]
    return f"{module}.{name}"[:_MAX_NAME]


# ---------------------------------------------------------------------- texts


def text(value: object) -> str:
    """Return `str(value)`, or a text saying that this failed."""
    if type(value) is str:
        return value
    try:
        return plain(str(value))
    except BaseException as broken:  # noqa: BLE001 - its own __str__ may raise anything
        return f"<its message cannot be shown: {kind_name(type(broken))}>"


def shown(value: object) -> str:
    """Return `repr(value)`, or a text saying that this failed."""
    try:
        return plain(repr(value))
    except BaseException as broken:  # noqa: BLE001 - its own __repr__ may raise anything
        return f"<cannot be shown: {kind_name(type(broken))}>"


def described(error: BaseException) -> str:
    """Return the type and the message of an error in one text."""
    message = text(error)
    return f"{kind_name(type(error))}: {message}" if message else kind_name(type(error))


def plain(value: str) -> str:
    """Return a text as an exact str: the methods of a subclass could do anything."""
    return value if type(value) is str else str.__str__(value)


def number(value: object) -> int | float | None:
    """Return a number as an exact int or float; None for anything else, also for a bool."""
    kind = type(value)
    if kind is int or kind is float:
        return value  # type: ignore[return-value]  # mypy does not follow `kind`
    if is_a(value, float):
        return float.__float__(value)
    if is_a(value, int) and kind is not bool:
        return int.__int__(value)
    return None


# ---------------------------------------------------------------------- attributes


def attribute(value: object, name: str, default: Any = None) -> Any:
    """Return `getattr(value, name, default)`; the default also if the lookup raises anything."""
    try:
        return getattr(value, name, default)
    except BaseException:  # noqa: BLE001 - a property or __getattr__ of its own may raise anything
        return default


def attribute_as_it_stands(value: object, name: str) -> Any:
    """Return an attribute without running any code of `value`, None if there is none."""
    import inspect  # noqa: PLC0415 - worker processes do without

    try:
        return inspect.getattr_static(value, name, None)
    except BaseException:  # noqa: BLE001 - its metaclass may be of its own
        return None


def name_of(value: object) -> str:
    """Return the `__qualname__` of a function or a class, else that of the type of `value`."""
    return _text_attribute(value, "__qualname__") or kind_name(type(value))


def full_name_of(value: object) -> str:
    """Return the name of a function or class with its module; else those of the type of `value`."""
    module = _text_attribute(value, "__module__") or _text_attribute(type(value), "__module__") or "?"
    return f"{module}.{name_of(value)}"


def _text_attribute(value: object, name: str) -> str:
    found = attribute(value, name)
    return plain(found) if is_a(found, str) else ""


def inside_partial(func: Any) -> Any:
    """Return the callable inside functools.partial objects."""
    while is_a(func, functools.partial):
        func = func_of_partial(func)
    return func


def func_of_partial(partial: functools.partial[Any]) -> Any:
    """Return the callable that a functools.partial calls."""
    return _partials_func.__get__(partial)


def module_of(frame: FrameType) -> str:
    """Return the name of the module whose code a frame runs; empty if there is none."""
    name = dict.get(frame.f_globals, "__name__")
    return plain(name) if is_a(name, str) else ""


def has_of_its_kind(value: object, name: str) -> bool:
    """Return whether the class of `value` defines an attribute; runs none of the value's code."""
    try:
        return any(name in _dict_of(base) for base in _bases_of(type(value)))
    except BaseException:  # noqa: BLE001 - as above
        return False


# ---------------------------------------------------------------------- exceptions


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return the error's traceback as Python itself keeps it."""
    found: TracebackType | None = _traceback.__get__(error)
    return found


def set_traceback(error: BaseException, to: TracebackType | None) -> None:
    """Replace the error's traceback."""
    _traceback.__set__(error, to)


def cause_of(error: BaseException) -> BaseException | None:
    """Return the cause of the error."""
    found: BaseException | None = _cause.__get__(error)
    return found


def set_cause(error: BaseException, to: BaseException | None) -> None:
    """Replace the cause of the error."""
    _cause.__set__(error, to)


def related(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all errors that it leads to, each once: causes, contexts, members of groups."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            pending += (_cause.__get__(one), _context.__get__(one))
            if is_a(one, BaseExceptionGroup):
                pending += _members.__get__(one)


def formatted(error: BaseException, trace: TracebackType | None) -> str:
    """Format an error with its causes as Python does, from `trace` on; only its frames if that fails."""
    try:
        lines = traceback.TracebackException(type(error), error, trace, compact=True).format()
        return "".join(lines)
    except BaseException:  # noqa: BLE001 - notes, causes, source and suggestions are all the owner's
        return _formatted_plainly(error, trace)


def _formatted_plainly(error: BaseException, trace: TracebackType | None) -> str:
    lines = ["Traceback (most recent call last):\n"]
    while trace is not None:
        lines.append(_frame_line(trace))
        trace = trace.tb_next
    message = text(error)
    return "".join([*lines[:1], *lines[1:][-_MAX_FRAMES:], f"{full_name(type(error))}: {message}\n"])


def _frame_line(trace: TracebackType) -> str:
    try:
        code = trace.tb_frame.f_code
        return f'  File "{plain(code.co_filename)}", line {trace.tb_lineno}, in {plain(code.co_qualname)}\n'
    except BaseException:  # noqa: BLE001 - a code object that no compiler made
        return "  File ?, line ?, in ?\n"
