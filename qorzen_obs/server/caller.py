"""The trace and the baggage that a request comes with, by the propagators of the process (OTEL_PROPAGATORS).

A header of the W3C that is malformed is left out before OpenTelemetry reads it: it would write what it was sent into
the log. Of headers of others only the size and the characters are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from opentelemetry import propagate
from opentelemetry.context import Context

from qorzen_obs.telemetry.own_log import OwnLog

_log = OwnLog(__name__)
_MAX_HEADER: Final = 4_096
_MAX_MEMBERS: Final = 32

_TRACEPARENT: Final = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
#: One member of a list, with its key. https://www.w3.org/TR/trace-context/#list, https://www.w3.org/TR/baggage/
_MEMBERS: Final = {
    "tracestate": re.compile(r"([a-z0-9][a-z0-9_*/@-]{0,240})=[!-+\--<>-~]{1,256}"),
    "baggage": re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256})[ \t]*=[ \t]*[!#-+\--:<-\[\]-~]{0,2048}"),
}


def caller_of(headers: Mapping[str, str]) -> Context:
    """Return what goes on from a request in the tasks that it makes; an empty context where it says nothing."""
    propagator = propagate.get_global_textmap()
    try:
        return propagator.extract(_carrier(headers, propagator.fields), Context())
    except BaseException:  # noqa: BLE001 - it may be anybody's
        _log.exception("a propagator failed; what the request says of its caller is not used")
        return Context()


def _carrier(headers: Mapping[str, str], fields: Iterable[str]) -> dict[str, str]:
    """Return what a propagator may read: the headers of its fields that are well-formed."""
    carrier = {}
    for field in fields:
        name = field.lower()
        text = headers.get(name, "")
        member = _MEMBERS.get(name)
        if name == "traceparent":
            good = _TRACEPARENT.fullmatch(text) is not None
        elif member is not None:
            good = _is_list(text, member)
        else:
            good = 0 < len(text) <= _MAX_HEADER and text.isascii() and text.isprintable()
        if good:
            carrier[field] = text
    return carrier


def _is_list(text: str, member: re.Pattern[str]) -> bool:
    members = text.split(",")
    if len(text) > _MAX_HEADER or len(members) > _MAX_MEMBERS:
        return False
    found = [member.fullmatch(each.strip(" \t")) for each in members]
    keys = {each[1] for each in found if each is not None}
    return len(keys) == len(members)
