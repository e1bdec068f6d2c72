"""What the dashboards ask for exists, and the error budgets that they show are right by Prometheus' own reckoning."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import promql_parser as promql
import pytest

from dashboards import budgets, library
from dashboards.objectives import OBJECTIVES
from dashboards.promql import counted, in_range, label_names, per_second, quantile, sample_names, select
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.names import MetricName
from tests.conftest import require
from tests.panels import Target, Tree, load, nodes, panels, parse, selectors, substitute, targets, variables
from tests.services.backends import PROMETHEUS_HINT

ALL: Final = [
    metric
    for module in (names, library)
    for metric in vars(module).values()
    if isinstance(metric, MetricName)
]
BY_SAMPLE: Final = {sample: metric for metric in ALL for sample in sample_names(metric)}
OF_GRAFANA: Final = {"__rate_interval", "__range"}

DASHBOARDS: Final = load()
PROMQL: Final = [target for dashboard in DASHBOARDS for target in targets(dashboard, "prometheus")]
every_expression = pytest.mark.parametrize("target", PROMQL, ids=str)
every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard["uid"])


def problems(text: str) -> Iterator[str]:
    """Say what an expression names that does not exist."""
    expression = parse(text)
    for selector in selectors(expression):
        metric = BY_SAMPLE.get(selector.name or "")
        if metric is None:
            yield f"no metric is named {selector.name}"
            continue
        for matcher in selector.matchers.matchers:
            if matcher.name not in label_names(metric):
                yield f"{selector.name} has no label {matcher.name}"
            bounds = {str(float(bound)) for bound in metric.buckets}
            if matcher.name == "le" and matcher.value not in bounds:
                yield f"{selector.name} has no bucket {matcher.value}"
    for node in nodes(expression):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            below = labels_of(node.expr)
            yield from (f"{label} is aggregated away" for label in node.modifier.labels if label not in below)
        if isinstance(node, promql.BinaryExpr) and node.modifier is not None:
            matched = set(node.modifier.matching.labels) if node.modifier.matching is not None else set()
            both = labels_of(node.lhs) & labels_of(node.rhs)
            yield from (f"{label} is not on both sides" for label in matched - both)


def labels_of(node: object) -> set[str]:
    """Return the labels that the result of an expression may have."""
    if isinstance(node, promql.VectorSelector):
        return set(label_names(BY_SAMPLE[node.name])) if node.name in BY_SAMPLE else set()
    if isinstance(node, promql.MatrixSelector):
        return labels_of(node.vector_selector)
    if isinstance(node, promql.Call):
        labels = set().union(*(labels_of(argument) for argument in node.args))
        if node.func.name == "label_replace":
            labels.add(node.args[1].val)
        return labels - {"le"} if node.func.name == "histogram_quantile" else labels
    if isinstance(node, promql.AggregateExpr):
        if node.modifier is not None:
            return set(node.modifier.labels)
        return labels_of(node.expr) if str(node.op) == "topk" else set()
    if isinstance(node, promql.BinaryExpr):
        added = (node.modifier.group_labels or []) if node.modifier is not None else []
        return (labels_of(node.lhs) or labels_of(node.rhs)) | set(added)
    if isinstance(node, (promql.ParenExpr, promql.UnaryExpr)):
        return labels_of(node.expr)
    return set()


@every_expression
def test_each_expression_parses_and_names_what_exists(target: Target) -> None:
    assert list(problems(target.text)) == []


@every_expression
def test_the_names_of_series_use_labels_that_they_have(target: Target) -> None:
    used = set(re.findall(r"\{\{(\w+)\}\}", target.query.get("legendFormat", "")))
    labels = labels_of(parse(target.text))
    assert used <= labels
    single = target.panel["type"] in ("stat", "table") or not labels
    assert single or used, "the series have labels, and nothing tells them apart"


def test_each_metric_of_the_service_is_on_a_dashboard() -> None:
    shown = {
        BY_SAMPLE[selector.name or ""] for target in PROMQL for selector in selectors(parse(target.text))
    }
    declared = [metric for metric in ALL if metric.name.startswith("qorzen_")]
    assert [metric.name for metric in declared if metric not in shown] == []


@every_dashboard
def test_the_columns_of_tables_are_labels_of_their_series(dashboard: Tree) -> None:
    for panel in panels(dashboard):
        if panel["type"] != "table" or panel["datasource"]["type"] != "prometheus":
            continue
        have = set().union(*(labels_of(parse(query["expr"])) for query in panel["targets"]))
        values = {"Value", *(f"Value #{query['refId']}" for query in panel["targets"])}
        shown = panel["transformations"][-1]["options"]["includeByName"]
        assert set(shown) <= have | values, panel["title"]


@every_dashboard
def test_annotations_parse_and_name_what_exists(dashboard: Tree) -> None:
    for annotation in dashboard["annotations"]["list"]:
        assert list(problems(annotation["target"]["expr"])) == []
        used = set(re.findall(r"\{\{(\w+)\}\}", annotation["textFormat"]))
        assert used <= labels_of(parse(annotation["target"]["expr"]))


@every_dashboard
def test_each_query_uses_variables_that_the_dashboard_has_and_shows(dashboard: Tree) -> None:
    shown = {name for name, variable in variables(dashboard).items() if not variable.get("hide")}
    for target in targets(dashboard):
        used: set[str] = set()
        substitute(target.text, _Recorder(used))
        assert used <= shown | OF_GRAFANA, f"{target} is narrowed by what nobody sees"


@pytest.mark.parametrize("dashboard", [d for d in DASHBOARDS if d["uid"] == "qorzen-category"])
def test_traces_are_searched_by_attributes_that_spans_have(dashboard: Tree) -> None:
    (target,) = targets(dashboard, "tempo")
    attributes = set(re.findall(r"span\.([\w.]+)", target.text))
    assert attributes
    assert attributes <= set(names.SPAN_ATTRIBUTES)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('qorzen_taks{status="x"}', "no metric is named qorzen_taks"),
        ("qorzen_tasks_finished{}", "no metric is named qorzen_tasks_finished"),
        ('qorzen_tasks{state="pending"}', "qorzen_tasks has no label state"),
        ("sum by (engine) (qorzen_tasks)", "engine is aggregated away"),
        ("sum by (status) (sum by (category) (qorzen_tasks))", "status is aggregated away"),
        (
            "qorzen_tasks * on (engine) group_left () qorzen_engine_slots",
            "engine is not on both sides",
        ),
        ('qorzen_task_queue_wait_seconds_bucket{le="7.0"}', "no bucket 7.0"),
    ],
)
def test_a_wrong_expression_is_caught(text: str, problem: str) -> None:
    assert any(problem in found for found in problems(text))


def test_builders_refuse_labels_and_parts_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="has no label engine"):
        select(names.TASKS, engine="loop")
    with pytest.raises(ValueError, match="has no bucket"):
        select(names.TASKS, part="bucket")


class _Recorder(dict[str, str]):
    """Remembers which variables were asked for."""

    def __init__(self, asked: set[str]) -> None:
        super().__init__()
        self._asked = asked

    def get(self, key: str, default: str | None = None) -> str:  # type: ignore[override] # dict's is generic
        self._asked.add(key)
        return default or ""


VALUES: Final = {
    "job": ".+",
    "instance": ".+",
    "category": ".+",
    "priority": ".+",
    "__range": "1h",
    "__rate_interval": "5m",
}
OF: Final = {objective.category.value: objective for objective in OBJECTIVES}
CORE, BACKGROUND = OF["core"], OF["background"]
#: What is counted a minute: of core 2 in 1,000 fail, and of 1,000 that are not cancelled 50 start late or never, of
#: background 10 % fail and none starts late. Cancelled tasks count for neither side, whether they ran or not, and a
#: category where nothing ends has no budget to show.
A_MINUTE: Final = {
    'qorzen_tasks_finished_total{category="core", status="completed"': 998,
    'qorzen_tasks_finished_total{category="core", status="failed"': 2,
    'qorzen_tasks_finished_total{category="core", status="cancelled"': 500,
    'qorzen_tasks_finished_total{category="background", status="completed"': 90,
    'qorzen_tasks_finished_total{category="background", status="failed"': 10,
    'qorzen_tasks_finished_total{category="io", status="completed"': 0,
    'qorzen_tasks_finished_total{category="io", status="failed"': 0,
    f'qorzen_task_queue_wait_seconds_bucket{{category="core", le="{CORE.wait_seconds:.1f}"': 1250,
    'qorzen_task_queue_wait_seconds_bucket{category="core", le="+Inf"': 1480,
    'qorzen_task_queue_wait_seconds_count{category="core"': 1480,
    f'qorzen_task_cancelled_queue_wait_seconds_bucket{{category="core", le="{CORE.wait_seconds:.1f}"': 300,
    'qorzen_task_cancelled_queue_wait_seconds_count{category="core"': 500,
    'qorzen_tasks_never_started_total{category="core", status="failed"': 20,
    'qorzen_tasks_never_started_total{category="core", status="cancelled"': 70,
    f'qorzen_task_queue_wait_seconds_bucket{{category="background", le="{BACKGROUND.wait_seconds:.1f}"': 100,
    'qorzen_task_queue_wait_seconds_bucket{category="background", le="+Inf"': 100,
    'qorzen_task_queue_wait_seconds_count{category="background"': 100,
}
COMPLETION_BURN: Final = {
    "core": 0.002 / (1 - CORE.completed),
    "background": 0.1 / (1 - BACKGROUND.completed),
}
START_BURN: Final = {"core": 0.05 / (1 - CORE.started), "background": 0.0}


def _left(burn: dict[str, float]) -> dict[str, float]:
    return {category: 1 - burnt for category, burnt in burn.items()}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        pytest.param(budgets.completed(), {"background": 0.9, "core": 0.998}, id="completed"),
        pytest.param(budgets.started(), {"background": 1.0, "core": 0.95}, id="started"),
        pytest.param(budgets.completion_burn(per_second), COMPLETION_BURN, id="completion burn"),
        pytest.param(budgets.start_burn(per_second), START_BURN, id="start burn"),
        pytest.param(
            budgets.left(budgets.completion_burn(in_range)), _left(COMPLETION_BURN), id="completion budget"
        ),
        pytest.param(budgets.left(budgets.start_burn(in_range)), _left(START_BURN), id="start budget"),
    ],
)
def test_budgets_are_of_each_categorys_own_objectives(
    expression: str, expected: dict[str, float], tmp_path: Path
) -> None:
    target = 'job="qorzen", instance="here", priority="normal"}'
    given = {f"{series}, {target}": f"0+{step}x60" for series, step in A_MINUTE.items()}
    computed(expression, given, {f'{{category="{key}"}}': value for key, value in expected.items()}, tmp_path)


def computed(expression: str, given: dict[str, str], expected: dict[str, float], folder: Path) -> None:
    """Hold what promtool computes of an expression after an hour of `given` series equal to what is expected."""
    promtool = require("promtool", PROMETHEUS_HINT)
    unit_tests = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": series, "values": values} for series, values in given.items()],
                "promql_expr_test": [
                    {
                        "expr": f"round({substitute(expression, VALUES)}, 0.0001)",
                        "eval_time": "1h",
                        "exp_samples": [
                            {"labels": labels, "value": round(value, 4)} for labels, value in expected.items()
                        ],
                    }
                ],
            }
        ],
    }
    file = folder / "expressions.yml"
    file.write_text(json.dumps(unit_tests))  # JSON is YAML
    checked = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def _expression(uid: str, title: str) -> str:
    (found,) = (
        target.text
        for target in PROMQL
        if (target.dashboard["uid"], target.panel["title"]) == (uid, title) and target.query["refId"] == "A"
    )
    return found


def _deploys() -> str:
    (found,) = {
        annotation["target"]["expr"]
        for dashboard in DASHBOARDS
        for annotation in dashboard["annotations"]["list"]
        if annotation["name"] == "Deploys"
    }
    return str(found)


OF_A, OF_B = ('job="shop", instance="a:1"', 'job="shop", instance="b:1"')


@pytest.mark.integration
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            {
                f'target_info{{{OF_A}, service_version="4.1"}}': "1x57 _x10",
                f'target_info{{{OF_A}, service_version="4.2"}}': "_x57 1x10",
                f'target_info{{{OF_B}, service_version="4.1"}}': "1x60",
            },
            {'{job="shop", service_version="4.2"}': 1},
            id="the service's own version",
        ),
        pytest.param(
            {
                f'qorzen_build_info{{{OF_A}, version="1.0"}}': "1x57 _x10",
                f'qorzen_build_info{{{OF_A}, version="2.0"}}': "_x57 1x10",
                f'target_info{{{OF_A}, service_version="4.1", service_instance_id="x"}}': "1x57 _x10",
                f'target_info{{{OF_A}, service_version="4.1", service_instance_id="y"}}': "_x57 1x10",
            },
            {},
            id="neither a restart nor our version",
        ),
        pytest.param(
            {f'target_info{{{OF_A}, service_name="shop"}}': "_x57 1x10"}, {}, id="a service without a version"
        ),
    ],
)
def test_a_deploy_is_a_new_version_of_the_service(
    given: dict[str, str], expected: dict[str, float], tmp_path: Path
) -> None:
    computed(_deploys(), given, expected, tmp_path)


@pytest.mark.integration
def test_an_instance_without_target_info_is_listed_too(tmp_path: Path) -> None:
    given = {}
    for target in (OF_A, OF_B):
        given[f"process_start_time_seconds{{{target}}}"] = "3000x60"
        given[f'qorzen_build_info{{{target}, version="2.0", python="3.12"}}'] = "1x60"
        given[f'qorzen_service_state{{{target}, qorzen_service_state="ready"}}'] = "1x60"
    given[f'target_info{{{OF_A}, service_version="4.2"}}'] = "1x60"
    shown = 'python="3.12", qorzen_service_state="ready", version="2.0"'
    expected = {f'{{{OF_A}, service_version="4.2", {shown}}}': 600.0, f"{{{OF_B}, {shown}}}": 600.0}
    computed(_expression("qorzen-overview", "Instances"), given, expected, tmp_path)


@pytest.mark.integration
def test_an_alert_that_is_critical_is_no_warning_besides(tmp_path: Path) -> None:
    def firing(name: str, severity: str, more: str) -> str:
        return f'ALERTS{{alertname="{name}", alertstate="firing", severity="{severity}", {more}}}'

    burn, down = "QorzenStartBudgetBurn", "QorzenServiceDown"
    given = {
        firing(burn, "critical", 'job="shop", category="ui"'): "1x60",
        firing(burn, "warning", 'job="shop", category="ui"'): "1x60",
        firing(burn, "warning", 'job="shop", category="io"'): "1x60",
        firing(down, "critical", OF_A): "1x60",
        firing("Another", "critical", OF_A): "1x60",
    }
    expected = {
        f'{{alertname="{burn}", severity="critical", category="ui"}}': 1.0,
        f'{{alertname="{burn}", severity="warning", category="io"}}': 1.0,
        f'{{alertname="{down}", severity="critical", instance="a:1"}}': 1.0,
    }
    computed(_expression("qorzen-overview", "Firing alerts"), given, expected, tmp_path)


@pytest.mark.integration
def test_what_never_counted_is_not_among_the_series(tmp_path: Path) -> None:
    def spans(outcome: str) -> str:
        return f'qorzen_telemetry_spans_total{{{OF_A}, outcome="{outcome}"}}'

    given = {
        spans("exported"): "0+60x60",
        spans("export_failed"): "0+60x40 2400x20",
        spans("sampled_out"): "0x60",
    }
    expected = {'{outcome="exported"}': 1.0, '{outcome="export_failed"}': 0.0}
    computed(counted(names.SPANS, "outcome"), given, expected, tmp_path)


@pytest.mark.integration
@pytest.mark.parametrize("uid", ["qorzen-runtime", "qorzen-telemetry"])
def test_a_scrape_that_failed_is_a_hole_among_the_samples(uid: str, tmp_path: Path) -> None:
    given = {f"scrape_samples_scraped{{{OF_A}}}": "1900x59 0", f"scrape_samples_scraped{{{OF_B}}}": "1900x60"}
    computed(_expression(uid, "Samples by instance"), given, {'{instance="b:1"}': 1900.0}, tmp_path)


@pytest.mark.integration
@pytest.mark.parametrize("uid", ["qorzen-overview", "qorzen-runtime"])
def test_a_loop_is_not_blocked_for_more_than_all_of_the_time(uid: str, tmp_path: Path) -> None:
    def blocked(target: str, category: str) -> str:
        return f'qorzen_event_loop_blocked_seconds_total{{{target}, category="{category}"}}'

    # The last scrape was answered late, so it saw more than a minute.
    given = {blocked(OF_A, "core"): "0+40x59 2450", blocked(OF_A, "gc"): "0+20x59 1210"}
    given[blocked(OF_B, "core")] = "0+6x60"
    computed(_expression(uid, "Loop blocked"), given, {"{}": 1.0}, tmp_path)


def _durations(metric: MetricName, *, longest: MetricName | None, **labels: str) -> dict[str, str]:
    """An hour in which each task takes from 25 to 60 s, and none longer than 27."""
    shown = ", ".join(
        f'{name}="{value}"' for name, value in {"job": "qorzen", "instance": "here", **labels}.items()
    )
    series = {f'{metric.name}_bucket{{{shown}, le="{le}"}}': "0x60" for le in ("10.0", "25.0")}
    series |= {f'{metric.name}_bucket{{{shown}, le="{le}"}}': "0+20x60" for le in ("60.0", "+Inf")}
    if longest is not None:
        series[f'{longest.name}{{job="qorzen", instance="here", category="io", priority="low"}}'] = "27x60"
    return series


@pytest.mark.integration
@pytest.mark.parametrize(
    ("expression", "given", "expected"),
    [
        pytest.param(
            quantile(0.95, names.RUN_DURATION, "category"),
            _durations(
                names.RUN_DURATION, longest=names.RUN_MAX, category="io", priority="low", status="failed"
            ),
            {'{category="io"}': 27},
            id="by a label of the gauge",
        ),
        pytest.param(
            quantile(0.95, names.RUN_DURATION, "status"),
            _durations(
                names.RUN_DURATION, longest=names.RUN_MAX, category="io", priority="low", status="failed"
            ),
            {'{status="failed"}': 27},
            id="by another label",
        ),
        pytest.param(
            quantile(0.95, names.QUEUE_WAIT),
            _durations(names.QUEUE_WAIT, longest=names.QUEUE_WAIT_MAX, category="io", priority="low"),
            {"{}": 27},
            id="of all",
        ),
        pytest.param(
            quantile(0.95, names.DEFINITION_RUN_DURATION, "definition"),
            _durations(names.DEFINITION_RUN_DURATION, longest=names.RUN_MAX, definition="nightly"),
            {'{definition="nightly"}': 27},
            id="by definition",
        ),
        pytest.param(
            quantile(0.5, names.RUN_DURATION, "category"),
            _durations(names.RUN_DURATION, longest=None, category="io", priority="low", status="failed"),
            {'{category="io"}': 42.5},
            id="of a service that does not say what the longest was",
        ),
    ],
)
def test_no_quantile_is_above_the_longest_that_the_service_saw(
    expression: str, given: dict[str, str], expected: dict[str, float], tmp_path: Path
) -> None:
    computed(expression, given, expected, tmp_path)
