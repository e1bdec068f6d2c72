"""Spans of user code come back without secrets, whole in all else, and untouched where they have none."""

from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.trace import Link, Status, StatusCode

from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.secret_forms import HIDDEN
from qorzen_obs.telemetry.span_redaction import redact_span
from tests.support import Spans


def test_a_span_without_secrets_is_the_same_object() -> None:
    spans = Spans()
    with spans.tracer.start_as_current_span("clean", attributes={"n": 1, "names": ["a", "b"]}) as span:
        span.add_event("seen", {"x": 1})
    ended = spans.one("clean")
    assert redact_span(ended, Redactor()) is ended


def test_secrets_go_from_attributes_events_links_and_status_and_nothing_else_changes() -> None:
    spans = Spans(span_limits=SpanLimits(max_span_attributes=4, max_events=1))
    with spans.tracer.start_as_current_span("other") as other:
        pass
    span = spans.tracer.start_span(
        "GET https://me:canary@host/",
        links=[Link(other.get_span_context(), {"token": "canary"})],
    )
    span.set_attribute("gone", 1)
    span.set_attribute("n", 1)
    span.set_attribute("db_password", "canary")
    span.set_attribute("headers", ["Bearer canary7", "x"])
    span.set_attribute("late", 1)
    span.add_event("dropped")
    span.record_exception(ValueError("api_key=canary"))
    span.set_status(Status(StatusCode.ERROR, "password: canary"))
    span.end()
    (ended,) = (one for one in spans.all() if one.name != "other")
    clean = redact_span(ended, Redactor())
    assert "canary" in ended.to_json()
    assert "canary" not in clean.to_json()
    assert clean.attributes is not None
    assert dict(clean.attributes) == {
        "n": 1,
        "db_password": HIDDEN,
        "headers": (f"Bearer {HIDDEN}", "x"),
        "late": 1,
    }
    assert clean.status.status_code is StatusCode.ERROR
    assert (clean.context, clean.parent, clean.kind, clean.resource) == (
        ended.context,
        ended.parent,
        ended.kind,
        ended.resource,
    )
    assert (clean.start_time, clean.end_time, clean.dropped_attributes) == (
        ended.start_time,
        ended.end_time,
        1,
    )
    assert clean.dropped_events == 1
    assert clean.instrumentation_scope == ended.instrumentation_scope
