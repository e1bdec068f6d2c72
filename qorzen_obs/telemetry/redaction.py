"""What no sink may show: the values of fields with telling names, and secrets of a form that can be recognised in text.

One `Redactor` stands before every sink. It imports little, since worker processes use it too. Every expression
here takes time that grows with the length of the text and no faster: each run of characters is entered at its start
only (a lookbehind), is never given back (possessive quantifiers) or has a bound.

Where a text is cut, redact first: half a secret has no form. `head` and `tail` do both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.errors import SettingsError

HIDDEN: Final = "[redacted]"

MAX_FIELD_TEXT: Final = 65_536  #: characters of one text in a field
_MAX_DEPTH: Final = 8
_MAX_ITEMS: Final = 1_000  #: of one mapping or sequence
#: Of a text of any length, so much more is searched than is kept.
_WINDOW: Final = 65_536
#: Characters left out at the edge where such a text was cut before the search: longer than any secret.
_GUARD: Final = 16_384
_MAX_NAME: Final = 200  #: characters of a field's name that are looked at

# ---------------------------------------------------------------------- names of fields

_WORDS: Final = re.compile(r"[A-Z]++(?![a-z])|[A-Z]*?[A-Z]?[^\W\dA-Z_]++|[A-Z]|\d++")
#: Words that name a secret by themselves, and as the end of a word written together: `authtoken`, `dbpassword`.
_SECRET_WORDS: Final = (
    "password",
    "passwords",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "secrets",
    "token",
    "apikey",
    "apikeys",
    "authorization",
    "cookie",
    "cookies",
    "credential",
    "credentials",
    "privatekey",
    "accesskey",
    "secretkey",
)
_SECRET_PAIRS: Final = frozenset(
    {
        *(
            (word, "key")
            for word in ("api", "private", "access", "encryption", "signing", "account", "shared")
        ),
        *((word, "keys") for word in ("api", "private", "access", "encryption", "signing")),
        *((word, "tokens") for word in ("access", "api", "auth", "bearer", "refresh", "session")),
        ("connection", "string"),
    }
)
#: Last words of names that speak of a secret without holding it: `token_count`, `password_length`.
_HARMLESS: Final = frozenset(
    {
        "age",
        "bucket",
        "budget",
        "count",
        "counts",
        "enabled",
        "expires",
        "expiry",
        "field",
        "kind",
        "length",
        "limit",
        "name",
        "policy",
        "rate",
        "required",
        "seconds",
        "size",
        "ttl",
        "type",
        "url",
        "usage",
        "valid",
    }
)

# ---------------------------------------------------------------------- forms in text

_NAME: Final = re.compile(r"(?<![\w.-])([\w.-]++(?: [Kk]ey)?+)(?:\\{0,4}[\"'])?\s{0,8}(?:=>|[:=])[ \t]{0,8}")
_OPTION: Final = re.compile(r"(?<![\w.-])--([A-Za-z][\w.-]*+) {1,8}(?![-\s])")
_VALUE: Final = re.compile(
    r"""\\{1,4}(?:"[^"]*+|'[^']*+)"""  # in JSON that is itself a text
    r"""|[bBrRuUfF]{0,2}(?:"(?:[^"\\]|\\[\s\S])*+["\\]?|'(?:[^'\\]|\\[\s\S])*+['\\]?)"""
    r"""|[\[({][^\])}]*+[\])}]?"""
    r"""|(?:(?i:bearer|basic|digest|token|apikey|negotiate)[ \t]{1,8})?[^\s,;&"'<>]++"""
)
_HEADER_VALUE: Final = re.compile(
    r"""\\{1,4}(?:"[^"]*+|'[^']*+)"""
    r"""|[bBrRuUfF]{0,2}(?:"(?:[^"\\]|\\[\s\S])*+["\\]?|'(?:[^'\\]|\\[\s\S])*+['\\]?)"""
    r"""|[\[({][^\])}]*+[\])}]?"""
    r"""|[^\r\n"']++"""  # a whole header: `Cookie: a=1; b=2`
)

_OPENING: Final = re.compile(r"(?:[bBrRuUfF]{0,2}|(\\{1,4}))([\"'])")

