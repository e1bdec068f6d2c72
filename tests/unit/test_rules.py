"""The alert rules: as committed, well-formed, explained, and each firing when it should and only then."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import library, rules
from dashboards.objectives import OBJECTIVES, PERIOD_DAYS, Objective
from dashboards.promql import label_names, sample_names
from dashboards.rules import Alert
from qorzen_obs.monitoring import Site
from qorzen_obs.tasks import TaskCategory, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.metrics import REJECTION_REASONS
from qorzen_obs.telemetry.names import QUEUE_LIMIT, TASKS
from tests.conftest import require
from tests.panels import parse, selectors
from tests.services.backends import PROMETHEUS_HINT

ROOT = Path(__file__).parents[2]
ALERTS = tuple(rules.alerts(Site()))
NAMES = sorted({alert.name for alert in ALERTS})
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text("utf-8")


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [require("promtool", PROMETHEUS_HINT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_committed_file_is_what_its_builder_makes() -> None:
    assert rules.FILE.read_text("utf-8") == rules.text(Site()), "run: make dashboards"


def test_promtool_accepts_the_rules_and_finds_no_doublets() -> None:
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", rules.FILE)
    assert checked.returncode == 0, checked.stderr
    assert checked.stderr == ""
    assert "SUCCESS" in checked.stdout


RECORDED = {rule["record"] for rule in rules.recording_rules()}
EXPRESSIONS = [rule["expr"] for group in rules.groups(Site())["groups"] for rule in group["rules"]]
DECLARED = {
    sample: metric
    for module in (names, library)
    for metric in vars(module).values()
    if isinstance(metric, names.MetricName)
    for sample in sample_names(metric)
}


def test_each_expression_parses_and_names_metrics_labels_and_buckets_that_exist() -> None:
    for expression in EXPRESSIONS:
        for selector in selectors(parse(expression)):
            if selector.name in RECORDED:
                continue
            metric = DECLARED[selector.name or ""]
            for matcher in selector.matchers.matchers:
                assert matcher.name in label_names(metric), expression
                if matcher.name == "le":
                    assert float(matcher.value) in metric.buckets, expression


def test_the_values_that_labels_are_matched_with_exist() -> None:
    matched = {
        (matcher.name, value)
        for expression in EXPRESSIONS
        for selector in selectors(parse(expression))
        for matcher in selector.matchers.matchers
        for value in matcher.value.split("|")
    }
    known = {
        "status": {status.value for status in TaskStatus},
        "category": {category.value for category in TaskCategory},
        "reason": set(REJECTION_REASONS),
        "probe": {"livez", "readyz", "startupz"},
        "outcome": set(names.SPAN_OUTCOMES),
        "slo": {rules.COMPLETED, rules.STARTED},
        "job": {Site().job},
    }
    assert {label for label, _ in matched} == {*known, "le"}
    assert [(label, value) for label, value in matched if label != "le" and value not in known[label]] == []


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert.name} {alert.severity}")
def test_each_alert_says_how_bad_it_is_what_it_means_and_where_to_look(alert: Alert) -> None:
    rule = alert.rule(Site())
    assert rule["labels"]["severity"] in ("critical", "warning")
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert len(annotations["summary"]) < 80
    assert annotations["dashboard_url"].startswith("http://localhost:3000/d/qorzen-")
    assert annotations["runbook_url"] == f"http://localhost:8080/runbooks#{alert.name.lower()}"


def test_the_summary_of_a_burn_says_how_fast_it_is_at_least() -> None:
    core = [
        alert.summary.replace("{{ $labels.category }}", "core")
        for alert in ALERTS
        if alert.name == "QorzenCompletionBudgetBurn"
    ]
    assert core == [
        "core: completion budget burns more than 6 times too fast",
        "core tasks failed more often than allowed",
    ]


def test_an_alert_has_at_most_one_rule_for_each_severity() -> None:
    kinds = [(alert.name, alert.severity) for alert in ALERTS]
    assert len(set(kinds)) == len(kinds)


def test_there_is_a_section_for_each_alert_and_an_alert_for_each_section() -> None:
    assert sorted(re.findall(r"^## (Qorzen\w+)$", RUNBOOKS, re.MULTILINE)) == NAMES


def test_the_runbooks_say_which_alerts_an_instance_that_is_down_holds_back() -> None:
    budget, down = (
        next(alert for alert in ALERTS if name in alert.name) for name in ("BudgetBurn", "NotReady")
    )
    assert ("instance" in budget.variables, "instance" in down.variables) == (False, True)
    assert "the other alerts of that instance are held back" in " ".join(RUNBOOKS.split())


def test_the_runbooks_name_the_file_in_which_an_objective_stands() -> None:
    assert "dashboards/rules.py" not in RUNBOOKS
    assert " ".join(RUNBOOKS.split()).count("`dashboards/objectives.py`, then `make dashboards`") == 2


def test_an_alert_claims_no_more_than_its_expression_asks() -> None:
    texts = {alert.name: f"{alert.summary} {alert.description}" for alert in ALERTS}
    assert "is refused or waits" in texts["QorzenQueueAlmostFull"], "tasks.when_full"
    assert "almost no free slot" in texts["QorzenEngineSaturated"], "95 % are enough"
    assert "of this engine or of another" in texts["QorzenEngineSaturated"], (
        "who waits is not known by engine"
    )


@pytest.mark.parametrize("name", NAMES)
def test_each_section_says_what_it_means_what_to_look_at_and_what_to_do(name: str) -> None:
    section = re.split(r"^## ", RUNBOOKS.partition(f"\n## {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    for heading in ("**Means.**", "**Look first.**", "**Do.**"):
        assert section.count(heading) == 1
    look = section.partition("**Look first.**")[2].partition("**Do.**")[0]
    assert "`" in look, "the command"
    uids = {alert.dashboard for alert in ALERTS if alert.name == name}
    assert any(f"`{uid}`" in look for uid in uids), "the dashboard that the alert links to"


@pytest.mark.parametrize("name", NAMES)
def test_each_panel_to_look_at_first_is_on_its_dashboard(name: str) -> None:
    look = RUNBOOKS.partition(f"\n## {name}\n")[2].partition("**Look first.**")[2].partition("**Do.**")[0]
    seen = 0
    for uid, rest in re.findall(r"`(qorzen-[a-z]+)`([^`]*)", look):
        dashboard = json.loads((ROOT / "dashboards" / f"{uid}.json").read_text("utf-8"))
        titles = {panel["title"] for panel in _panels(dashboard)}
        panels = re.findall(r"\*([^*]+)\*", rest.replace("\n", " "))
        assert set(panels) <= titles
        seen += len(panels)
    assert seen


def _panels(dashboard: Any) -> Iterator[Any]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


def test_there_are_two_objectives_for_each_category() -> None:
    assert [objective.category for objective in OBJECTIVES] == list(TaskCategory)


def test_each_pair_of_windows_stands_for_a_round_share_of_the_whole_budget() -> None:
    hours = {"1h": 1, "6h": 6, "1d": 24, "3d": 72}
    burnt = [round(pair.factor * hours[pair.long] / (PERIOD_DAYS * 24), 6) for pair in rules.WINDOWS]
    assert burnt == [0.02, 0.05, 0.1, 0.1]


@pytest.mark.parametrize("name", ["QorzenCompletionBudgetBurn", "QorzenStartBudgetBurn"])
def test_the_runbook_and_the_panels_name_the_period_of_a_budget(name: str) -> None:
    section = RUNBOOKS.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert f"for {PERIOD_DAYS} days" in section.replace("\n", " ")
    overview = json.loads((ROOT / "dashboards" / "qorzen-overview.json").read_text("utf-8"))
    title = {"QorzenCompletionBudgetBurn": "Completion", "QorzenStartBudgetBurn": "Start"}[name]
    (budget,) = (panel for panel in _panels(overview) if panel["title"] == f"{title} budget")
    assert f"{PERIOD_DAYS} days" in budget["description"]
    assert "month" not in json.dumps(overview)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"wait_seconds": 2}, "has no bucket of 2 s"),
        ({"completed": 1.0}, "no failure could burn the budget of 1.0"),
        ({"started": 0.9}, "no failure could burn the budget of 0.9"),
    ],
)
def test_an_objective_that_no_alert_could_watch_is_refused(
    options: Mapping[str, float], problem: str
) -> None:
    usual: dict[str, Any] = {"completed": 0.99, "started": 0.99, "wait_seconds": 1}
    with pytest.raises(ValueError, match=problem):
        Objective(TaskCategory.UI, **{**usual, **options})


def test_a_label_that_a_metric_lacks_is_refused() -> None:
    assert (
        rules.series(TASKS, status="~a|b", priority="!low") == 'qorzen_tasks{status=~"a|b", priority!="low"}'
    )
    with pytest.raises(ValueError, match="qorzen_queue_limit has no label status"):
        rules.series(QUEUE_LIMIT, status="pending")


@dataclass(frozen=True)
class Firing:
    """An alert that is expected: its labels besides job and severity, how its value is shown, and whom it names."""

    value: str
    severity: str
    labels: Mapping[str, str]
    named: str = ""


@dataclass(frozen=True)
class Case:
    """What is scraped each minute, in promtool's notation, and what fires at some time."""

    alert: str
    about: str
    series: Mapping[str, str]
    at: str
    firing: tuple[Firing, ...] = ()

    def group(self) -> dict[str, Any]:
        """Return it as promtool reads it. What it expects of texts is made of the alert's own."""
        expected = []
        for firing in self.firing:
            labels = {"severity": firing.severity, "job": "qorzen", **firing.labels}
            (alert,) = (a for a in ALERTS if (a.name, a.severity) == (self.alert, firing.severity))
            annotations = {
                name: _expand(template, labels, firing)
                for name, template in alert.rule(Site())["annotations"].items()
            }
            expected.append({"exp_labels": labels, "exp_annotations": annotations})
        return {
            "name": self.about,
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in self.series.items()],
            "alert_rule_test": [{"eval_time": self.at, "alertname": self.alert, "exp_alerts": expected}],
        }


