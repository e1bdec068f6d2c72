"""Finds telling names in a text, and where their values begin.

It looks only where a part of such a name occurs, so that a long text with few of them takes little time. The
expressions are linear, as in secret_forms.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from qorzen_obs.telemetry.secret_values import BLOCK, ENCODED_QUOTE, Values, in_place_of

Tells = Callable[[str], bool]

_Q: Final = r"\\{0,16}[\"']"  # in JSON that is itself a text quotes have backslashes
#: What follows a part of a name: the rest of the name, a quote, and a sign that a value follows.
_AFTER: Final = re.compile(
    r"([\w.-]*+)"
    rf"(?:(?:({_Q})\]?)?\s{{0,8}}(?:(=>|->|[:!]=|={{1,3}}|:)([ \t]{{0,8}})|(?:(?<=[\"'])|(?<=[\"']\s)),(\s{{0,8}}))"
    rf"|({ENCODED_QUOTE}?+(?::|%(?:25){{0,3}}3[AaDd]|&#(?:61|[xX]3[Dd]);|\\{{1,16}}u003[AaDd])\s{{0,8}})"
    r"|( {1,8})(?=[\"']))?+"
)
_SIGN, _BLANK, _COMMA, _ENCODED_SIGN, _BEFORE_QUOTE = 3, 4, 5, 6, 7  # its groups
#: What `%3F`, `%253F` and `\u0022` leave before a name.
_ESCAPES_REST: Final = {"%": re.compile(r"(?:25){0,3}[0-9A-Fa-f]{2}"), "\\": re.compile(r"u00[0-9A-Fa-f]{2}")}
_OPTIONS_VALUE: Final = re.compile(r" {1,8}(?![-\s])")
#: What precedes the name in `('password', 'X')`, `[["password", "X"]]` and `['--password', 'X']`.
_BEFORE_PAIR: Final = re.compile(r"(?:\(|[\[,]\s?\[)[bBrRuUfF]{0,2}\\{0,16}[\"']\Z")
_BEFORE_TAG: Final = re.compile(r"(?:<|&lt;)(?:[\w.-]++:)?\Z")
_TAGS_ATTRIBUTE: Final = re.compile(r"(?i)\s[^<>{}]{0,200}?(?<![\w.-])value\s{0,8}=\s{0,8}")
_TAGS_END: Final = re.compile(r"(?:\s[^<>&]{0,1000}+)?+(?<!/)(?:>|&gt;)")
#: `{"name": "password", "value": "X"}`, also in XML, and in reverse order.
_NAMING: Final = (
    r"(?:name|key|field|variable|var|header|setting|option|"
    r"param|parameter|property|attribute|type|kind|id|label)"
)
_HOLDING: Final = r"(?<![\w.-])(?:value|val|contents?|string|data|default)"
_IS: Final = rf"(?:{_Q})?\s{{0,8}}(?:=>|[:=])\s{{0,8}}"
_BEFORE_NAME: Final = re.compile(rf"(?i)(?:[^\w.-]|\A){_NAMING}(?:{_IS}|>\s{{0,8}})(?:{_Q})?\Z")
_RECORDS_VALUE: Final = re.compile(
    rf"(?i)(?:{_Q})?(?:\s{{0,8}}</\w{{1,20}}>\s{{0,8}}<\w{{1,20}}>|[^<>{{}}]{{0,200}}?{_HOLDING}{_IS})"
)
_ELEMENTS_VALUE: Final = re.compile(rf"{_Q}[^<>{{}}]{{0,200}}+(?<!/)>(?:\s{{0,80}}<\w{{1,20}}>)?(?=[^\s<])")
_VALUE_BEFORE: Final = re.compile(
    rf"(?i){_HOLDING}{_IS}({_Q}[^\"'\r\n]{{0,200}}{_Q}|[^\s,\"'{{}}]{{1,200}})[,;\s](?:[^<>{{}}]{{0,200}}[,;\s])?(?:{_Q})?{_NAMING}{_IS}(?:{_Q})?\Z"
)
_NEAR: Final = 64  #: characters before a name that are checked
_RECORD: Final = 300  #: as above, if its value precedes it
_MAX_NAME: Final = 200
#: Values that are about a secret but are not secrets.
_NO_SECRET: Final = re.compile(r"(?:None|null|[Tt]rue|[Ff]alse|undefined|\"\"|'')[,;]?\Z")
_MANY: Final = re.compile(rf"[\[({{]|{BLOCK.pattern}")
_LINE_BREAKS: Final = frozenset("\r\n")
_NEXT_LINE: Final = re.compile(r"\r?\n\s{0,80}+(?=[\"'\[{])")  # of JSON
#: From databases, which have no sign between these and a value.
_STATED: Final = frozenset({"password", "passwd", "pwd"})


def hide_values(text: str, parts: Sequence[str], tells: Tells, tells_of_many: Tells) -> str:
    """Hide the values of telling names, also of those that count only with several values: `tokens=["a", "b"]`.

    `parts` are in lower case; every telling name contains one of them.
    """
    lower = text.lower()
    if len(lower) != len(text):  # the only letter that becomes longer in lower case
        lower = text.replace("\u0130", "i").lower()
    names = _Names(text, lower)
    for part in parts:
        at = lower.find(part)
        while at >= 0:
            after = _AFTER.match(text, at)
            assert after is not None, "each part of it may be empty"
            end = max(after.end(1), at + 1)
            if (after.lastindex or 0) > 1 or names.has_more_forms:
                names.look(at, after, tells, tells_of_many)
            at = lower.find(part, end)
    return names.without_values() if names.found else text


_Found = tuple[int, "Callable[[Values, int, str], int]", str, bool]


class _Names:
    """The telling names of a text, and where their values begin."""

    def __init__(self, text: str, lower: str) -> None:
        self._text = text
        #: (where a value begins, the function that finds its end, its name, whether only several values are hidden)
        self.found: list[_Found] = []
        self._seen: set[int] = set()  # where the names end: several parts may be in one
        self._options = "--" in text
        self._tags = "<" in text or "&lt;" in text
        self._records = (  # a loop, since any() takes five times as long
            "val" in lower
            or "content" in lower
            or "string" in lower
            or "data" in lower
            or "default" in lower
            or '">' in text
            or "'>" in text
        )
        self.has_more_forms = self._options or self._tags or self._records

    def look(self, at: int, after: re.Match[str], tells: Tells, tells_of_many: Tells) -> None:
        """Check the name around `at`; `after` is the text from there on."""
        end = after.end(1)
        if end in self._seen:
            return
        self._seen.add(end)
        start, name = self._name(at, end)
        many = not tells(name)
        if many and not tells_of_many(name):
            return
        if after[_SIGN]:
            self._add_named(after, name, many)
        elif after[_ENCODED_SIGN]:
            self._add(after.end(), Values.encoded, name)
        elif (after[_COMMA] is not None and self._is_pair(start, name)) or (
            after[_BEFORE_QUOTE] and name.lower() in _STATED
        ):
            self._add(after.end(), Values.of_item, name)
        elif self._options and name.startswith("--"):
            blank = _OPTIONS_VALUE.match(self._text, end)
            if blank is not None:
                self._add(blank.end(), Values.of_word, name)
        if self._tags:
            self._look_at_tag(start, end)
        if self._records and not many:
            self._look_at_record(start, end, name)

    def without_values(self) -> str:
        """Return the text without the values that were found."""
        text = self._text
        shown: list[str] = []
        done = 0
        values = Values(text)
        for start, end_of, name, many in sorted(self.found, key=_first):
            if start < done or (many and _MANY.match(text, start) is None):  # inside a hidden value
                continue
            end = end_of(values, start, name)
            value = text[start:end]
            if value and _NO_SECRET.match(value) is None:
                shown += (text[done:start], in_place_of(value))
                done = end
        return "".join((*shown, text[done:])) if shown else text

    def _add(self, start: int, end_of: Callable[[Values, int, str], int], name: str) -> None:
        self.found.append((start, end_of, name, False))

    def _add_named(self, after: re.Match[str], name: str, many: bool) -> None:
        text, start = self._text, after.end()
        if name.lower().endswith(("authorization", "cookie")):
            end_of = Values.of_header
        elif after[2]:
            end_of = Values.of_item
            below = _NEXT_LINE.match(text, start)
            start = start if below is None else below.end()
        elif after[_SIGN] == ":" and (after[_BLANK] or text[start : start + 1] in _LINE_BREAKS):
            end_of = Values.of_line
        else:
            end_of = Values.of_word
        self.found.append((start, end_of, name, many))

    def _name(self, at: int, end: int) -> tuple[int, str]:
        """Return where a name begins, and its relevant part."""
        text = self._text
        start = self._begin(at)
        if start and end - start == 3 and text[start - 1] == " ":  # `api key`
            start = self._begin(start - 1)
        rest = _ESCAPES_REST.get(text[start - 1 : start])
        escape = None if rest is None else rest.match(text, start, at)
        if escape is not None:
            start = escape.end()
        return start, text[start:end][:_MAX_NAME]

    def _begin(self, at: int) -> int:
        text, limit = self._text, max(0, at - _MAX_NAME)
        while at > limit and ((before := text[at - 1]).isalnum() or before in "_.-"):
            at -= 1
        return at

    def _is_pair(self, start: int, name: str) -> bool:
        return (
            name.startswith("--")
            or _BEFORE_PAIR.search(self._text[max(0, start - _NEAR) : start]) is not None
        )

    def _look_at_tag(self, start: int, end: int) -> None:
        before = _BEFORE_TAG.search(self._text[max(0, start - _NEAR) : start])
        if before is None:
            return
        attribute = _TAGS_ATTRIBUTE.match(self._text, end)
        if attribute is not None:
            self._add(attribute.end(), Values.of_item, "")
        tags_end = _TAGS_END.match(self._text, end)
        if tags_end is not None:
            space = before[0].removeprefix("<").removeprefix("&lt;")
            self._add(tags_end.end(), Values.of_tag, space + self._text[start:end])

    def _look_at_record(self, start: int, end: int, name: str) -> None:
        text, near = self._text, self._text[max(0, start - _NEAR) : start]
        if _BEFORE_NAME.search(near) is None:
            return
        value = _RECORDS_VALUE.match(text, end)
        if value is not None:
            self._add(value.end(), Values.up_to_tag if value[0].endswith(">") else Values.of_item, name)
        elif "<" in near and (element := _ELEMENTS_VALUE.match(text, end)) is not None:
            self._add(element.end(), Values.up_to_tag, name)
        else:
            begin = max(0, start - _RECORD)
            earlier = _VALUE_BEFORE.search(text[begin:start])
            if earlier is not None:
                self._add(begin + earlier.start(1), Values.of_item, name)


def _first(found: _Found) -> int:
    return found[0]
