"""PromQL made of declared metrics: nothing spells a name, and asking for a label that a metric lacks fails here.

Every selector is narrowed by the dashboard's job and instance, and by its category and priority where the metric
has these labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dashboards.library import ALERTS
from qorzen_obs.telemetry.names import (
    DEFINITION_RUN_DURATION,
    LOOP_BLOCKED,
    QUEUE_WAIT,
    QUEUE_WAIT_MAX,
    RUN_DURATION,
    RUN_MAX,
    MetricName,
)

#: What Prometheus puts on everything that it scrapes.
TARGET_LABELS: Final = ("job", "instance")
#: The variables that a label of the same name is matched with.
NARROWING: Final = ("category", "priority")
#: Its categories are culprits, `foreign` and `gc` among them, which no category of tasks selects.
_OWN_CATEGORIES: Final = (LOOP_BLOCKED,)
#: Rules aggregate over instances, so an alert may have neither of the target's labels: nothing narrows it by them.
_WITHOUT_TARGET: Final = (ALERTS,)

#: The gauge that says what the largest value of a histogram was in the last minute.
_LARGEST: Final = {QUEUE_WAIT: QUEUE_WAIT_MAX, RUN_DURATION: RUN_MAX, DEFINITION_RUN_DURATION: RUN_MAX}
#: No variable narrows these by category, so none may narrow what they are compared with.
_WITHOUT_CATEGORY: Final = (DEFINITION_RUN_DURATION,)

_SUFFIXES: Final = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
    "info": ("_info",),
    "stateset": ("",),
}


def sample_names(metric: MetricName) -> tuple[str, ...]:
    """Return the names that a metric has in Prometheus: one, or three for a histogram."""
    return tuple(metric.name + suffix for suffix in _SUFFIXES[metric.type])


def label_names(metric: MetricName) -> tuple[str, ...]:
    """Return the labels that its series have in Prometheus, those of the target first."""
    own = metric.labels
    if metric.type == "stateset":  # OpenMetrics: the state stands in a label named as the metric
        own = (*own[:-1], metric.name)
    elif metric.type == "histogram":
        own = (*own, "le")
    return own if metric in _WITHOUT_TARGET else (*TARGET_LABELS, *own)


def select(metric: MetricName, *, part: str = "", wide: bool = False, **matchers: str) -> str:
    """Return a selector. A matcher that starts with a tilde is a regular expression.

    `part` is `bucket`, `count` or `sum` of a histogram; `wide` leaves category and priority open.
    """
    labels = label_names(metric)
    if metric.type == "stateset" and "state" in matchers:
        matchers[metric.name] = matchers.pop("state")
    _check(metric, matchers)
    target = () if metric in _WITHOUT_TARGET else TARGET_LABELS
    narrowed = () if wide or metric in _OWN_CATEGORIES else NARROWING
    parts = [f'{label}=~"${label}"' for label in (*target, *narrowed) if label in labels]
    for label, value in matchers.items():
        operator = "=~" if value.startswith("~") else "="
        parts.append(f'{label}{operator}"{value.removeprefix("~")}"')
    names = sample_names(metric)
    name = f"{metric.name}_{part}" if part else names[0]
    if name not in names:
        raise ValueError(f"{metric.name} is a {metric.type} and has no {part}")
    return f"{name}{{{', '.join(parts)}}}"


def now(
    metric: MetricName,
    /,
    *by: str,
    aggregate: str = "sum",
    then: str = "",
    wide: bool = False,
    **matchers: str,
) -> str:
    """Return its present value, aggregated; `then` is a comparison or an offset for the samples before."""
    return _aggregated(aggregate, metric, by, f"{select(metric, wide=wide, **matchers)} {then}".rstrip())


def per_second(metric: MetricName, /, *by: str, part: str = "", wide: bool = False, **matchers: str) -> str:
    """Return how fast it counts, summed."""
    selector = select(metric, part=part, wide=wide, **matchers)
    return _aggregated("sum", metric, by, f"rate({selector}[$__rate_interval])")


def in_range(metric: MetricName, /, *by: str, part: str = "", wide: bool = False, **matchers: str) -> str:
    """Return how far it counted in the time that the dashboard shows, summed."""
    selector = select(metric, part=part, wide=wide, **matchers)
    return _aggregated("sum", metric, by, f"increase({selector}[$__range])")


def counted(metric: MetricName, /, *by: str, wide: bool = False, **matchers: str) -> str:
    """Return how fast it counts, summed, of those that counted anything in the shown time.

    The others are 0 all along: a legend of many of them hides what happened.
    """
    return (
        f"{per_second(metric, *by, wide=wide, **matchers)}"
        f" and ({in_range(metric, *by, wide=wide, **matchers)} > 0)"
    )


def quantile(q: float, metric: MetricName, /, *by: str, wide: bool = False, **matchers: str) -> str:
    """Return a quantile of a histogram, and nothing, rather than NaN, where it counted nothing.

    Within a bucket Prometheus interpolates. Where a gauge says what the largest value was, no quantile is above that;
    it says so of a minute, so the service has to be scraped once a minute.
    """
    counted = per_second(metric, "le", *by, part="bucket", wide=wide, **matchers)
    interpolated = f"histogram_quantile({q:g}, {counted})"
    gauge = _LARGEST.get(metric)
    if gauge is None:
        return f"{interpolated} >= 0"
    own = label_names(gauge)
    narrowing = {label: value for label, value in matchers.items() if label in own}
    selector = select(gauge, wide=wide or metric in _WITHOUT_CATEGORY, **narrowing)
    shared = tuple(label for label in by if label in own)
    largest = _aggregated("max", gauge, shared, f"max_over_time({selector}[$__rate_interval])")
    matching = "" if shared == by else f"on ({', '.join(shared)}) group_right () "
    return f"({largest} < {matching}{interpolated} or {interpolated}) >= 0"


def total(by: Iterable[str], *terms: str) -> str:
    """Return the sum of terms that have these labels. A term may begin with a minus, and one without data is 0."""
    told_apart = (f'label_replace({term}, "term", "{number}", "", "")' for number, term in enumerate(terms))
    return f"sum by ({', '.join(by)}) (\n" + "\nor\n".join(told_apart) + "\n)"


def share(part: str, whole: str) -> str:
    """Return their ratio, and nothing where the whole is 0."""
    return f"{part} / ({whole} > 0)"


def _aggregated(aggregate: str, metric: MetricName, by: tuple[str, ...], expression: str) -> str:
    _check(metric, by)
    grouping = f" by ({', '.join(by)}) " if by else ""
    return f"{aggregate}{grouping}({expression})"


def _check(metric: MetricName, labels: Iterable[str]) -> None:
    if unknown := set(labels) - set(label_names(metric)):
        raise ValueError(f"{metric.name} has no label {', '.join(sorted(unknown))}")
