"""Objects that raise when they are looked at, for each way to look at one (F37). Imported by worker processes too."""

import asyncio
import types
from collections.abc import Callable, Iterator
from typing import Any, Final

#: What a look raises.
RAISED: Final[tuple[type[BaseException], ...]] = (
    KeyError,
    RecursionError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    asyncio.CancelledError,
)

_METHODS: Final = (
    "__str__",
    "__repr__",
    "__getattr__",
    "__getattribute__",
    "__reduce__",
    "__reduce_ex__",
    "__eq__",
    "__hash__",
    "__bool__",
    "__dir__",
    "__len__",
    "__iter__",
    "__format__",
    "__setattr__",
)
_ATTRIBUTES: Final = (
    "__class__",
    "__notes__",
    "__cause__",
    "__context__",
    "__traceback__",
    "__suppress_context__",
    "__dict__",
    "__module__",
    "__doc__",
    "args",
    "error_type",
    "far_traceback",
    "nbytes",
)
_METACLASS: Final = (
    "__getattribute__",
    "__instancecheck__",
    "__subclasscheck__",
    "__eq__",
    "__hash__",
    "__bool__",
    "__mro__",
)

#: Each way to look, as `hostile` takes it.
HOOKS: Final = (
    *_METHODS,
    *_ATTRIBUTES,
    *(f"metaclass {name}" for name in (*_METACLASS, "__module__", "__name__")),
    "text of a derived class",
    "name of a derived class",
    "no module",
)
#: Those that only an exception can have.
ERROR_HOOKS: Final = (*HOOKS, "members", "syntax", "frame", "cause", "suggestions")
#: Those that only something else can have.
VALUE_HOOKS: Final = (*HOOKS, "close")


def _raiser(raised: type[BaseException]) -> Callable[..., Any]:
    def look(*_: object, **__: object) -> Any:
        raise raised("looked at")

    return look


def _derived_text(raised: type[BaseException]) -> str:
    """A text whose own methods raise."""
    looks = (
        "__len__",
        "__str__",
        "__format__",
        "__getitem__",
        "__eq__",
        "__hash__",
        "encode",
        "lower",
        "join",
    )
    namespace = {name: _raiser(raised) for name in looks}
    text: str = type("Text", (str,), {**namespace, "__repr__": _raiser(raised)})("text")
    return text


def kind(hook: str, raised: type[BaseException], base: type) -> Any:
    """A class of which each instance raises when it is looked at that way."""
    look = _raiser(raised)
    metaclass: Any = type
    namespace: dict[str, Any] = {"__module__": __name__}
    if hook in _METHODS:
        namespace[hook] = look
    elif hook in _ATTRIBUTES:
        namespace[hook] = property(look)
    elif hook.startswith("metaclass "):
        name = hook.split()[1]
        metaclass = type("Meta", (type(base),), {name: look if name in _METACLASS else property(look)})
    elif hook == "text of a derived class":
        namespace["__str__"] = namespace["__repr__"] = lambda _: _derived_text(raised)
    elif hook == "close":
        namespace |= dict.fromkeys(("__await__", "send", "throw", "close"), look)
    made: Any = metaclass("Hostile", (base,), namespace)
    if hook == "name of a derived class":
        made.__qualname__ = _derived_text(raised)
        made.__module__ = _derived_text(raised)
    elif hook == "no module":
        made.__module__ = kind("__str__", raised, object)()
    return made


def value(hook: str, raised: type[BaseException]) -> object:
    """Something to return, to pass or to bind."""
    made: object = kind(hook, raised, object)()
    return made


def error(hook: str, raised: type[BaseException]) -> BaseException:
    """Something to raise."""
    if hook == "members":
        group = kind("exceptions", raised, ExceptionGroup)
        group.exceptions = property(_raiser(raised))
        made: BaseException = group("group", [ValueError("one")])
        return made
    if hook == "syntax":
        odd = SyntaxError("odd")
        odd.lineno, odd.offset, odd.text, odd.filename = "7", object(), 5, _derived_text(raised)  # type: ignore[assignment]  # as above
        odd.end_lineno, odd.end_offset = [], {}  # type: ignore[assignment]  # as above
        return odd
    if hook == "cause":
        chained = ValueError("chained")
        chained.__cause__ = error("__str__", raised)
        chained.__cause__.__context__ = error("__notes__", raised)
        return chained
    if hook == "suggestions":
        return AttributeError("no such name", name="nane", obj=value("__dir__", raised))
    if hook == "frame":
        return ValueError("from nowhere")
    broken: BaseException = kind(hook, raised, Exception)("hostile")
    return broken


def throw(hook: str, raised: type[BaseException]) -> None:
    """Raise such an error."""
    if hook != "frame":
        raise error(hook, raised)
    code = throw_here.__code__.replace(co_filename="\0\udcff\n", co_name="\udcff\0", co_qualname="\n" * 9)
    types.FunctionType(code, {"__name__": value("__str__", raised)})(error(hook, raised))


def throw_here(made: BaseException) -> None:
    raise made


def pairs(
    hooks: tuple[str, ...], only: type[BaseException] | None
) -> Iterator[tuple[str, type[BaseException]]]:
    """Each hook with what it raises: `only` that, or another one for each hook where it is None."""
    for number, hook in enumerate(hooks):
        yield hook, only or RAISED[number % len(RAISED)]
