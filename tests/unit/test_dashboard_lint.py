"""The dashboards pass the rules of grafana/dashboard-linter, written anew here: it is a Go program.

https://github.com/grafana/dashboard-linter/tree/main/docs/rules. Two things are stricter: the rules of queries go by
the data source of each query and not by the dashboard's first, and no type of panel is passed over. One is weaker:
LogQL has no parser in Python, so brackets, quotes and the stream selector are all that is looked at.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import promql_parser as promql
import pytest

from tests.panels import GRAFANA, Tree, load, nodes, panels, parse, selectors, targets, variables


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule has to say."""

    rule: str
    dashboard: str
    place: str  #: a panel's title or a variable's name
    message: str


Said: TypeAlias = Iterator[tuple[str, str]]  # place, message
Rule: TypeAlias = Callable[[Tree], Said]

#: (rule, dashboard, place): why it is right. One that nothing needs fails the test.
EXCEPTIONS: Final = {
    (
        "template-datasource-rule",
        "qorzen-category",
        "datasource",
    ): "links between dashboards keep variables by name, so it has the name that it has on the other four",
    (
        "target-job-rule",
        "qorzen-overview",
        "Firing alerts",
    ): "rules aggregate over instances, and an alert may have neither label",
    (
        "target-counter-agg-rule",
        "qorzen-telemetry",
        "Lost tasks by instance",
    ): "it is counted once, before the first scrape, so that its rate is 0 all along",
    (
        "target-instance-rule",
        "qorzen-overview",
        "Firing alerts",
    ): "rules aggregate over instances, and an alert may have neither label",
}

#: Of https://github.com/grafana/grafana/blob/main/packages/grafana-data/src/valueFormats/categories.ts, what fits
#: metrics in base units.
UNITS: Final = {"none", "short", "percentunit", "s", "dtdurations", "bytes", "ops", "reqps", "bool", "string"}

_LABEL_QUERY: Final = re.compile(r"(label_names|label_values|metrics|query_result)\((.+)\)")
_RATES: Final = {"rate", "irate"}
_COUNTING: Final = {*_RATES, "increase"}


def template_datasource(dashboard: Tree) -> Said:
    sources = [variable for variable in variables(dashboard).values() if variable["type"] == "datasource"]
    if not sources:
        yield "", "has no variable for the data source"
    for source in sources:
        kind = source["query"]
        allowed = {f"{kind}_datasource": f"{kind.title()} data source"}
        if len(sources) == 1:
            allowed["datasource"] = "Data source"
        if allowed.get(source["name"]) != source.get("label"):
            yield source["name"], f"should be one of {allowed}"


def _template(name: str) -> Rule:
    def rule(dashboard: Tree) -> Said:
        variable = variables(dashboard).get(name)
        if variable is None:
            yield name, "is missing"
            return
        wanted = {
            "type": "query",
            "label": name.title(),
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
        }
        for key, value in wanted.items():
            if variable.get(key) != value:
                yield name, f"{key} should be {value!r}"

    return rule


def template_label_promql(dashboard: Tree) -> Said:
    for name, variable in variables(dashboard).items():
        if variable["type"] != "query":
            continue
        found = _LABEL_QUERY.fullmatch(variable["query"]["query"])
        if found is None:
            yield name, "calls no function of the data source"
        elif _unparsable(found[2].rpartition(", ")[0]):
            yield name, "is not about a selector"


def template_on_time_change_reload(dashboard: Tree) -> Said:
    for name, variable in variables(dashboard).items():
        if variable["type"] == "query" and variable["refresh"] != 2:
            yield name, "is not read anew when the time changes"


def panel_datasource(dashboard: Tree) -> Said:
    sources = {f"${{{name}}}" for name, v in variables(dashboard).items() if v["type"] == "datasource"}
    for panel in panels(dashboard):
        asked = [panel.get("datasource"), *(query.get("datasource") for query in panel.get("targets", []))]
        if any(source is None or source["uid"] not in sources for source in asked):
            yield panel["title"], "uses a data source that no variable chooses"


def panel_title_description(dashboard: Tree) -> Said:
    for panel in panels(dashboard):
        for field in ("title", "description"):
            if not panel.get(field):
                yield panel.get("title", ""), f"has no {field}"


