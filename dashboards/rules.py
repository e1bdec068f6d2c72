"""The recording and alert rules of a service, as code: `make dashboards` writes rules/qorzen.yml anew.

Two objectives for each category, of how many tasks complete and how soon they start, give the error budgets; how
fast those burn is alerted on over four pairs of windows, as the Google SRE workbook has it
(https://sre.google/workbook/alerting-on-slos/). The other alerts are of states that no budget excuses.

One cause is one alert: what differs within an instance (a check, a category, an outcome) stands in the text and not in
the labels, and Alertmanager holds back what another alert explains (provisioning/alertmanager/alertmanager.yml).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import yaml

from dashboards.library import PROCESS_START
from dashboards.objectives import FASTEST_BURN, OBJECTIVES, bounds
from dashboards.promql import label_names, sample_names, total
from qorzen_obs.monitoring import RULES, Site
from qorzen_obs.tasks import TaskStatus
from qorzen_obs.telemetry.names import (
    CANCELLED_WAIT,
    ENGINE_SLOTS,
    ENGINE_SLOTS_BUSY,
    HEALTH_CHECK,
    HISTORY_DURABLE,
    LOOP_BLOCKED,
    NEVER_STARTED,
    OLDEST_PENDING,
    QUEUE_LIMIT,
    QUEUE_WAIT,
    SPAN_DROPPED_QUEUE_FULL,
    SPAN_EXPORT_FAILED,
    SPANS,
    TASKS,
    TASKS_ABANDONED,
    TASKS_FINISHED,
    TASKS_LOST,
    TASKS_REJECTED,
    MetricName,
)

FILE: Final = Path(__file__).parent / RULES

HEAD: Final = (
    "# Rules of qorzen_obs, generated from dashboards/rules.py: write them anew instead of editing them,\n"
    "# with `make dashboards`, or with `qorzen-obs rules` for a site of yours.\n"
)
Severity: TypeAlias = Literal["critical", "warning"]  # someone gets up now; someone looks today
Rule: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Windows:
    """A pair of windows: the long one says that it matters, the short one that it still goes on."""

    long: str
    short: str
    factor: float  #: more than so many times faster than allowed the budget burns
    severity: Severity


#: Of the workbook, for PERIOD_DAYS: what is critical takes 2 or 5 % of the whole budget, what is a warning 10 %.
WINDOWS: Final = (
    Windows("1h", "5m", FASTEST_BURN, "critical"),
    Windows("6h", "30m", 6, "critical"),
    Windows("1d", "2h", 3, "warning"),
    Windows("3d", "6h", 1, "warning"),
)
#: The pairs of one severity are one alert, which holds for so long before it fires.
HOLDS: Final[Mapping[Severity, str]] = {"critical": "2m", "warning": "1h"}

#: Fewer bad tasks than these burn no budget that is worth an alert: one failure of one task is 100 %.
FEWEST_BAD_TASKS: Final = 5

COMPLETED: Final = "completed"
STARTED: Final = "started"

#: Stands in the expressions of `named` for the instance of the alert.
INSTANCE: Final = "INSTANCE"

#: Labels slo and category. The share of tasks that may be bad.
BUDGET: Final = "category:qorzen_slo_budget:ratio"


def bad_tasks(window: str) -> str:
    """Return the name of the recorded number of bad tasks; labels job, category and slo."""
    return f"job_category:qorzen_slo_bad_tasks:increase{window}"


def bad_share(window: str) -> str:
    """Return the name of the recorded share of bad tasks, absent while there are no tasks; labels as above."""
    return f"job_category:qorzen_slo_bad_tasks:ratio{window}"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. Its texts are Prometheus templates."""

    name: str
    expression: str
    hold: str
    severity: Severity
    summary: str
    description: str
    dashboard: str
    variables: tuple[str, ...]  #: labels that the alert carries and the dashboard has as variables

    def rule(self, site: Site) -> Rule:
        """Return it as Prometheus reads it."""
        query = "&".join(f"var-{label}={{{{ $labels.{label} }}}}" for label in self.variables)
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.hold,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{site.runbooks}#{self.name.lower()}",
                "dashboard_url": f"{site.grafana}/d/{self.dashboard}?{query}",
            },
        }


def named(label: str, expression: str, *, worst: bool = True) -> str:
    """Return a template that names the values of a label where an expression holds of the alert's instance.

    `expression` has a selector with instance=INSTANCE. `worst` names the value for which it is highest, and no other.
    """
    before, after = (f"topk(1, {expression})" if worst else expression).split(f'instance="{INSTANCE}"')
    asked = f"printf `{before}job=%q, instance=%q{after}` $labels.job $labels.instance"
    return f"{{{{ range query ({asked}) }}}} {{{{ .Labels.{label} }}}}{{{{ end }}}}"