def _expand(template: str, labels: Mapping[str, str], firing: Firing) -> str:
    text = re.sub(r"\{\{ range query .*?\{\{ end \}\}", f" {firing.named}", template)
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)
    return re.sub(r"\{\{ \$value[^}]*\}\}", firing.value, text)


HERE = 'job="qorzen", instance="a:1"'
AT = {"instance": "a:1"}


def ends(category: str, *, completed: str, failed: str, cancelled: str = "0x300") -> dict[str, str]:
    return {
        f'qorzen_tasks_finished_total{{{HERE}, category="{category}", priority="normal", status="{status}"}}': values
        for status, values in (("completed", completed), ("failed", failed), ("cancelled", cancelled))
    }


def starts(
    category: str, *, all_: str, name: str = "qorzen_task_queue_wait_seconds", **within: str
) -> dict[str, str]:
    where = f'{HERE}, category="{category}", priority="normal"'
    return {
        f"{name}_count{{{where}}}": all_,
        **{
            f'{name}_bucket{{{where}, le="{bound}"}}': within.get(f"le_{bound.replace('.', '_')}", all_)
            for bound in ("0.05", "0.1", "0.5", "1.0", "5.0", "300.0", "+Inf")
        },
    }


def cancelled_starts(category: str, *, all_: str, **within: str) -> dict[str, str]:
    return starts(category, all_=all_, name="qorzen_task_cancelled_queue_wait_seconds", **within)


