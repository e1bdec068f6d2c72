"""Pickles what the other process cannot look up by name: lambdas, closures, local classes, a script without a guard.

cloudpickle does this, with four differences. A class or function of the script travels by name if the worker can run
the script (script.py). A class that is already known is never overwritten: what comes back must not reset its
attributes. When a worker returns an instance of a class that it was sent, it only names that class. Tracers, meters
and loggers hold locks, and are recreated on arrival. Imported only where needed, since cloudpickle takes 25 ms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType, MemberDescriptorType
from typing import Any, NamedTuple
from weakref import WeakSet

import cloudpickle
from cloudpickle import cloudpickle as internals

from qorzen_obs import foreign
from qorzen_obs.engines.processes.far_script import MAIN, ScriptModule
from qorzen_obs.engines.processes.script import by_name

_blank: WeakSet[type] = WeakSet()  # created, still without their attributes
_received: WeakSet[type] = WeakSet()  # created from what the other process has sent


class ByValue(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Pickles by value what the other process cannot look up."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)  # not isinstance, which asks the value for its __class__
        if kind is FunctionType or issubclass(kind, type):
            return by_name(value) or _ours(value, super().reducer_override(value))
        return _anew(value) or super().reducer_override(value)


class Answer(ByValue):
    """Pickles what a worker returns; the service has the originals of the classes that the worker was sent."""

    def reducer_override(self, value: Any) -> Any:
        if issubclass(type(value), type) and value in _received:
            return known_class, (internals._DYNAMIC_CLASS_TRACKER_BY_CLASS[value],)
        return super().reducer_override(value)


def known_class(tracker_id: str) -> type:
    """Return the class that this process has sent or received under this number."""
    try:
        known: type = internals._DYNAMIC_CLASS_TRACKER_BY_ID[tracker_id]
    except KeyError:
        raise LookupError("its class does not exist in this process any more") from None
    return known


def make_class(make: Callable[..., type], arguments: tuple[Any, ...]) -> type:
    """Return the class known by the number among the arguments, or create it, still without attributes."""
    known: type | None = internals._DYNAMIC_CLASS_TRACKER_BY_ID.get(arguments[-2])
    if known is not None:
        return known
    made = make(*arguments)
    _blank.add(made)
    _received.add(made)
    return made


def set_class_state(made: type, state: Any) -> None:
    """Give a class its attributes, once."""
    if made in _blank:
        _blank.discard(made)
        internals._class_setstate(made, state)
        _take(made)


def set_function_state(made: FunctionType, state: Any) -> None:
    """Give a function its defaults, closure and globals."""
    internals._function_setstate(made, state)
    _take(made)


def _take(made: Any) -> None:
    main = sys.modules.get(MAIN)
    if isinstance(main, ScriptModule):
        main.take(made)


def _ours(value: Any, reduced: Any) -> Any:
    """Return cloudpickle's parts of a class or function, for the functions above to reassemble."""
    if not isinstance(reduced, tuple) or len(reduced) != 6:
        return reduced
    make, arguments, state, items, pairs, setter = reduced
    if setter is internals._function_setstate:
        return make, arguments, state, items, pairs, set_function_state
    if make is internals._make_skeleton_class:  # which has slots only if it is created with them
        meta, name, bases, namespace, *rest = arguments
        facts = vars(value)
        if "__slots__" in facts and NamedTuple not in bases:
            namespace = {**namespace, "__slots__": facts["__slots__"]}
            attributes = {
                key: each for key, each in state[0].items() if type(each) is not MemberDescriptorType
            }
            state = attributes, state[1]
        arguments = meta, name, bases, namespace, *rest
    return make_class, (make, arguments), state, items, pairs, set_class_state


# ---------------------------------------------------------------------- what is recreated


def _anew(value: Any) -> Any:
    """Return how to recreate a tracer, a meter or a structlog logger; None for everything else."""
    home = foreign.full_name(type(value)).partition(".")[0]
    if home == "opentelemetry":
        return _of_opentelemetry(value)
    return _of_structlog(value) if home == "structlog" else None


def _of_opentelemetry(value: Any) -> Any:
    from opentelemetry import metrics, trace  # noqa: PLC0415 - if one exists, it is imported already

    scope = getattr(value, "_instrumentation_scope", None)
    if isinstance(value, trace.Tracer):
        if scope is not None:
            return trace.get_tracer, (scope.name, scope.version, None, scope.schema_url)
        facts = vars(value)
        name, version = (
            facts.get("_instrumenting_module_name", ""),
            facts.get("_instrumenting_library_version"),
        )
        return trace.get_tracer, (name, version, None, facts.get("_schema_url"))
    if isinstance(value, metrics.Meter):
        return metrics.get_meter, (value.name, value.version, None, value.schema_url)
    return None


def _of_structlog(value: Any) -> Any:
    import structlog  # noqa: PLC0415 - as above

    if type(value).__name__ == "BoundLoggerLazyProxy":
        return make_logger, (value._logger_factory_args, value._initial_values)
    if isinstance(value, structlog.BoundLoggerBase):
        name = getattr(value._logger, "name", None)
        return make_logger, ((name,) if isinstance(name, str) else (), structlog.get_context(value))
    return None


def make_logger(names: tuple[Any, ...], values: dict[str, Any]) -> Any:
    """Return a structlog logger as this process has configured it."""
    import structlog  # noqa: PLC0415 - as above

    return structlog.get_logger(*names, **values)
