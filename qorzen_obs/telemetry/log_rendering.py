"""The last step of a log line: turns fields into one line of text without secrets or misleading characters.

Control characters and those that change the direction of writing are escaped, so that one line cannot look like two,
or like something else on a terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import msgspec
import structlog

from qorzen_obs import foreign
from qorzen_obs.telemetry.redaction import Redactor

#: DEL and C1 controls, direction marks, line and paragraph separators: JSON does not have to escape them.
_MISLEADING: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_MISLEADING_OR_CONTROL: Final = re.compile(f"[\x00-\x1f{_MISLEADING.pattern[1:]}")
_MISLEADING_BUT_LINES: Final = re.compile(f"[\x00-\x08\x0b-\x1f{_MISLEADING.pattern[1:]}")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_MULTILINE: Final = frozenset({"exception", "stack"})

#: Fields that the package itself adds to every line and that cannot hold a secret.
_OURS: Final = frozenset(
    {
        "attempt",
        "category",
        "duration_seconds",
        "level",
        "priority",
        "queue_wait_seconds",
        "span_id",
        "status",
        "timestamp",
        "trace_id",
    }
)


def to_json(value: Any) -> str:
    """Return any value as one line of JSON, without characters that mislead a reader."""
    try:
        text = msgspec.json.encode(value, enc_hook=foreign.shown).decode()
    except BaseException:  # noqa: BLE001 - a file name has characters that UTF-8 cannot carry, or a value's own code raises
        text = _SURROGATES.sub(lambda match: "\\" + _escape(match), _dumped(value))
    return text if text.isascii() and "\x7f" not in text else _MISLEADING.sub(_escape, text)


def _dumped(value: Any) -> str:
    """Return JSON for fields that msgspec refuses; a text replaces each value whose own code raises."""
    fields = msgspec.structs.asdict(value) if foreign.is_a(value, msgspec.Struct) else value
    try:
        return json.dumps(fields, default=foreign.shown, skipkeys=True, ensure_ascii=False)
    except BaseException:  # noqa: BLE001 - as above
        if type(fields) is not dict:
            return json.dumps(foreign.shown(fields), ensure_ascii=False)
        texts = {foreign.text(key): _shown(item) for key, item in fields.items()}
        return json.dumps(texts, ensure_ascii=False)


def _shown(value: Any) -> Any:
    return value if type(value) is str or foreign.is_scalar(value) else foreign.shown(value)


def escape(text: str) -> str:
    """Return `text` with all characters escaped that may mislead a reader of a terminal, including line breaks.

    >>> escape("done\\x1b[2K\\nforged")
    'done\\\\u001b[2K\\\\u000aforged'
    """
    return text if text.isprintable() and text.isascii() else _MISLEADING_OR_CONTROL.sub(_escape, text)


def indented(text: str) -> str:
    """Indent a text of several lines, so that none of them looks like a log line."""
    return "  " + _MISLEADING_BUT_LINES.sub(_escape, text).replace("\n", "\n  ")


def redact_line(redactor: Redactor, event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a line without secrets; the same object if there are none.

    Most lines are clean, so all texts are checked together first: this takes 3 µs, checking each by itself 15 µs.
    """
    texts = []
    for name, value in event.items():
        if name in _OURS:
            continue
        if type(value) is str:
            texts.append(value)
        elif not foreign.is_scalar(value):
            break
        if redactor.hides(name):
            break
    else:
        if not redactor.may_match("\n".join(texts)):
            return event
    return {(shown := foreign.text(name)): redactor.field(shown, value) for name, value in event.items()}


class JsonLines:
    """Renders lines as JSON. structlog's last processor."""

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> str:
        return to_json(event)


class TerminalLines:
    """Renders lines for people, with colours. structlog's last processor."""

    def __init__(self) -> None:
        self._render = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        shown = {escape(foreign.text(key)): _fit_to_show(key, value) for key, value in event.items()}
        return str(self._render(logger, method, shown))


def _fit_to_show(key: str, value: Any) -> Any:
    if not foreign.is_a(value, str):
        return value if foreign.is_scalar(value) else escape(foreign.shown(value))
    value = foreign.plain(value)
    return indented(value) if key in _MULTILINE else escape(value)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