def never_started(category: str, *, failed: str = "0x300", cancelled: str = "0x300") -> dict[str, str]:
    return {
        f'qorzen_tasks_never_started_total{{{HERE}, category="{category}", priority="low", status="{status}"}}': values
        for status, values in (("failed", failed), ("cancelled", cancelled))
    }


def burns(share: str, category: str, severity: str) -> tuple[Firing, ...]:
    return (Firing(share, severity, {"category": category}),)


def completion(*firing: Firing) -> tuple[Firing, ...]:
    return tuple(Firing(f.value, f.severity, {**f.labels, "slo": "completed"}) for f in firing)


def start(*firing: Firing) -> tuple[Firing, ...]:
    return tuple(Firing(f.value, f.severity, {**f.labels, "slo": "started"}) for f in firing)


def oldest(values: str, priority: str = "low", category: str = "io") -> dict[str, str]:
    name = "qorzen_task_oldest_pending_age_seconds"
    return {f'{name}{{{HERE}, category="{category}", priority="{priority}"}}': values}


def labelled(name: str, values: str, **labels: str) -> dict[str, str]:
    more = "".join(f', {label}="{value}"' for label, value in labels.items())
    return {f"{name}{{{HERE}{more}}}": values}


def rejected(values: str, reason: str, category: str = "ui") -> dict[str, str]:
    return labelled("qorzen_tasks_rejected_total", values, category=category, priority="low", reason=reason)


