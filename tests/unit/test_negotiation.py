"""Which metrics format and which coding a client gets, whatever its headers say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.server.negotiation import OPENMETRICS, TEXT, MediaType, accepts_gzip, choose_exposition

PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/*", TEXT),
        ("application/*", OPENMETRICS),
        ("text/plain", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("text/plain;version=1.0.0", TEXT),
        ("application/json", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text; Version=1.0.0; charset=utf-8", OPENMETRICS),
        ('application/openmetrics-text;version="1.0.0"', OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;version=abc", TEXT),
        ("application/openmetrics-text;version=abc,*/*", TEXT),
        ("application/openmetrics-text;version=", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0,*/*", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0,application/openmetrics-text", TEXT),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", TEXT),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.4", OPENMETRICS),
        ("text/plain,application/openmetrics-text", OPENMETRICS),
        ("text/plain;q=0,*/*", OPENMETRICS),
        ("*/*;q=0", TEXT),
        ("application/openmetrics-text;q=abc", TEXT),
        ("application/openmetrics-text;q=nan", TEXT),
        ("application/openmetrics-text;q=2", TEXT),
        ("application/openmetrics-text;q=-1", TEXT),
        (",;,;q=1,=;==, ,", TEXT),
        (PROMETHEUS_3, OPENMETRICS._replace(escaping="allow-utf-8")),
        ("application/openmetrics-text;escaping=dots", OPENMETRICS._replace(escaping="dots")),
        ("application/openmetrics-text;escaping=of-its-own", OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1;escaping=dots,application/*", OPENMETRICS),
        (PROMETHEUS_2, OPENMETRICS),
        (CHROMIUM, TEXT),
    ],
)
def test_the_better_liked_format_is_chosen(accept: str, chosen: MediaType) -> None:
    assert choose_exposition(accept) == chosen


@pytest.mark.parametrize(
    ("accept_encoding", "compressed"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("deflate, br", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=0.5, identity", False),
        ("gzip;q=0.5, identity;q=0.5", True),
        ("identity;q=0, gzip;q=0.001", True),
        ("gzip;q=many", False),
    ],
)
def test_gzip_is_for_those_who_take_it_and_like_plain_no_better(
    accept_encoding: str, compressed: bool
) -> None:
    assert accepts_gzip(accept_encoding) is compressed


@given(
    st.text(alphabet=st.sampled_from(list(' ,;="*/q01.\\-+aeplication/openmetrics-text\udcff'))) | st.text()
)
def test_no_header_is_an_error(header: str) -> None:
    assert choose_exposition(header) in (TEXT, OPENMETRICS)
    assert accepts_gzip(header) in (True, False)
