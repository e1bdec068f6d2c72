"""Hides what no sink may show: the values of fields with telling names, and secrets that have a recognisable form.

Every sink gets its data through one `Redactor`. It imports little, since worker processes use it too. secret_forms.py
(keys, URLs) and telling_names.py (`password=…`) define what it looks for in texts.

Redact a text before cutting it: half a secret cannot be recognised. `head` and `tail` do both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.errors import SettingsError
from qorzen_obs.telemetry.secret_forms import FORMS, HIDDEN, URL_PARTS, hide_in_urls
from qorzen_obs.telemetry.telling_names import hide_values

MAX_FIELD_TEXT: Final = 65_536  #: characters of one text in a field
_MAX_DEPTH: Final = 8
_MAX_ITEMS: Final = 1_000  #: items of one mapping or sequence
#: Of a text of any length, this many characters are searched beyond the kept ones.
_WINDOW: Final = 65_536
#: Characters left out at the edge where such a text was cut before the search; longer than any secret.
_GUARD: Final = 16_384
_MAX_NAME: Final = 200  #: characters of a field's name that are checked
_SEVERAL: Final = (list, tuple, set, frozenset, dict)


def _spelled(words: str) -> frozenset[str]:
    return frozenset(spelled for word in words.split() for spelled in (word, word.title(), word.upper()))


#: Keys of records that hold a name and its value.
_NAMING: Final = _spelled(
    "name key field variable var header setting option param parameter property type kind id label"
)
_HOLDING: Final = _spelled("value values val content contents string data default")

# ---------------------------------------------------------------------- names of fields

_WORDS: Final = re.compile(r"[A-Z]++(?![a-z])|[A-Z]*?[A-Z]?[^\W\dA-Z_]++|[A-Z]|\d++")
#: Words that name a secret by themselves, or as the end of a compound: `authtoken`, `dbpassword`.
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
#: Last words of names that are about a secret without holding it: `token_count`, `password_length`.
_HARMLESS: Final = frozenset(
    {
        "age",
        "bucket",
        "budget",
        "count",
        "counts",
        "enabled",
        "error",
        "errors",
        "exception",
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

#: Every text with a telling name contains one of these.
_NAME_PARTS: Final = (
    "pwd",
    "secret",
    "token",
    "authorization",
    "cookie",
    "credential",
    "key",
    "connection",
)
_FORM_PARTS: Final = frozenset({*URL_PARTS, *(part for parts, _, _ in FORMS for part in parts)})
_PARTS: Final = (*_NAME_PARTS, *sorted(_FORM_PARTS))
#: `pass` counts only if a value follows: it is part of many words, and a word of its own.
_PASS: Final = re.compile(r"pass(?:w|phrase|[\"'\\%&>]|(?<=[<:-]pass)\s|\s{0,8}(?:[=:!]|->))")


class Redactor:
    """Removes secrets from texts and fields. Immutable; from any thread.

    Args:
        keys: names of fields besides the usual ones. `iban` also means `customer_iban` and `customerIban`.
        patterns: regular expressions for text to hide besides the usual forms. They run on every text, so a slow one
            makes every line slow.

    Raises:
        SettingsError: a key has no letters, or a pattern cannot be compiled or matches the empty text.
    """

    __slots__ = ("_always", "_hides", "_keys", "_name_parts", "_parts", "_patterns", "name", "settings")

    def __init__(self, keys: Sequence[str] = (), patterns: Sequence[str] = ()) -> None:
        self.settings = (tuple(keys), tuple(patterns))  #: its arguments
        self._keys = tuple(_key_words(key) for key in keys)
        self._patterns = tuple(_compiled(pattern) for pattern in patterns)
        named = tuple(max(words, key=len) for words in self._keys)
        self._name_parts = frozenset({*_NAME_PARTS, *named})
        self._parts = (*_PARTS, *named)
        self._always = bool(patterns) or not all(part.isascii() for part in named)
        self._hides: Callable[[str], bool] = lru_cache(4_096)(self._find_out)
        #: As `text`, cached, for texts that recur: names of tasks, plugins and classes.
        self.name: Callable[[str], str] = lru_cache(4_096)(self.text)

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
        """Return whether a text or a line of JSON may hold a secret. False is certain; the check is fast."""
        if self._always:
            return True
        lower = text.lower()
        if "pass" in lower and _PASS.search(lower) is not None:
            return True
        for part in self._parts:  # noqa: SIM110 - any() with a generator takes twice as long
            if part in lower:
                return True
        return False

    def text(self, text: str) -> str:
        """Return `text` without recognisable secrets; the same object if there are none.

        >>> Redactor().text("GET https://me:pw@host/ with token=abc")
        'GET https://[redacted]@host/ with token=[redacted]'
        """
        if not self.may_match(text):
            return text
        lower, before = text.lower(), text
        present = [part for part in self._parts if part in lower]
        named = [part for part in present if part in self._name_parts]
        if not _FORM_PARTS.isdisjoint(present):
            text = self._without_forms(text, present)
        if "pass" in lower:
            named.append("pass")
        if named:
            text = hide_values(text, named, self.hides, _hides_many)
        for pattern in self._patterns:
            text = pattern.sub(HIDDEN, text)
        return before if text == before else text

    def head(self, text: str, limit: int) -> str:
        """Redact, then return the first `limit` characters.

        A much longer text is first cut without a search, well beyond the kept part. The last stretch before that cut,
        which could contain half a secret, is left out.
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
        """Return the presentable part of a field and everything in it, in JSON's types.

        The same object if nothing had to be hidden. Anything beyond 8 levels or 1,000 items is cut.
        """
        return self._field(name, value, 0)

    def _without_forms(self, text: str, present: Sequence[str]) -> str:
        parts = frozenset(present)
        if not parts.isdisjoint(URL_PARTS):
            text = hide_in_urls(text)
        for needed, form, replacement in FORMS:
            if not parts.isdisjoint(needed):
                text = form.sub(replacement, text)
        return text

    def _find_out(self, name: str) -> bool:
        words = tuple(word.lower() for word in _WORDS.findall(name))
        if any(_contains(words, key) for key in self._keys):
            return True
        if not words or words[-1] in _HARMLESS:
            return False
        return (
            words[-1] == "pass"  # many longer words end in it: `compass`, `bypass`
            or any(word.endswith(_SECRET_WORDS) for word in words)
            or any(pair in _SECRET_PAIRS for pair in pairwise(words))
        )

    def _field(self, name: str, value: Any, depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if name and self.hides(name):
            return value if kind is str and not value else HIDDEN
        if kind is str:
            return self.text(value) if len(value) <= MAX_FIELD_TEXT else self.head(value, MAX_FIELD_TEXT)
        if kind is int or kind is float:
            return value
        if name and any(kind is one for one in _SEVERAL) and _hides_many(name):
            return HIDDEN if value else value
        if depth >= _MAX_DEPTH:
            return self._shown(value)
        try:
            if foreign.is_a(value, Mapping):
                return self._mapping(value, depth)
            if foreign.is_a(value, (list, tuple, set, frozenset)):
                return self._items(value, depth)
            return self._other(value, depth)
        except BaseException:  # noqa: BLE001 - a value's own code may raise anything
            return self._shown(value)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        clean: dict[Any, Any] = {}
        same = len(value) <= _MAX_ITEMS
        items = list(value.items())[:_MAX_ITEMS]
        named = None if same and _NAMING.isdisjoint(value) else self._secret_of_record(items)
        for key, item in items:
            name = foreign.plain(key) if foreign.is_a(key, str) else None
            shown_key = self._key(key) if name is None else self._field_name(name)
            said = named if named and name in _HOLDING else name
            shown = clean[shown_key] = self._field(said or "", item, depth + 1)
            same = same and shown is item and shown_key is key
        if len(value) > _MAX_ITEMS:
            clean["…"] = f"{len(value) - _MAX_ITEMS} more"
        return value if same else clean

    def _secret_of_record(self, items: list[tuple[Any, Any]]) -> str | None:
        """Return the telling name in a record of name and value: `{"name": "password", "value": …}`."""
        for key, item in items:
            if type(item) is str and type(key) is str and key in _NAMING and self.hides(item):
                return item
        return None

    def _field_name(self, name: str) -> str:
        if len(name) > _MAX_NAME:
            return self.text(name)
        shown = self.name(name)
        return name if shown == name else shown  # the object that was passed in

    def _key(self, key: Any) -> Any:
        return key if foreign.is_scalar(key) else self._shown(key)

    def _items(self, value: Any, depth: int) -> Any:
        items = list(value)
        if _is_pair(items) and foreign.is_a(value, tuple):  # a header
            clean = self._pair(items, depth)
        else:
            clean = [
                self._pair(item, depth + 1)
                if type(item) is list
                and _is_pair(item)
                and self.hides(item[0])  # a header that went through JSON meanwhile
                else self._field("", item, depth + 1)
                for item in items[:_MAX_ITEMS]
            ]
        if len(items) > _MAX_ITEMS:
            clean.append(f"… {len(items) - _MAX_ITEMS} more")
        elif all(new is old for new, old in zip(clean, items, strict=True)):
            return value
        return clean

    def _pair(self, pair: list[Any], depth: int) -> list[Any]:
        return [self._field("", pair[0], depth + 1), self._field(pair[0], pair[1], depth + 1)]

    def _other(self, value: Any, depth: int) -> Any:
        """Convert what JSON would encode by its fields, such as dataclasses; everything else by its `repr`."""
        if foreign.is_a(value, (bytes, bytearray, memoryview)):
            text = bytes(value).decode("utf-8", "backslashreplace")
            clean = self.head(text, MAX_FIELD_TEXT)
            return value if clean == text else clean
        import msgspec  # noqa: PLC0415 - most worker processes do not need it

        plain = msgspec.to_builtins(value, enc_hook=repr)
        if type(plain) is str:
            return value if not self.may_match(plain) else self.head(plain, MAX_FIELD_TEXT)
        clean = self._field("", plain, depth + 1)
        return value if clean is plain else clean

    def _shown(self, value: Any) -> str:
        return self.head(foreign.shown(value), MAX_FIELD_TEXT)


class PrivateKeyLines:
    """Recognises private keys that arrive line by line, in which only the first line has a recognisable form."""

    def __init__(self) -> None:
        self._inside: dict[Any, int] = {}  # by stream, the number of lines of a key that may still come

    def without_key(self, stream: Any, line: str) -> str:
        """Return the next line of `stream`; hide it inside a private key. A key without an end counts as 200 lines."""
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


def _hides_many(name: str) -> bool:
    """Return whether several values of this name are hidden, although a single number would not be a secret."""
    return name.lower().endswith("tokens")


def _is_pair(items: Sequence[Any]) -> bool:
    return len(items) == 2 and type(items[0]) is str


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