def slots(engine: str, busy: int, limit: int) -> dict[str, str]:
    return {
        **labelled("qorzen_engine_slots_busy", f"{busy}x30", engine=engine),
        **labelled("qorzen_engine_slots", f"{limit}x30", engine=engine),
    }


CASES: Sequence[Case] = (
    Case("QorzenCompletionBudgetBurn", "2 % of core tasks failing are 20 times as many as allowed",
         ends("core", completed="0+98x20", failed="0+2x20"), "10m",
         completion(*burns("2%", "core", "critical"))),
    Case("QorzenCompletionBudgetBurn", "0.8 % are too many for hours",
         ends("core", completed="0+992x60", failed="0+8x60"), "50m",
         completion(*burns("0.8%", "core", "critical"))),
    Case("QorzenCompletionBudgetBurn", "0.4 % are too many for a day",
         ends("core", completed="0+996x200", failed="0+4x200"), "150m",
         completion(*burns("0.4%", "core", "warning"))),
    Case("QorzenCompletionBudgetBurn", "0.2 % use the budget up before its time",
         ends("core", completed="0+998x300", failed="0+2x300"), "250m",
         completion(*burns("0.2%", "core", "warning"))),
    Case("QorzenCompletionBudgetBurn", "what is allowed is quiet",
         ends("core", completed="0+9995x300", failed="0+5x300"), "250m"),
    Case("QorzenCompletionBudgetBurn", "other categories may fail more often",
         ends("background", completed="0+98x300", failed="0+2x300"), "250m"),
    Case("QorzenCompletionBudgetBurn", "what somebody cancelled did not fail",
         ends("core", completed="0+10x300", failed="0x300", cancelled="0+90x300"), "250m"),
    Case("QorzenCompletionBudgetBurn", "4 failures are no trend, of however few tasks",
         ends("core", completed="0x30", failed="0 1 2 3 4 4x25"), "10m"),
    Case("QorzenCompletionBudgetBurn", "failures that have stopped are quiet soon",
         ends("io", completed="0+80x20 1600+100x30", failed="0+20x20 400x30"), "35m",
         completion(*burns("11.76%", "io", "critical"))),
    Case("QorzenCompletionBudgetBurn", "a day of many failures is one alert for each severity",
         ends("io", completed="0+80x1500", failed="0+20x1500"), "25h",
         completion(*burns("20%", "io", "critical"), *burns("20%", "io", "warning"))),
    Case("QorzenCompletionBudgetBurn", "failures that have stopped are quiet in the end",
         ends("io", completed="0+80x20 1600+100x90", failed="0+20x20 400x90"), "60m"),
    Case("QorzenStartBudgetBurn", "a fifth of the clicks waits for more than a tenth of a second",
         starts("ui", all_="0+100x20", le_0_05="0+70x20", le_0_1="0+80x20"), "10m",
         start(*burns("20%", "ui", "critical"))),
    Case("QorzenStartBudgetBurn", "a fifth passes its deadline in the queue, and what starts does so in time",
         {**starts("io", all_="0+80x20"), **never_started("io", failed="0+20x20")}, "10m",
         start(*burns("20%", "io", "critical"))),
    Case("QorzenStartBudgetBurn", "nothing starts any more",
         {**starts("user", all_="100x20"), **never_started("user", failed="0+10x20")}, "10m",
         start(*burns("100%", "user", "critical"))),
    Case("QorzenStartBudgetBurn", "what was cancelled in the queue was not late",
         {**starts("ui", all_="0+100x300"), **never_started("ui", cancelled="0+100x300")}, "250m"),
    Case("QorzenStartBudgetBurn", "nor was what was cancelled while it ran, however late it had started",
         {**starts("ui", all_="0+100x300", le_0_1="0+50x300", le_0_05="0+50x300"),
          **cancelled_starts("ui", all_="0+50x300", le_0_1="0x300", le_0_05="0x300")}, "250m"),
    Case("QorzenStartBudgetBurn", "cancelling what started in time hides no late start",
         {**starts("ui", all_="0+100x20", le_0_1="0+90x20", le_0_05="0+90x20"),
          **cancelled_starts("ui", all_="0+80x20")}, "10m",
         start(*burns("50%", "ui", "critical"))),
    Case("QorzenStartBudgetBurn", "8 % are too many for hours",
         starts("io", all_="0+100x60", le_0_1="0+50x60", le_0_5="0+60x60", le_1_0="0+70x60", le_5_0="0+92x60"), "50m",
         start(*burns("8%", "io", "critical"))),
    Case("QorzenStartBudgetBurn", "4 % are too many for a day",
         starts("user", all_="0+100x200", le_0_5="0+90x200", le_1_0="0+96x200"), "150m",
         start(*burns("4%", "user", "warning"))),
    Case("QorzenStartBudgetBurn", "2 % use the budget up before its time",
         starts("core", all_="0+100x300", le_0_5="0+90x300", le_1_0="0+98x300"), "250m",
         start(*burns("2%", "core", "warning"))),
    Case("QorzenStartBudgetBurn", "waiting within the category's own bound is quiet",
         starts("background", all_="0+100x30", le_1_0="0x30", le_5_0="0x30", le_0_5="0x30", le_0_1="0x30"), "20m"),
    Case("QorzenQueueStalled", "tasks wait and none ends",
         {**oldest("0+60x20"), **ends("io", completed="5x20", failed="0x20")}, "10m",
         (Firing("10m 0s", "warning", AT),)),
    Case("QorzenQueueStalled", "long tasks that fill every slot get nobody up",
         {**oldest("0+60x20"), **ends("io", completed="5x20", failed="0x20"), **slots("io", 32, 32)}, "10m",
         (Firing("10m 0s", "warning", AT),)),
    Case("QorzenQueueStalled", "tasks wait long while others end",
         {**oldest("0+60x20"), **ends("io", completed="0+1x20", failed="0x20")}, "15m"),
    Case("QorzenQueueStalled", "nothing ends where nothing waits",
         {**oldest("0x20"), **ends("io", completed="5x20", failed="0x20")}, "15m"),
    Case("QorzenOldestPending", "one has waited for longer than ageing allows",
         {**oldest("0+60x60"), **oldest("0x60", "high")}, "40m",
         (Firing("40m 0s", "warning", AT, "io"),)),
    Case("QorzenOldestPending", "all that wait are one alert, which names the category of the oldest",
         {**oldest("0+60x60"), **oldest("0+59x60", "high"), **oldest("0+70x60", category="ui")}, "40m",
         (Firing("46m 40s", "warning", AT, "ui"),)),
    Case("QorzenOldestPending", "20 minutes are what ageing allows", oldest("1200x60"), "40m"),
    Case("QorzenQueueAlmostFull", "95 of 100 places are taken",
         {**labelled("qorzen_tasks", "60x10", status="pending", category="io"),
          **labelled("qorzen_tasks", "35x10", status="pending", category="ui"),
          **labelled("qorzen_tasks", "1000x10", status="completed", category="ui"),
          **labelled("qorzen_queue_limit", "100x10")}, "5m",
         (Firing("95%", "critical", AT),)),
    Case("QorzenQueueAlmostFull", "90 of 100 places are taken",
         {**labelled("qorzen_tasks", "90x10", status="pending"), **labelled("qorzen_queue_limit", "100x10")}, "5m"),
    Case("QorzenTasksRejected", "a single submission was refused",
         rejected("0 0 0 0 0 1x5", "queue_full"), "6m",
         (Firing("1", "warning", AT, "ui"),)),
    Case("QorzenTasksRejected", "a burst was refused, minutes ago",
         rejected("0 0 50x20", "queue_full"), "6m",
         (Firing("50", "warning", AT, "ui"),)),
    Case("QorzenTasksRejected", "a full queue refuses all categories and is one alert",
         {**rejected("0 0 50x20", "queue_full"), **rejected("0 0 20x20", "queue_full", "io")}, "6m",
         (Firing("70", "warning", AT, "ui"),)),
    Case("QorzenTasksRejected", "refusals go on",
         rejected("0 0 0 0 0+4x10", "queue_full"), "13m",
         (Firing("20", "warning", AT, "ui"), Firing("8", "critical", AT, "ui"))),
    Case("QorzenTasksRejected", "a service that stops refuses, as it should",
         rejected("0 0 0 0 0+4x5", "closed"), "9m"),
    Case("QorzenTasksRejected", "it was long ago",
         rejected("0 4 4x30", "queue_full"), "20m"),
    Case("QorzenEngineSaturated", "all slots taken for long, and tasks wait",
         {**slots("io", 32, 32), **slots("loop", 1, 9), **oldest("120x30")}, "20m",
         (Firing("100%", "warning", {**AT, "engine": "io"}),)),
    Case("QorzenEngineSaturated", "all slots taken and nobody waits is what slots are for",
         {**slots("io", 32, 32), **oldest("0x30")}, "20m"),
    Case("QorzenTasksAbandoned", "two hold their threads",
         {**labelled("qorzen_tasks_abandoned", "2x10", category="io"),
          **labelled("qorzen_tasks_abandoned", "0x10", category="ui")},
         "8m", (Firing("2", "warning", {**AT, "category": "io"}),)),
    Case("QorzenTasksAbandoned", "they have ended after all",
         labelled("qorzen_tasks_abandoned", "2 2 0x10", category="io"), "8m"),
    Case("QorzenTasksLost", "a start has found five",
         {**labelled("qorzen_tasks_lost_total", "_ _ 3x90", category="io"),
          **labelled("qorzen_tasks_lost_total", "_ _ 2x90", category="ui"),
          **labelled("process_start_time_seconds", "_ _ 120x90")}, "3m", (Firing("5", "warning", AT, "io"),)),
    Case("QorzenTasksLost", "it stops an hour after the start",
         {**labelled("qorzen_tasks_lost_total", "_ _ 3x90", category="io"),
          **labelled("process_start_time_seconds", "_ _ 120x90")}, "63m"),
    Case("QorzenTasksLost", "a crash after a crash",
         {**labelled("qorzen_tasks_lost_total", "3x90", category="io"),
          **labelled("process_start_time_seconds", "0x60 3600x30")}, "70m", (Firing("3", "warning", AT, "io"),)),
    Case("QorzenTasksLost", "nothing was lost",
         {**labelled("qorzen_tasks_lost_total", "0x90", category="io"),
          **labelled("process_start_time_seconds", "0x90")}, "3m"),
    Case("QorzenHistoryNotDurable", "the disk is full",
         labelled("qorzen_history_durable", "1 1 0x10"), "4m", (Firing("0", "critical", AT),)),
    Case("QorzenHistoryNotDurable", "it was a moment",
         labelled("qorzen_history_durable", "1 0 1x10"), "4m"),
    Case("QorzenLoopBlocked", "a fifth of the time",
         labelled("qorzen_event_loop_blocked_seconds_total", "0+12x20", category="user"), "10m",
         (Firing("20%", "warning", AT, "user"),)),
    Case("QorzenLoopBlocked", "two share the blame, and neither alone is too much",
         {**labelled("qorzen_event_loop_blocked_seconds_total", "0+2.4x20", category="user"),
          **labelled("qorzen_event_loop_blocked_seconds_total", "0+1.2x20", category="gc")}, "10m",
         (Firing("6%", "warning", AT, "user"),)),
    Case("QorzenLoopBlocked", "a moment now and then",
         labelled("qorzen_event_loop_blocked_seconds_total", "0+1x20", category="user"), "10m"),
    Case("QorzenSpansDropped", "the collector does not take them",
         labelled("qorzen_telemetry_spans_total", "0+10x40", outcome="export_failed"), "30m",
         (Firing("100", "warning", AT, "export_failed"),)),
    Case("QorzenSpansDropped", "a collector that is gone loses them both ways, which is one alert",
         {**labelled("qorzen_telemetry_spans_total", "0x40", outcome="dropped_queue_full"),
          **labelled("qorzen_telemetry_spans_total", "0+10x40", outcome="export_failed")}, "30m",
         (Firing("100", "warning", AT, "export_failed"),)),
    Case("QorzenSpansDropped", "sampled out is as it should be",
         {**labelled("qorzen_telemetry_spans_total", "0+10x40", outcome="sampled_out"),
          **labelled("qorzen_telemetry_spans_total", "0+10x40", outcome="exported")}, "30m"),
    Case("QorzenServiceDown", "it does not answer", labelled("up", "1 1 0x10"), "5m", (Firing("", "critical", AT),)),
    Case("QorzenServiceDown", "one scrape in between failed", labelled("up", "1 0 1x10"), "5m"),
    Case("QorzenServiceDown", "another job is not ours", {'up{job="node", instance="a:1"}': "0x10"}, "5m"),
    Case("QorzenServiceAbsent", "there is no target",
         {'up{job="node", instance="a:1"}': "1x10"}, "8m", (Firing("", "critical", {}),)),
    Case("QorzenServiceAbsent", "a service that is down is there", labelled("up", "0x10"), "8m"),
    Case("QorzenServiceNotReady", "it drains and does not end",
         {**labelled("qorzen_health_check_passing", "0x10", probe="readyz", check="accepting"),
          **labelled("qorzen_health_check_passing", "1x10", probe="readyz", check="initialized")}, "8m",
         (Firing("", "critical", AT, "accepting"),)),
    Case("QorzenServiceNotReady", "it was starting",
         labelled("qorzen_health_check_passing", "0 0 1x10", probe="readyz", check="initialized"), "8m"),
    Case("QorzenServiceNotLive", "the loop is blocked past its limit",
         labelled("qorzen_health_check_passing", "1 1 0x10", probe="livez", check="work-loop"), "5m",
         (Firing("", "critical", AT, "work-loop"),)),
    Case("QorzenServiceNotLive", "not being ready is no reason to restart it",
         labelled("qorzen_health_check_passing", "0x10", probe="readyz", check="accepting"), "5m"),
)  # fmt: skip


