"""Which representation a client gets: Accept and Accept-Encoding by RFC 9110, section 12.5.

A header that makes no sense is not an error: unreadable parts are ignored, and something is always chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple


class Range(NamedTuple):
    """One item of an Accept header."""

    value: str  #: in lower case: a media range or a coding
    parameters: Mapping[str, str]  #: without q
    quality: float  #: 0 to 1


class MediaType(NamedTuple):
    """One representation that the server has."""

    name: str
    version: str
    #: of names that are more than letters, digits and underscores; empty where nobody asked
    escaping: str = ""

    @property
    def content_type(self) -> str:
        escaping = f"; escaping={self.escaping}" if self.escaping else ""
        return f"{self.name}; version={self.version}; charset=utf-8{escaping}"


TEXT: Final = MediaType("text/plain", "0.0.4")
OPENMETRICS: Final = MediaType("application/openmetrics-text", "1.0.0")

#: How OpenMetrics may write names: https://prometheus.io/docs/instrumenting/escaping_schemes/
ESCAPINGS: Final = ("allow-utf-8", "underscores", "dots", "values")


def choose_exposition(accept: str) -> MediaType:
    """Return the metrics format for an Accept header: the better liked one, TEXT when nothing decides.

    OpenMetrics is for those who name it: at equal quality a wildcard alone (a browser, curl) gets TEXT.

    >>> choose_exposition("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5").name
    'application/openmetrics-text'
    >>> choose_exposition("application/openmetrics-text;version=abc, */*").name
    'text/plain'
    >>> choose_exposition("application/openmetrics-text;version=1.0.0;escaping=dots").escaping
    'dots'
    """
    ranges = list(read_ranges(accept))
    openmetrics, named, by = _quality(OPENMETRICS, ranges)
    text, _, _ = _quality(TEXT, ranges)
    if openmetrics < text or openmetrics == 0 or (openmetrics == text and not named):
        return TEXT
    escaping = by.parameters.get("escaping", "")
    return OPENMETRICS._replace(escaping=escaping) if escaping in ESCAPINGS else OPENMETRICS


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a client takes gzip and likes plain bytes no better.

    >>> accepts_gzip("deflate, gzip;q=0.5"), accepts_gzip("gzip;q=0, *"), accepts_gzip("")
    (True, False, False)
    """
    codings = {item.value: item.quality for item in read_ranges(accept_encoding)}
    gzip = codings.get("gzip", codings.get("x-gzip", codings.get("*", 0.0)))
    return gzip > 0 and gzip >= codings.get("identity", 0.0)


def read_ranges(header: str) -> Iterator[Range]:
    """Yield the items of a header that can be read.

    A comma within quotes ends an item too: no format served here has one in a parameter.
    """
    for item in header.lower().split(","):
        value, *pairs = (part.strip() for part in item.split(";"))
        parameters = {}
        for pair in pairs:
            name, _, text = pair.partition("=")
            parameters[name.strip()] = text.strip().strip('"')
        quality = _read_quality(parameters.pop("q", "1"))
        if value and quality is not None:
            yield Range(value, parameters, quality)


def _read_quality(text: str) -> float | None:
    try:
        quality = float(text)
    except ValueError:
        return None
    return quality if math.isfinite(quality) and 0 <= quality <= 1 else None


def _quality(offer: MediaType, ranges: list[Range]) -> tuple[float, bool, Range]:
    """Return the quality by the most specific matching range, whether that range names the offer, and the range."""
    best, by = (0, 0.0), Range("", {}, 0.0)
    for item in ranges:
        specificity = _specificity(offer, item)
        if specificity and (specificity, item.quality) > best:
            best, by = (specificity, item.quality), item
    return best[1], best[0] >= _NAMED, by


_NAMED: Final = 3


def _specificity(offer: MediaType, item: Range) -> int:
    """Return 0 for no match, then rising: */*, type/*, type/subtype, and that with the version."""
    if item.value == "*/*":
        return 1
    if item.value == f"{offer.name.partition('/')[0]}/*":
        return 2
    version = item.parameters.get("version")
    if item.value != offer.name or version not in (None, offer.version):
        return 0
    return _NAMED if version is None else _NAMED + 1