#: (parts that a text has where the form may be in it, in lower case; the form; what replaces it)
_FORMS: Final[tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...]] = (
    (
        ("private key",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:[^-]|-(?!----END ))*+(?:-----END [A-Z0-9 ]{0,60}-----)?"
        ),
        HIDDEN,
    ),
    (
        ("://",),
        re.compile(
            r"(?<=://)(?:[^\s/?#\"'<>@]{0,256}+|[^\s:/@\"'<>]{0,256}+:(?!\d{1,5}[/?#])[^\s@\"'<>]{0,256}+)@"
        ),
        HIDDEN + "@",
    ),
    (
        ("bearer",),
        re.compile(r"(?i)(?<![a-z0-9])(bearer[ \t]{1,8})(?!tokens?\b|auth)[a-z0-9._~+/=-]{6,}+"),
        r"\1" + HIDDEN,
    ),
    (
        ("basic",),
        re.compile(r"(?<![A-Za-z0-9])((?i:basic)[ \t]{1,8})(?=[a-z]*+[A-Z0-9+/=])[A-Za-z0-9+/=_-]{6,}+"),
        r"\1" + HIDDEN,
    ),
    (("eyj",), re.compile(r"(?<![\w-])eyJ[\w-]{8,}+(?:\.[\w-]*+){0,4}"), HIDDEN),
    (
        ("akia", "asia"),
        re.compile(r"(?<![A-Za-z0-9])(?:AKIA|ASIA)(?:[A-Z0-9]{16}(?![A-Za-z0-9])|[A-Z0-9]{4,15}\Z)"),
        HIDDEN,
    ),
    (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "npm_", "pypi-", "hf_"),
        re.compile(
            r"(?<![A-Za-z0-9])(?:(?:gh[pousr]_|github_pat_|glpat-|pypi-)[A-Za-z0-9_-]{16,}+|(?:npm|hf)_[A-Za-z0-9]{24,}+)"
        ),
        HIDDEN,
    ),
    (
        ("xox", "xapp-", "hooks.slack"),
        re.compile(r"(?<![A-Za-z0-9])(?:xox[a-z]-|xapp-|hooks\.slack\.com/services/)[A-Za-z0-9/_-]{8,}+"),
        HIDDEN,
    ),
    (
        ("sk-", "sk_live_", "sk_test_", "rk_live_", "rk_test_", "aiza", "ya29.", "sg."),
        re.compile(r"(?<![A-Za-z0-9])(?:sk-|[sr]k_(?:live|test)_|AIza|ya29\.|SG\.)[A-Za-z0-9._-]{16,}+"),
        HIDDEN,
    ),
)
#: One of these is in every text in which a name tells.
_NAME_PARTS: Final = (
    "passw",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "authorization",
    "cookie",
    "credential",
    "key",
)
_PAIR_PARTS: Final = ("connection",)
_PARTS: Final = (*_NAME_PARTS, *_PAIR_PARTS, *(part for parts, _, _ in _FORMS for part in parts))