def series(metric: MetricName, *, part: str = "", **matchers: str) -> str:
    """Return a selector of a metric's samples; `part` is `bucket` or `count` of a histogram.

    A matcher that starts with `~` is a regular expression, one with `!` is what the label must not be.
    """
    name = f"{metric.name}_{part}" if part else sample_names(metric)[0]
    if unknown := set(matchers) - set(label_names(metric)):
        raise ValueError(f"{metric.name} has no label {', '.join(sorted(unknown))}")
    operators = {"~": "=~", "!": "!="}
    given = ", ".join(
        f'{label}{operators.get(value[:1], "=")}"{value.lstrip("~!")}"' for label, value in matchers.items()
    )
    return f"{name}{{{given}}}" if given else name


def recording_rules() -> Iterator[Rule]:
    """Yield the budgets, and for each window the number and the share of bad tasks of both objectives."""
    for objective in OBJECTIVES:
        for slo, share in ((COMPLETED, objective.completed), (STARTED, objective.started)):
            labels = {"category": objective.category.value, "slo": slo}
            yield {"record": BUDGET, "expr": f"vector({1 - share:.6g})", "labels": labels}
    for window in sorted({w for pair in WINDOWS for w in (pair.long, pair.short)}, key=_window_seconds):
        ended = _by_category(series(TASKS_FINISHED, status="~completed|failed"), window)
        failed = _by_category(series(TASKS_FINISHED, status="failed"), window)
        due = _starts_due(window)
        late = f"clamp_min(\n{due}\n- {_started_in_time(window)},\n0)"
        for slo, bad, all_ in ((COMPLETED, failed, ended), (STARTED, late, due)):
            of_slo = f'{bad_tasks(window)}{{slo="{slo}"}}'
            yield {"record": bad_tasks(window), "expr": bad, "labels": {"slo": slo}}
            yield {
                "record": bad_share(window),
                "expr": f"{of_slo}\n/ on (job, category) group_left ()\n({all_} > 0)",
                "labels": {"slo": slo},
            }


def alerts(site: Site) -> Iterator[Alert]:
    """Yield every alert."""
    yield from _budget_alerts()
    yield from _queue_alerts()
    yield from _work_alerts()
    yield from _history_alerts()
    yield from _service_alerts(site)


def groups(site: Site) -> dict[str, Any]:
    """Return the rules as Prometheus reads them; the rules of a group see what those before them recorded."""
    return {
        "groups": [
            {"name": "qorzen-objectives", "interval": "30s", "rules": list(recording_rules())},
            {
                "name": "qorzen-alerts",
                "interval": "15s",
                "rules": [alert.rule(site) for alert in alerts(site)],
            },
        ]
    }


def text(site: Site) -> str:
    """Return the file."""
    return HEAD + yaml.dump(groups(site), Dumper=_Dumper, sort_keys=True, width=1_000, allow_unicode=True)


def _budget_alerts() -> Iterator[Alert]:
    for name, slo, budget, what in (
        ("QorzenCompletionBudgetBurn", COMPLETED, "completion", "failed"),
        ("QorzenStartBudgetBurn", STARTED, "start", "started late"),
    ):
        for severity, hold in HOLDS.items():
            pairs = [pair for pair in WINDOWS if pair.severity == severity]
            factor = min(pair.factor for pair in pairs)
            summary = (
                f": {budget} budget burns more than {factor:g} times too fast"
                if factor > 1
                else f" tasks {what} more often than allowed"
            )
            first, then = (pair.long for pair in pairs)
            yield Alert(
                name,
                "\nor\n".join(f"(\n{_burns(pair, slo)}\n)" for pair in pairs),
                hold,
                severity,
                f"{{{{ $labels.category }}}}{summary}",
                f"In the last {first}, or in the last {then} at a slower pace,"
                f" {{{{ $value | humanizePercentage }}}} of the {{{{ $labels.category }}}} tasks {what}."
                " It goes on.",
                "qorzen-category",
                ("job", "category"),
            )


def _burns(pair: Windows, slo: str) -> str:
    """Return the share of bad tasks of the long window, where both windows burn the budget too fast."""
    of_slo = f'{{slo="{slo}"}}'
    burning = [
        f"{bad_share(window)}{of_slo} > on (slo, category) group_left () ({pair.factor:g} * {BUDGET}{of_slo})"
        for window in (pair.long, pair.short)
    ]
    return "\nand\n".join([*burning, f"{bad_tasks(pair.long)}{of_slo} >= {FEWEST_BAD_TASKS}"])


