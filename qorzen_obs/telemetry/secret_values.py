"""Where the value of a telling name ends in a text, and what replaces it.

A value in quotes ends at its closing quote, one in brackets at its closing bracket. Other values end at white space or
a closing bracket; after `name: ` they end at the end of the line, to hide too much rather than too little. The
expressions are linear, as in secret_forms.py.
"""

from __future__ import annotations

import re
from typing import Final

from qorzen_obs.telemetry.secret_forms import HIDDEN

#: Quotes as URLs, HTML or JSON encode them: `%22password%22%3A…`, `&quot;password&quot;:…`.
ENCODED_QUOTE: Final = r"(?:%(?:25){0,3}2[27]|&quot;|&#3[49];|\\{1,16}u002[27])"
_ESCAPED: Final = re.compile(r"(\\{1,16})([\"'])(?:[^\\\"']++|(?!\2)[\"']|(?!\1\2)\\++[\"']?)*+")
_QUOTED: Final = re.compile(
    r"""([bBrRuUfF]{0,2})(["'])(?:[^"'\\]++|\\[\s\S]|(?!\2)["']|\2(?=\w|\2))*+(?:\2|\\\Z)?"""
)
_CLOSING_QUOTE: Final = r"\\{0,16}[\"'](?=\\{0,16}[,:;)\]}>]|[ \t]{0,8}(?:[\r\n]|\Z))"
#: How a value continues up to a bracket or its end, by what precedes it.
_WORD: Final = re.compile(rf"(?:(?!{_CLOSING_QUOTE})[^\s()\[\]{{}}])*+")
_LINE: Final = re.compile(rf"(?:=\"[^\"\r\n]*+\"?|(?!{_CLOSING_QUOTE})[^\r\n()\[\]{{}}])*+")
_ITEM: Final = re.compile(r"(?:[^\r\n,()\[\]{}]|,(?![\s\"'\\]))*+")  # in JSON, and in what `repr` shows
_HEADER: Final = re.compile(r"(?:=[\"'][^\"'\r\n]*+[\"']?|[^\r\n\"'])*+")  # a whole one: `Cookie: a=1; b=2`
_ENCODED_VALUE: Final = re.compile(rf"({ENCODED_QUOTE})(?:(?!\1)[\s\S])*+|[^\s\"<>]*+")
_SCHEME: Final = re.compile(r"(?i)(?:bearer|basic|digest|token|apikey|negotiate)[ \t]{1,8}")
_BRACKETS: Final = re.compile(
    r"""[\[({]|[\])}]|(?<=[\[({,:=\s])(?:"(?:[^"\\]|\\[\s\S])*+"?|'(?:[^'\\]|\\[\s\S])*+'?)"""
)
_OBJECT: Final = re.compile(r"(?:<[A-Za-z_][^<>\r\n]{0,1000}+>)?")  # as `repr` shows it
#: The lines below `password: |` or `tokens:` of YAML.
BLOCK: Final = re.compile(
    r"[|>][+-]?\d?[ \t]{0,8}(?:\r?\n[ \t]++[^\r\n]++)++|[ \t]{0,8}(?:\r?\n[ \t]*+- [^\r\n]++)++"
)
_FAR: Final = 16_384  #: characters in which a tag has to be closed
_BEGIN_QUOTED: Final = frozenset("\"'\\bBrRuUfF")
_BEGIN_SCHEME: Final = frozenset("bBdDtTaAnN")
_BEGIN_MANY: Final = frozenset("[({")
_BEHIND: Final = frozenset(" \t,;")  #: what follows a value and is not part of it
_LINES_END: Final = re.compile(r"[\r\n]")
_UNCLOSED: Final = re.compile(r"(?:[^\s<>&,;:)\]}][^\s<>&]*+)?")
_OPENING: Final = re.compile(r"(?:[bBrRuUfF]{0,2}|(\\{1,16}))([\"'])")
_OPENING_ENCODED: Final = re.compile(ENCODED_QUOTE)