def panel_units(dashboard: Tree) -> Said:
    for panel in panels(dashboard):
        if panel["type"] != "logs" and panel["fieldConfig"]["defaults"].get("unit") not in UNITS:
            yield panel["title"], "has no unit that Grafana knows"


def panel_no_targets(dashboard: Tree) -> Said:
    for panel in panels(dashboard):
        if not panel.get("targets"):
            yield panel["title"], "asks for nothing"


def target_logql(dashboard: Tree) -> Said:
    for target in targets(dashboard, "loki"):
        bare = re.sub(r'"(\\.|[^"\\])*"', "", target.text)
        balanced = all(bare.count(left) == bare.count(right) for left, right in ("()", "{}", "[]"))
        if '"' in bare or not balanced or not re.match(r"\{[^{}]*\w+=~?[^{}]*\}", bare):
            yield target.panel["title"], "is no LogQL"


def target_logql_auto(dashboard: Tree) -> Said:
    for target in targets(dashboard, "loki"):
        if re.search(r"\[(?!\$__auto\])", re.sub(r'"(\\.|[^"\\])*"', "", target.text)):
            yield target.panel["title"], "has a range other than $__auto"


def target_promql(dashboard: Tree) -> Said:
    for target in targets(dashboard, "prometheus"):
        if problem := _unparsable(target.text):
            yield target.panel["title"], problem


def target_rate_interval(dashboard: Tree) -> Said:
    for target, expression in _parsed(dashboard):
        for call in nodes(expression):
            if not isinstance(call, promql.Call) or call.func.name not in _RATES:
                continue
            ranges = [arg.range for arg in call.args if isinstance(arg, promql.MatrixSelector)]
            if ranges != [GRAFANA["__rate_interval"]]:
                yield target, f"{call.func.name} should be over $__rate_interval"


def _target_matcher(label: str) -> Rule:
    def rule(dashboard: Tree) -> Said:
        for target, expression in _parsed(dashboard):
            for selector in selectors(expression):
                found = [
                    (matcher.op, matcher.value)
                    for matcher in selector.matchers.matchers
                    if matcher.name == label
                ]
                if found != [(promql.MatchOp.Re, f"${label}")]:
                    yield target, f'{selector.name} should have {label}=~"${label}"'

    return rule


def target_counter_agg(dashboard: Tree) -> Said:
    for target, expression in _parsed(dashboard):
        below = nodes(expression)
        counted = {
            str(argument.vector_selector)
            for call in below
            if isinstance(call, promql.Call) and call.func.name in _COUNTING
            for argument in call.args
            if isinstance(argument, promql.MatrixSelector)
        }
        for selector in selectors(expression):
            if (selector.name or "").endswith("_total") and str(selector) not in counted:
                yield target, f"{selector.name} is a counter without rate or increase"


def uneditable(dashboard: Tree) -> Said:
    if dashboard["editable"]:
        yield "", "is editable; changes belong into the builders"


RULES: Final[dict[str, Rule]] = {
    "template-datasource-rule": template_datasource,
    "template-job-rule": _template("job"),
    "template-instance-rule": _template("instance"),
    "template-label-promql-rule": template_label_promql,
    "template-on-time-change-reload-rule": template_on_time_change_reload,
    "panel-datasource-rule": panel_datasource,
    "panel-title-description-rule": panel_title_description,
    "panel-units-rule": panel_units,
    "panel-no-targets-rule": panel_no_targets,
    "target-logql-rule": target_logql,
    "target-logql-auto-rule": target_logql_auto,
    "target-promql-rule": target_promql,
    "target-rate-interval-rule": target_rate_interval,
    "target-job-rule": _target_matcher("job"),
    "target-instance-rule": _target_matcher("instance"),
    "target-counter-agg-rule": target_counter_agg,
    "uneditable-dashboard": uneditable,
}


def lint(dashboard: Tree) -> list[Finding]:
    """Return what all rules have to say."""
    return [
        Finding(name, dashboard["uid"], place, message)
        for name, rule in RULES.items()
        for place, message in rule(dashboard)
    ]


def _unparsable(text: str) -> str:
    try:
        parse(text)
    except ValueError as problem:
        return str(problem)
    return ""


