"""What Prometheus stores is what happened."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import require
from tests.services.backends import (
    PROMETHEUS_HINT,
    collector,
    demo_after_one_round,
    eventually,
    get_json,
    prometheus,
    query,
)
from tests.services.otlp_receiver import OtlpReceiver
from tests.services.program import Running, write_files
from tests.support import PATIENCE_SECONDS

pytestmark = pytest.mark.integration


def test_a_real_prometheus_agrees_with_the_summary_and_the_status(tree: Path, tmp_path: Path) -> None:
    with (
        demo_after_one_round(tree) as (url, summary),
        prometheus(url.removeprefix("http://"), tmp_path) as server,
    ):
        finished = summary["tasks"]["completed"] + summary["tasks"]["failed"] + summary["tasks"]["cancelled"]
        assert finished > 20
        scraped = eventually(lambda: query(server, "sum(qorzen_tasks_finished_total)"))
        assert scraped == finished
        for status in ("completed", "failed"):
            expression = f'sum(qorzen_tasks_finished_total{{status="{status}"}})'
            assert query(server, expression) == summary["tasks"][status]
        assert (
            query(server, "sum(qorzen_tasks_submitted_total)") == get_json(f"{url}/status")["tasks"]["total"]
        )
        assert query(server, "sum(qorzen_task_run_duration_seconds_count)") == finished


def test_exemplars_in_prometheus_lead_to_traces_of_the_service_and_of_the_collector(
    tree: Path, tmp_path: Path
) -> None:
    with (
        OtlpReceiver() as receiver,
        collector(receiver.endpoint) as endpoint,
        demo_after_one_round(tree, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}) as (url, _),
        prometheus(url.removeprefix("http://"), tmp_path) as server,
    ):
        for metric in (
            "qorzen_task_run_duration_seconds_bucket",
            "qorzen_task_queue_wait_seconds_bucket",
            "qorzen_tasks_finished_total",
        ):
            api = f"{server}/api/v1/query_exemplars?query={metric}&start=0&end=9999999999"
            series = eventually(lambda api=api: get_json(api)["data"])  # type: ignore[misc]  # no type for a default
            for labels in (exemplar["labels"] for one in series for exemplar in one["exemplars"]):
                spans = get_json(f"{url}/api/traces/{labels['trace_id']}")["resourceSpans"][0]["scopeSpans"]
                ids = {span["spanId"]: span["name"] for scope in spans for span in scope["spans"]}
                assert ids[labels["span_id"]].startswith("run ")
                eventually(
                    lambda labels=labels: any(  # type: ignore[misc]  # as above
                        (span.trace_id.hex(), span.span_id.hex()) == (labels["trace_id"], labels["span_id"])
                        for span in receiver.spans
                    )
                )


BROKEN = """
from qorzen_obs import task

class BrokenError(Exception): ...

@task(name="broken")
async def broken() -> None:
    raise BrokenError
"""


def test_prometheus_sees_an_increase_in_the_first_failures_of_a_type(tmp_path: Path) -> None:
    write_files(tmp_path, {"broken.py": BROKEN})
    variables = {"QORZEN_SERVER__ALLOW_SUBMIT": "true"}
    with Running("serve", "broken", cwd=tmp_path, variables=variables) as service:
        url = service.line("serves").rpartition(" ")[2].rstrip("/")
        with prometheus(url.removeprefix("http://"), tmp_path) as server:
            eventually(lambda: query(server, "sum(qorzen_tasks_finished_total)") is not None)
            for _ in range(3):
                submit = urllib.request.Request(
                    f"{url}/api/tasks", b'{"task": "broken"}', {"Content-Type": "application/json"}
                )
                urllib.request.urlopen(submit, timeout=PATIENCE_SECONDS).close()
            errors = 'qorzen_task_errors_total{error_type="broken.BrokenError"}'
            eventually(lambda: query(server, errors) == 3)
            assert query(server, f"resets({errors}[1m])") == 0
            assert query(server, f"last_over_time({errors}[1m]) - min_over_time({errors}[1m])") == 3
            increase = query(server, f"increase({errors}[1m])")
            assert increase is not None
            assert increase >= 3


def test_promtool_has_nothing_to_say_about_the_metrics(tree: Path) -> None:
    promtool = require("promtool", PROMETHEUS_HINT)
    with demo_after_one_round(tree) as (url, _):
        text = urllib.request.urlopen(f"{url}/metrics", timeout=PATIENCE_SECONDS).read()
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
