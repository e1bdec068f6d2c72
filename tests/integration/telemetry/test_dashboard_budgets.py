"""The error budgets that the dashboards show are the right numbers, by Prometheus' own reckoning."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

import pytest

from dashboards import budgets
from dashboards.objectives import OBJECTIVES
from dashboards.promql import in_range, per_second
from tests.conftest import require
from tests.panels import substitute
from tests.services.backends import PROMETHEUS_HINT

pytestmark = pytest.mark.integration

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
#: What is counted a minute: of core 2 in 1,000 fail and 50 start late, of background 10 % fail and none starts late.
#: Cancelled tasks count for neither side, and a category where nothing ends has no budget to show.
A_MINUTE: Final = {
    'qorzen_tasks_finished_total{category="core", status="completed"': 998,
    'qorzen_tasks_finished_total{category="core", status="failed"': 2,
    'qorzen_tasks_finished_total{category="core", status="cancelled"': 500,
    'qorzen_tasks_finished_total{category="background", status="completed"': 90,
    'qorzen_tasks_finished_total{category="background", status="failed"': 10,
    'qorzen_tasks_finished_total{category="io", status="completed"': 0,
    'qorzen_tasks_finished_total{category="io", status="failed"': 0,
    f'qorzen_task_queue_wait_seconds_bucket{{category="core", le="{CORE.wait_seconds:.1f}"': 950,
    'qorzen_task_queue_wait_seconds_bucket{category="core", le="+Inf"': 1000,
    'qorzen_task_queue_wait_seconds_count{category="core"': 1000,
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
    promtool = require("promtool", PROMETHEUS_HINT)
    target = 'job="qorzen", instance="here", priority="normal"}'
    unit_tests = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f"{series}, {target}", "values": f"0+{step}x60"}
                    for series, step in A_MINUTE.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": f"round({substitute(expression, VALUES)}, 0.0001)",
                        "eval_time": "1h",
                        "exp_samples": [
                            {"labels": f'{{category="{category}"}}', "value": round(value, 4)}
                            for category, value in expected.items()
                        ],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "budgets.yml"
    file.write_text(json.dumps(unit_tests))  # JSON is YAML
    checked = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
