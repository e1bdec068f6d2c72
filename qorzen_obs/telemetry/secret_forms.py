"""Secrets that are recognised by their form: keys of well-known kinds, and passwords in URLs.

Every expression takes linear time in the length of the text: each run of characters is entered only at its start (a
lookbehind), and is either never backtracked into (possessive quantifiers) or bounded.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "[redacted]"

#: (lower-case parts of which a text with this form has one; the form; its replacement)
FORMS: Final[tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...]] = (
    (
        ("private key",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:[^-]|-(?!----END ))*+(?:-----END [A-Z0-9 ]{0,60}-----)?"
        ),
        HIDDEN,
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
    (
        ("identified by",),
        re.compile(r"(?i)(?<=identified )by( password)? {1,4}'(?:[^'\\]++|\\[\s\S]|'')*+'?"),
        rf"by\1 '{HIDDEN}'",
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
        ("sk-", "k_live_", "k_test_", "aiza", "ya29.", "sg."),
        re.compile(r"(?<![A-Za-z0-9])(?:sk-|[sr]k_(?:live|test)_|AIza|ya29\.|SG\.)[A-Za-z0-9._-]{16,}+"),
        HIDDEN,
    ),
)
#: Every text with a password in a URL contains one of these.
URL_PARTS: Final = ("://", "%3a%2f%2f")

# ---------------------------------------------------------------------- passwords in URLs

#: Up to what ends a URL: white space, a closing quote, or the next URL of a list.
_URL: Final = re.compile(
    r"""(?:[^\s"<>',;]|'(?![,;:)\]}\s]|\Z)|[,;](?![A-Za-z][A-Za-z0-9+.-]{0,20}+(?:://|%3[Aa]%2[Ff])))*+"""
)
_HOST_AND_PORT: Final = re.compile(r"\[|[^\s/:@]*+:\d{1,5}(?:[/?#]|%2[Ff]|\Z)")


def hide_in_urls(text: str) -> str:
    """Hide the part before the last `@` of a URL, even if the password contains `@`, `/` or quotes."""
    if "@" in text and "://" in text:
        text = _without_user(text, "://", "@")
    if "%40" in text:  # a URL in the query of another URL
        for scheme_end in ("%3A%2F%2F", "%3a%2f%2f"):
            text = _without_user(text, scheme_end, "%40")
    return text


def _without_user(text: str, scheme_end: str, at_sign: str) -> str:
    shown: list[str] = []
    done = run_end = at = 0
    start = text.find(scheme_end)
    while start >= 0:
        start += len(scheme_end)
        if start > run_end:
            match = _URL.match(text, start)
            run_end = start if match is None else match.end()
            at = text.rfind(at_sign, start, run_end)
        if at >= start and _is_user(text[start:at]):
            shown += (text[done:start], HIDDEN)
            done = start = at
        start = text.find(scheme_end, start)
    return "".join((*shown, text[done:])) if shown else text


def _is_user(before_at: str) -> bool:
    """Return whether a URL begins with a user: a path may also contain `@`, but a host has only the port's colon."""
    slash = _PATH.search(before_at)
    if slash is None:
        return True
    colon = _COLON.search(before_at, 0, slash.start())
    return colon is not None and _HOST_AND_PORT.match(before_at) is None


_PATH: Final = re.compile(r"[/?#]|%2[Ff]")
_COLON: Final = re.compile(r":|%3[Aa]")