def _parsed(dashboard: Tree) -> Iterator[tuple[str, promql.Expr]]:
    for target in targets(dashboard, "prometheus"):
        if not _unparsable(target.text):  # has a rule of its own
            yield target.panel["title"], parse(target.text)


@pytest.mark.parametrize("dashboard", load(), ids=lambda dashboard: dashboard["uid"])
def test_no_rule_has_anything_to_say_without_a_reason(dashboard: Tree) -> None:
    found = [f for f in lint(dashboard) if (f.rule, f.dashboard, f.place) not in EXCEPTIONS]
    assert found == []


def test_each_exception_is_needed_and_has_its_reason() -> None:
    needed = {(f.rule, f.dashboard, f.place) for dashboard in load() for f in lint(dashboard)}
    assert set(EXCEPTIONS) <= needed
    assert all(EXCEPTIONS.values())


def _put(dashboard: Tree, path: str, value: Any) -> None:
    """Set one field of a dashboard, or remove it; its variables are found by name."""
    *steps, last = path.split(".")
    node: Any = dashboard
    for step in steps:
        if step == "variables":
            node = variables(dashboard)
        elif step == "panels":
            node = panels(dashboard)
        else:
            node = node[int(step)] if step.isdigit() else node[step]
    if value is None:
        del node[last]
    else:
        node[last] = value


_EXPR = "panels.0.targets.0.expr"
_TARGET = 'job=~"$job", instance=~"$instance"'


@pytest.mark.parametrize(
    ("rule", "path", "value"),
    [
        ("template-datasource-rule", "variables.datasource.name", "prom"),
        ("template-datasource-rule", "variables.datasource.label", "Source"),
        ("template-job-rule", "variables.job.name", "jobs"),
        ("template-job-rule", "variables.job.allValue", ".*"),
        ("template-instance-rule", "variables.instance.multi", False),
        ("template-label-promql-rule", "variables.job.query.query", "values(x, job)"),
        ("template-label-promql-rule", "variables.job.query.query", "label_values(x{, job)"),
        ("template-on-time-change-reload-rule", "variables.category.refresh", 1),
        ("panel-datasource-rule", "panels.0.datasource", {"type": "prometheus", "uid": "abc"}),
        ("panel-title-description-rule", "panels.0.description", ""),
        ("panel-units-rule", "panels.0.fieldConfig.defaults.unit", "seconds"),
        ("panel-units-rule", "panels.0.fieldConfig.defaults.unit", None),
        ("panel-no-targets-rule", "panels.0.targets", []),
        ("target-promql-rule", _EXPR, "sum("),
        ("target-rate-interval-rule", _EXPR, f"rate(x_total{{{_TARGET}}}[5m])"),
        ("target-job-rule", _EXPR, 'x{instance=~"$instance"}'),
        ("target-job-rule", _EXPR, 'x{job="$job", instance=~"$instance"}'),
        ("target-instance-rule", _EXPR, 'x{job=~"$job"} + y{job=~"$job", instance=~"$instance"}'),
        ("target-counter-agg-rule", _EXPR, f"sum(x_total{{{_TARGET}}})"),
        ("uneditable-dashboard", "editable", True),
    ],
)
def test_each_rule_catches_its_fault(rule: str, path: str, value: Any) -> None:
    (runtime,) = (dashboard for dashboard in load() if dashboard["uid"] == "qorzen-runtime")
    assert lint(runtime) == []
    broken = copy.deepcopy(runtime)
    _put(broken, path, value)
    assert rule in {finding.rule for finding in lint(broken)}


@pytest.mark.parametrize(
    ("rule", "logql"),
    [
        ("target-logql-rule", '{service_name=~".+"'),
        ("target-logql-rule", '{service_name=~".+} | json'),
        ("target-logql-rule", "| json"),
        ("target-logql-auto-rule", 'rate({service_name=~".+"}[5m])'),
    ],
)
def test_a_wrong_logql_query_is_caught(rule: str, logql: str) -> None:
    (category,) = (dashboard for dashboard in load() if dashboard["uid"] == "qorzen-category")
    (target,) = targets(category, "loki")
    target.query["expr"] = logql
    assert rule in {finding.rule for finding in lint(category)}