def test_each_alert_has_cases_in_which_it_fires_and_in_which_it_does_not() -> None:
    assert sorted({case.alert for case in CASES if case.firing}) == NAMES
    assert sorted({case.alert for case in CASES if not case.firing}) == NAMES
    for alert in ALERTS:
        assert any(
            firing.severity == alert.severity
            for case in CASES
            if case.alert == alert.name
            for firing in case.firing
        ), f"{alert.name} {alert.severity}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_alert_fires_when_it_should_and_only_then(name: str, tmp_path: Path) -> None:
    file = tmp_path / "cases.yml"
    cases = [case for case in CASES if case.alert == name]
    content = {
        "rule_files": [str(rules.FILE)],
        # All rules are evaluated each time. What is looked at for hours is looked at less often.
        "evaluation_interval": "5m" if name.endswith("BudgetBurn") else "1m",
        # Else by chance, and an alert sees what was recorded now or a minute ago.
        "group_eval_order": [group["name"] for group in rules.groups(Site())["groups"]],
        "tests": [case.group() for case in cases],
    }
    file.write_text(yaml.safe_dump(content))
    tested = promtool("test", "rules", file)
    # Each failure names the time at which it was looked; `about` of the case tells the cases of one time apart.
    about = "".join(f"{case.at}: {case.about}\n" for case in cases)
    assert tested.returncode == 0, about + tested.stdout + tested.stderr