def _queue_alerts() -> Iterator[Alert]:
    oldest = f"max by (job, instance) ({series(OLDEST_PENDING)})"
    yield Alert(
        "QorzenQueueStalled",
        f"{oldest} > 300\nand\nsum by (job, instance) (increase({series(TASKS_FINISHED)}[5m])) == 0",
        "2m",
        "warning",  # long tasks in every slot are healthy; where they hang, the queue fills, which is critical
        "Tasks wait at {{ $labels.instance }} and none ends",
        "A task has waited for {{ $value | humanizeDuration }}, and for 5 minutes not a single one has ended: long"
        " tasks hold the slots, or tasks hang.",
        "qorzen-queues",
        ("job", "instance"),
    )
    yield Alert(
        "QorzenOldestPending",
        f"{oldest} > 1800",
        "5m",
        "warning",
        "Tasks wait for more than half an hour at {{ $labels.instance }}",
        "The oldest, of the category"
        + named("category", f"max by (category) ({series(OLDEST_PENDING, instance=INSTANCE)})")
        + ", has waited for {{ $value | humanizeDuration }}. Ageing lets nothing overtake it for more than 20 minutes,"
        " so there are more tasks than slots for them.",
        "qorzen-queues",
        ("job", "instance"),
    )
    yield Alert(
        "QorzenQueueAlmostFull",
        f"sum by (job, instance) ({series(TASKS, status='pending')})\n"
        f"/ sum by (job, instance) ({series(QUEUE_LIMIT)}) > 0.9",
        "2m",
        "critical",
        "The queue of {{ $labels.instance }} is almost full",
        "{{ $value | humanizePercentage }} of tasks.max_pending are taken; what comes after the last is refused or"
        " waits.",
        "qorzen-queues",
        ("job", "instance"),
    )

    # A service that stops refuses what comes then, as it should.
    def refused(window: str, by: str, **of: str) -> str:
        selector = series(TASKS_REJECTED, reason="!closed", **of)
        return f"sum by ({by}) (increase({selector}[{window}]))"

    stages: tuple[tuple[str, str, Severity, str, str], ...] = (
        ("5m", "0s", "warning", "refused tasks", ""),
        # a short window: one refusal must not count for 5 minutes
        ("2m", "5m", "critical", "goes on refusing tasks", ", and it has gone on for 5"),
    )
    for window, hold, severity, summary, so_far in stages:
        most = named("category", refused(window, "category", instance=INSTANCE))
        yield Alert(
            "QorzenTasksRejected",
            f"{refused(window, 'job, instance')} > 0",
            hold,
            severity,
            f"{{{{ $labels.instance }}}} {summary}",
            f"Refused submissions of the last {window[:-1]} minutes: {{{{ $value | humanize }}}}{so_far}. That work was"
            f" not accepted. Most of it was of the category{most}.",
            "qorzen-queues",
            ("job", "instance"),
        )


def _work_alerts() -> Iterator[Alert]:
    yield Alert(
        "QorzenEngineSaturated",
        f"{series(ENGINE_SLOTS_BUSY)} / {series(ENGINE_SLOTS)} >= 0.95\n"
        f"and on (job, instance)\nmax by (job, instance) ({series(OLDEST_PENDING)}) > 60",
        "15m",
        "warning",
        "Engine {{ $labels.engine }} of {{ $labels.instance }} has almost no free slot",
        "{{ $value | humanizePercentage }} of its slots are taken, and some task of the instance, of this engine or of"
        " another, has waited for more than a minute.",
        "qorzen-queues",
        ("job", "instance"),
    )
    yield Alert(
        "QorzenTasksAbandoned",
        f"sum by (job, instance, category) ({series(TASKS_ABANDONED)}) > 0",
        "5m",
        "warning",
        "{{ $labels.category }} tasks of {{ $labels.instance }} would not stop",
        "{{ $value }} tasks have ended for their callers while their code still runs and holds a thread.",
        "qorzen-queues",
        ("job", "instance", "category"),
    )
    yield Alert(
        "QorzenLoopBlocked",
        f"sum by (job, instance) (rate({series(LOOP_BLOCKED)}[5m])) > 0.05",
        "2m",
        "warning",
        "The event loop of {{ $labels.instance }} is blocked again and again",
        "For {{ $value | humanizePercentage }} of the time nothing else could run on the loop. What held it most:"
        + named("category", f"sum by (category) (rate({series(LOOP_BLOCKED, instance=INSTANCE)}[5m]))")
        + ".",
        "qorzen-runtime",
        ("job", "instance"),
    )
    lost = {"outcome": f"~{SPAN_DROPPED_QUEUE_FULL}|{SPAN_EXPORT_FAILED}"}
    outcomes = f"sum by (outcome) (increase({series(SPANS, **lost, instance=INSTANCE)}[10m])) > 0"
    yield Alert(
        "QorzenSpansDropped",
        f"sum by (job, instance) (increase({series(SPANS, **lost)}[10m])) > 0",
        "10m",
        "warning",
        "{{ $labels.instance }} loses spans",
        "{{ $value | humanize }} spans of the last 10 minutes did not reach the collector:"
        + named("outcome", outcomes, worst=False)
        + ". Tasks are not affected.",
        "qorzen-telemetry",
        ("job", "instance"),
    )