class Values:
    """Finds where values in one text end. Each method takes the start of the value, and its name."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line_end = 0  # end of the line of the last bracket
        self._open_until = 0  # a bracket is open up to there, so that it is not searched again

    def of_word(self, start: int, _: str) -> int:
        scheme = _SCHEME.match(self._text, start) if self._text[start : start + 1] in _BEGIN_SCHEME else None
        return self._end(start if scheme is None else scheme.end(), _WORD, start)

    def of_line(self, start: int, _: str) -> int:
        block = BLOCK.match(self._text, start)
        return self._end(start, _LINE, start) if block is None else block.end()

    def of_item(self, start: int, _: str) -> int:
        return self._end(start, _ITEM, start)

    def of_header(self, start: int, _: str) -> int:
        return self._quoted(start) or self._matched(_HEADER, start)

    def encoded(self, start: int, _: str) -> int:
        return self._quoted(start) or self._matched(_ENCODED_VALUE, start)

    def of_tag(self, start: int, name: str) -> int:
        """Return where the tag is closed, or the next white space if it is not."""
        ends = (self._text.find(f"{sign}/{name}", start, start + _FAR) for sign in ("<", "&lt;"))
        end = min((end for end in ends if end >= 0), default=-1)
        return end if end >= 0 else self._matched(_UNCLOSED, start)

    def up_to_tag(self, start: int, _: str) -> int:
        end = self._text.find("<", start, start + _FAR)
        return end if end >= 0 else self._matched(_UNCLOSED, start)

    def _matched(self, pattern: re.Pattern[str], at: int) -> int:
        match = pattern.match(self._text, at)
        return at if match is None else match.end()

    def _quoted(self, start: int) -> int:
        match = _QUOTED.match(self._text, start) or _ESCAPED.match(self._text, start)
        return 0 if match is None else match.end()

    def _end(self, at: int, plain: re.Pattern[str], start: int) -> int:
        text, size = self._text, len(self._text)
        first = text[at : at + 1]
        if first in _BEGIN_QUOTED and (quoted := self._quoted(at)):
            return quoted
        if first == "<":
            at = self._matched(_OBJECT, at)
        elif first in _BEGIN_MANY:
            closed = self._closed(at, size)
            if closed is None:
                return size
            at = closed
        while True:
            at = self._matched(plain, at)
            if at >= size or text[at] not in _BEGIN_MANY:
                break
            at = self._closed_in_line(at) or at + 1
        while at > start and text[at - 1] in _BEHIND:
            at -= 1
        return at

    def _closed_in_line(self, at: int) -> int | None:
        """As `_closed`, for a bracket in the middle of a value, such as `get(1)`."""
        if at < self._open_until:
            return None
        if at >= self._line_end:
            end = _LINES_END.search(self._text, at)
            self._line_end = len(self._text) if end is None else end.start()
        closed = self._closed(at, self._line_end)
        if closed is None:
            self._open_until = self._line_end
        return closed

    def _closed(self, at: int, limit: int) -> int | None:
        """Return where a bracket is closed, after all nested ones; None if it is not."""
        depth = 0
        for match in _BRACKETS.finditer(self._text, at, limit):
            token = match[0]
            if token in "[({":
                depth += 1
            elif token in "])}":
                depth -= 1
                if not depth:
                    return match.end()
        return None


def in_place_of(value: str) -> str:
    """Return the replacement for a value: in quotes if the value was, so that JSON stays JSON."""
    opening = _OPENING.match(value)
    if opening is not None:
        escape, quote = opening[1], opening[2]
        # The closing quote of an escaped value stays where it is.
        return f"{escape}{quote}{HIDDEN}" if escape else f"{quote}{HIDDEN}{quote}"
    encoded = _OPENING_ENCODED.match(value)
    return HIDDEN if encoded is None else encoded[0] + HIDDEN
