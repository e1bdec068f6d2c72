"""The W3C's trace context and baggage: parsed from headers, and as plain data for a worker process.

OpenTelemetry's own parsers follow an older grammar and log the text that they refuse. These log nothing, so that only
well-formed text is passed on. https://www.w3.org/TR/trace-context-2/, https://www.w3.org/TR/baggage/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import unquote_plus

from opentelemetry.trace import SpanContext, TraceFlags, TraceState

#: A span's identity as numbers and strings, which any pickler takes.
EncodedContext = tuple[int, int, bool, int, dict[str, str]]

KNOWN_FLAGS: Final = 0b11  #: sampled, and random trace id; the others are not passed on

_MAX_STATE_MEMBERS: Final = 32
_MAX_BAGGAGE_MEMBERS: Final = 64
_MAX_BAGGAGE_BYTES: Final = 8_192
_BLANKS: Final = " \t"

# An unknown future version may have more after the flags.
_TRACEPARENT: Final = re.compile(
    "(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})((?:-.*)?)"
)
_STATE_KEY: Final = re.compile("[a-z0-9][a-z0-9_*/@-]{0,255}")
_STATE_VALUE: Final = re.compile(r"[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_NAME: Final = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE: Final = r"[!#-+\--:<-\[\]-~]*"
_PAIR: Final = re.compile(rf"({_NAME})[ \t]*=[ \t]*({_VALUE})")
_PROPERTY: Final = re.compile(rf"{_NAME}(?:[ \t]*=[ \t]*{_VALUE})?")


class CallerState(TraceState):
    """A trace state by today's grammar, in which a key may have an `@` anywhere except at its beginning."""

    def __init__(self, members: Mapping[str, str]) -> None:
        super().__init__()
        self._dict = dict(members)

    def add(self, key: str, value: str) -> TraceState:
        """Return a state with one more member at its head; this one if the key is taken."""
        return self if key in self else self.update(key, value)

    def update(self, key: str, value: str) -> TraceState:
        """Return a state with this member at its head; this one if that would break the grammar."""
        others = {other: self[other] for other in self if other != key}
        well_formed = _STATE_KEY.fullmatch(key) and _STATE_VALUE.fullmatch(value)
        return (
            CallerState({key: value, **others}) if well_formed and len(others) < _MAX_STATE_MEMBERS else self
        )

    def delete(self, key: str) -> TraceState:
        """Return a state without this member."""
        return CallerState({other: self[other] for other in self if other != key})


def read_parent(traceparent: Iterable[str], tracestate: Iterable[str]) -> SpanContext | None:
    """Return the caller's span from the lines of its two headers; None if they name none.

    A tracestate that breaks the grammar is left out whole, as the standard requires.
    """
    lines = list(traceparent)
    found = _TRACEPARENT.fullmatch(lines[0].strip(_BLANKS)) if len(lines) == 1 else None
    if found is None or (found[1] == "00" and found[5]):
        return None
    flags = TraceFlags(int(found[4], 16) & KNOWN_FLAGS)
    state = CallerState(_read_state(tracestate) or {})
    return SpanContext(
        int(found[2], 16), int(found[3], 16), is_remote=True, trace_flags=flags, trace_state=state
    )


def read_baggage(lines: Iterable[str]) -> dict[str, str]:
    """Return the baggage from the lines of its header, without its properties.

    A malformed member is left out, and so is one that exceeds 64 members or 8,192 bytes.
    """
    found: dict[str, str] = {}
    room, size = _MAX_BAGGAGE_MEMBERS, _MAX_BAGGAGE_BYTES
    for member in _members(lines):
        first, *properties = (part.strip(_BLANKS) for part in member.split(";"))
        pair = _PAIR.fullmatch(first)
        if room and len(member) <= size and pair and all(map(_PROPERTY.fullmatch, properties)):
            found[unquote_plus(pair[1])] = unquote_plus(pair[2])
            room -= 1
            size -= len(member) + 1  # and the comma
    return found


def encode_context(context: SpanContext) -> EncodedContext:
    """Return a span's identity as plain data."""
    state = dict(context.trace_state)
    return context.trace_id, context.span_id, context.is_remote, int(context.trace_flags), state


def decode_context(encoded: EncodedContext) -> SpanContext:
    """Return the identity of a span in another process."""
    trace_id, span_id, is_remote, flags, state = encoded
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(flags), CallerState(state))


def _read_state(lines: Iterable[str]) -> dict[str, str] | None:
    """Return the members in order, only the first for a duplicate key; None if the grammar is broken."""
    members = list(_members(lines))
    found: dict[str, str] = {}
    for member in members:
        key, separator, value = member.partition("=")
        if not (separator and _STATE_KEY.fullmatch(key) and _STATE_VALUE.fullmatch(value)):
            return None
        found.setdefault(key, value)
    return found if len(members) <= _MAX_STATE_MEMBERS else None


def _members(lines: Iterable[str]) -> Iterator[str]:
    """Yield the members of a list, which may span several lines of a header; empty ones are skipped."""
    for line in lines:
        yield from filter(None, (member.strip(_BLANKS) for member in line.split(",")))