class Redactor:
    """Takes secrets out of texts and fields. Never changes; from any thread.

    Args:
        keys: names of fields besides the usual ones. `iban` also means `customer_iban` and `customerIban`.
        patterns: regular expressions of what to hide besides the usual forms. They run on every text, so a slow one
            makes every line slow.

    Raises:
        SettingsError: a key has no letters, or a pattern cannot be compiled or fits the empty text.
    """

    __slots__ = ("_always", "_hides", "_keys", "_name_parts", "_parts", "_patterns", "settings")

    def __init__(self, keys: Sequence[str] = (), patterns: Sequence[str] = ()) -> None:
        self.settings = (tuple(keys), tuple(patterns))  #: what it was made from
        self._keys = tuple(_key_words(key) for key in keys)
        self._patterns = tuple(_compiled(pattern) for pattern in patterns)
        named = tuple(max(words, key=len) for words in self._keys)
        self._name_parts = (*_NAME_PARTS, *_PAIR_PARTS, *named)
        self._parts = (*_PARTS, *named)
        self._always = bool(patterns) or not all(part.isascii() for part in named)
        self._hides: Callable[[str], bool] = lru_cache(4_096)(self._find_out)

    def __reduce__(self) -> tuple[Any, ...]:
        return Redactor, self.settings

    def hides(self, name: str) -> bool:
        """Return whether the values of fields of this name are hidden.

        >>> [name for name in ("db_password", "X-Api-Key", "authToken", "tokenizer", "token_count")
        ...  if Redactor().hides(name)]
        ['db_password', 'X-Api-Key', 'authToken']
        """
        return self._hides(name[:_MAX_NAME])

    def may_match(self, text: str) -> bool:
        """Return whether a text, or a line of JSON, is worth looking at. False is certain, and quick to be had."""
        if self._always:
            return True
        lower = text.lower()
        for part in self._parts:  # noqa: SIM110 - any() with a generator takes twice as long
            if part in lower:
                return True
        return False

    def text(self, text: str) -> str:
        """Return `text` without what can be recognised as a secret; the same object where there is none.

        >>> Redactor().text("GET https://me:pw@host/ with token=abc")
        'GET https://[redacted]@host/ with token=[redacted]'
        """
        if not self.may_match(text):
            return text
        lower, before = text.lower(), text
        for parts, form, replacement in _FORMS:
            if any(part in lower for part in parts):
                text = form.sub(replacement, text)
        if any(part in lower for part in self._name_parts):
            text = self._hide_values(text)
        for pattern in self._patterns:
            text = pattern.sub(HIDDEN, text)
        return before if text == before else text

    def head(self, text: str, limit: int) -> str:
        """Redact, then return the first `limit` characters.

        A text far longer than that is cut unseen first, but a good deal behind what is kept; and the last stretch
        before that cut, where half a secret could stand unrecognised, is left out.
        """
        if len(text) <= limit + _WINDOW:
            return self.text(text)[:limit]
        return self.text(text[: limit + _WINDOW])[:-_GUARD][:limit]

    def tail(self, text: str, limit: int) -> str:
        """Redact, then return the last `limit` characters; long texts as in `head`, from the other end."""
        if len(text) <= limit + _WINDOW:
            return self.text(text)[-limit:]
        return self.text(text[-limit - _WINDOW :])[_GUARD:][-limit:]

    def field(self, name: str, value: Any) -> Any:
        """Return what may be shown of a field, and of all that is in it, as values that JSON knows.

        The same object where nothing had to be hidden; past 8 levels and 1,000 items what is left is cut.
        """
        return self._field(name, value, 0)

    def _find_out(self, name: str) -> bool:
        words = tuple(word.lower() for word in _WORDS.findall(name))
        if any(_contains(words, key) for key in self._keys):
            return True
        if not words or words[-1] in _HARMLESS:
            return False
        return any(word.endswith(_SECRET_WORDS) for word in words) or any(
            pair in _SECRET_PAIRS for pair in pairwise(words)
        )

    def _hide_values(self, text: str) -> str:
        shown: list[str] = []
        done = 0
        for start, name in self._values_of_names(text):
            if start < done:  # inside a value that is hidden
                continue
            form = _HEADER_VALUE if name.lower().endswith(("authorization", "cookie")) else _VALUE
            value = form.match(text, start)
            if value is not None:
                shown += (text[done:start], _in_place_of(value[0]))
                done = value.end()
        return "".join((*shown, text[done:])) if shown else text

    def _values_of_names(self, text: str) -> list[tuple[int, str]]:
        found = [(match.end(), match[1]) for match in _NAME.finditer(text) if self.hides(match[1])]
        if "--" in text:
            found += [(match.end(), match[1]) for match in _OPTION.finditer(text) if self.hides(match[1])]
            found.sort()
        return found

    def _field(self, name: str, value: Any, depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if name and self.hides(name):
            return value if value == "" else HIDDEN
        if kind is str:
            return self.text(value) if len(value) <= MAX_FIELD_TEXT else self.head(value, MAX_FIELD_TEXT)
        if kind is int or kind is float:
            return value
        if depth >= _MAX_DEPTH:
            return self._shown(value)
        try:
            if foreign.is_a(value, Mapping):
                return self._mapping(value, depth)
            if foreign.is_a(value, (list, tuple, set, frozenset)):
                return self._items(value, depth)
            return self._other(value, depth)
        except BaseException:  # noqa: BLE001 - whatever a value's own code raises
            return self._shown(value)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        clean: dict[Any, Any] = {}
        same = len(value) <= _MAX_ITEMS
        for key, item in list(value.items())[:_MAX_ITEMS]:
            name = foreign.plain(key) if foreign.is_a(key, str) else None
            shown_key = self._key(key) if name is None else self.text(name)
            shown = clean[shown_key] = self._field(name or "", item, depth + 1)
            same = same and shown is item and shown_key is key
        if len(value) > _MAX_ITEMS:
            clean["…"] = f"{len(value) - _MAX_ITEMS} more"
        return value if same else clean

    def _key(self, key: Any) -> Any:
        return key if foreign.is_scalar(key) else self._shown(key)

    def _items(self, value: Any, depth: int) -> Any:
        items = list(value)
        if len(items) == 2 and type(items[0]) is str and foreign.is_a(value, tuple):  # a header, as a pair
            clean = [self._field("", items[0], depth + 1), self._field(items[0], items[1], depth + 1)]
        else:
            clean = [self._field("", item, depth + 1) for item in items[:_MAX_ITEMS]]
        if len(items) > _MAX_ITEMS:
            clean.append(f"… {len(items) - _MAX_ITEMS} more")
        elif all(new is old for new, old in zip(clean, items, strict=True)):
            return value
        return clean

    def _other(self, value: Any, depth: int) -> Any:
        """Go into what JSON would go into: dataclasses and the like; everything else by its `repr`."""
        if foreign.is_a(value, (bytes, bytearray, memoryview)):
            text = bytes(value).decode("utf-8", "backslashreplace")
            clean = self.head(text, MAX_FIELD_TEXT)
            return value if clean == text else clean
        import msgspec  # noqa: PLC0415 - worker processes mostly do without

        plain = msgspec.to_builtins(value, enc_hook=repr)
        if type(plain) is str:
            return value if not self.may_match(plain) else self.head(plain, MAX_FIELD_TEXT)
        clean = self._field("", plain, depth + 1)
        return value if clean is plain else clean

    def _shown(self, value: Any) -> str:
        return self.head(foreign.shown(value), MAX_FIELD_TEXT)


class PrivateKeyLines:
    """Sees private keys that a stream brings line by line, where no line but the first has a form."""

    def __init__(self) -> None:
        self._inside: dict[Any, int] = {}  # by stream, the lines of a key that may still come

    def without_key(self, stream: Any, line: str) -> str:
        """Return the next line of `stream`; one inside a private key is hidden. A key without an end has 200 lines."""
        left = self._inside.get(stream, 0)
        if "-----" in line:
            begins = _KEY_BEGINS.search(line) is not None and "-----END " not in line
            self._inside.pop(stream, None)
            if begins:
                if len(self._inside) >= _MAX_STREAMS:
                    self._inside.clear()
                self._inside[stream] = _MAX_KEY_LINES
            return line if begins or not left else HIDDEN
        if not left:
            return line
        self._inside[stream] = left - 1
        return HIDDEN


_KEY_BEGINS: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_MAX_KEY_LINES: Final = 200
_MAX_STREAMS: Final = 1_000


def _in_place_of(value: str) -> str:
    """Return what stands for a value: in quotes where it was, so that JSON stays JSON."""
    opening = _OPENING.match(value)
    if opening is None:
        return HIDDEN
    escape, quote = opening[1] or "", opening[2]
    # Of an escaped value the expressions take all before the closing quote, its backslashes included.
    return f"{escape}{quote}{HIDDEN}{escape}" if escape else f"{quote}{HIDDEN}{quote}"


def _contains(words: tuple[str, ...], key: tuple[str, ...]) -> bool:
    return any(words[start : start + len(key)] == key for start in range(len(words) - len(key) + 1))


def _key_words(key: str) -> tuple[str, ...]:
    words = tuple(word.lower() for word in _WORDS.findall(key))
    if not words:
        raise SettingsError(
            "telemetry.redact_keys", f"{key!r} has neither letters nor digits; give a field's name"
        )
    return words


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SettingsError(
            "telemetry.redact_patterns", f"{pattern!r} is not a regular expression: {error}"
        ) from error
    if compiled.search("") is not None:
        raise SettingsError("telemetry.redact_patterns", f"{pattern!r} fits the empty text, so everything")
    return compiled