#: For so long after a start the tasks that it found lost are news. The counter begins above 0, so it has no increase.
_LOSS_SECONDS: Final = 3600


def _history_alerts() -> Iterator[Alert]:
    lost = series(TASKS_LOST)
    yield Alert(
        "QorzenTasksLost",
        f"sum by (job, instance) ({lost}) > 0\n"
        f"and on (job, instance)\ntime() - {series(PROCESS_START)} < {_LOSS_SECONDS}",
        "0s",
        "warning",
        "{{ $labels.instance }} has lost tasks",
        "Its last start found that a process had died with {{ $value }} running and pending tasks. Most of them were of"
        " the category"
        + named("category", f"sum by (category) ({series(TASKS_LOST, instance=INSTANCE)})")
        + ".",
        "qorzen-overview",
        ("job", "instance"),
    )
    yield Alert(
        "QorzenHistoryNotDurable",
        f"max by (job, instance) ({series(HISTORY_DURABLE)}) == 0",
        "1m",
        "critical",
        "The history of {{ $labels.instance }} is not durable",
        "It cannot be written. As history.when_broken says, new tasks are refused, or a crash would lose them without"
        " a trace.",
        "qorzen-overview",
        ("job", "instance"),
    )


def _service_alerts(site: Site) -> Iterator[Alert]:
    target = f'up{{job="{site.job}"}}'
    yield Alert(
        "QorzenServiceDown",
        f"{target} == 0",
        "1m",
        "critical",
        "{{ $labels.instance }} does not answer",
        "Prometheus cannot scrape it: it is not there, does not answer in time, or refuses the token.",
        "qorzen-overview",
        ("job", "instance"),
    )
    yield Alert(
        "QorzenServiceAbsent",
        f"absent({target})",
        "5m",
        "critical",
        "Prometheus knows of no service {{ $labels.job }}",
        "No target has this job: nothing is watched, and every other alert is silent for that reason.",
        "qorzen-overview",
        ("job",),
    )
    for name, probe, hold, summary, dashboard in (
        (
            "QorzenServiceNotReady",
            "readyz",
            "5m",
            "{{ $labels.instance }} takes no work",
            "qorzen-overview",
        ),
        (
            "QorzenServiceNotLive",
            "livez",
            "1m",
            "{{ $labels.instance }} is stuck",
            "qorzen-runtime",
        ),
    ):
        yield Alert(
            name,
            f"min by (job, instance) ({series(HEALTH_CHECK, probe=probe)}) == 0",
            hold,
            "critical",
            summary,
            f"Its probe /{probe} fails. Failing checks:"
            + named("check", f"{series(HEALTH_CHECK, probe=probe, instance=INSTANCE)} == 0", worst=False)
            + ".",
            dashboard,
            ("job", "instance"),
        )


def _by_category(selector: str, window: str) -> str:
    return f"sum by (job, category) (increase({selector}[{window}]))"


def _starts_due(window: str) -> str:
    """Return how many attempts of each category started, or never will as their task has passed its deadline.

    Those that were cancelled are left out, whether they had started or not.
    """
    return total(
        ["job", "category"],
        _by_category(series(QUEUE_WAIT, part="count"), window),
        _by_category(series(NEVER_STARTED, status=TaskStatus.FAILED.value), window),
        f"-{_by_category(series(CANCELLED_WAIT, part='count'), window)}",
    )


def _started_in_time(window: str) -> str:
    """Return how many of them started within the bound of their category."""
    started, cancelled = (
        "\n  or\n  ".join(
            _by_category(series(metric, part="bucket", category=categories, le=bound), window)
            for bound, categories in bounds()
        )
        for metric in (QUEUE_WAIT, CANCELLED_WAIT)
    )
    return total(["job", "category"], f"(\n  {started}\n)", f"-(\n  {cancelled}\n)")


def _window_seconds(window: str) -> int:
    return int(window[:-1]) * {"m": 60, "h": 3_600, "d": 86_400}[window[-1]]


class _Dumper(yaml.SafeDumper):
    """Writes an expression of several lines as it is, and repeats what is the same instead of naming it."""

    def ignore_aliases(self, data: Any) -> bool:  # the stubs of yaml say Any
        return True


def _represent(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _represent)


def write() -> None:
    """Write the rules for the stack of this repository."""
    FILE.write_text(text(Site()), encoding="utf-8")
