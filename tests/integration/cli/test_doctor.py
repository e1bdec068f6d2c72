"""`qorzen-obs doctor`: what is set, reachable, exported and missing, on one screen."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from qorzen_obs.cli import cli
from qorzen_obs.settings import ServerSettings, Settings, TaskSettings
from tests.services.backends import free_port
from tests.services.ops_plane import TOKEN, SaidManager, managing, serving
from tests.services.otlp_receiver import OtlpReceiver
from tests.services.whole_service import whole_service
from tests.support import until

pytestmark = pytest.mark.usefixtures("plain_terminal")
SCREEN_LINES = 24


@pytest.fixture
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which nothing is set that a service would go by."""
    for name in ("QORZEN_URL", "QORZEN_SERVER__TOKEN", "QORZEN_SERVER__TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


async def examine(url: str, *arguments: str, **variables: str) -> Result:
    runner = CliRunner(env=variables)
    return await asyncio.to_thread(runner.invoke, cli, ["doctor", "--url", url, *arguments])


async def findings(url: str, *arguments: str, **variables: str) -> list[tuple[str, str, str]]:
    done = await examine(url, *arguments, "--json", **variables)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert done.exit_code == any(one["mark"] == "fail" for one in found)
    return [(one["section"], one["mark"], one["text"]) for one in found]


def of(found: list[tuple[str, str, str]], section: str) -> list[tuple[str, str]]:
    return [(mark, text) for name, mark, text in found if name == section]


async def test_of_a_service_that_works_one_screen_says_how_it_is() -> None:
    settings = Settings(
        server=ServerSettings(port=0, grafana_url="http://grafana.example"),
        tasks=TaskSettings(max_concurrent_tasks=7),
    )
    async with whole_service(settings) as service:
        assert service.ops is not None
        done = await examine(service.ops.url)
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert len(lines) < SCREEN_LINES
    assert lines[0].startswith(f"service ok {service.ops.url} is ready; qorzen_obs ")
    assert "set ok tasks.max_concurrent_tasks = 7" in lines
    assert "ok server.grafana_url = http://grafana.example" in lines
    assert "reachable ok /readyz: ok" in lines
    assert any(line.startswith("ok /metrics, for Prometheus: ") for line in lines)
    assert "missing - spans stay in memory; OTEL_EXPORTER_OTLP_ENDPOINT sends them" in lines
    assert "- metrics are scraped; OTEL_METRICS_EXPORTER=otlp sends them too" in lines
    assert not [line for line in done.stdout.splitlines() if line != line.rstrip()]


async def test_what_is_exported_is_said_with_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with OtlpReceiver() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_SERVICE_NAM": "shop",
            "OTEL_BLRP_SCHEDULE_DELAY": "50",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)  # exporters read the process's own
        async with whole_service(environment=environment) as service:
            assert service.ops is not None
            await service.tasks.run(asyncio.sleep, 0)
            await until(lambda: service.tasks.status()["telemetry"]["log_export"]["exported"])
            found = await findings(service.ops.url)
    exported = of(found, "exported")
    assert exported[0][1].startswith("spans by otlp_proto_http: ")
    assert re.fullmatch(r"log lines: [1-9]\d* sent, 0 lost, the last .* ago", exported[1][1])
    (variable,) = (text for mark, text in exported if mark == "warn")
    assert variable.startswith("the service's OTEL_SERVICE_NAM is not known here")
    assert "log lines" not in " ".join(text for _, text in of(found, "missing"))


async def test_a_collector_is_tried_from_here_and_shown_without_its_password() -> None:
    silent = f"http://me:hunter2canary@127.0.0.1:{free_port()}"
    async with serving(SaidManager()) as plane:
        with OtlpReceiver() as collector:
            good = await findings(plane.url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        bad = await findings(plane.url, OTEL_EXPORTER_OTLP_ENDPOINT=silent)
    address = collector.endpoint.removeprefix("http://")
    assert ("ok", f"collector {address} from here: takes connections") in of(good, "reachable")
    assert [text for mark, text in of(bad, "reachable") if mark == "fail"] == [
        f"collector {silent.partition('@')[2]} from here: Connection refused"
    ]
    assert "hunter2canary" not in str(bad)


async def test_without_a_service_it_says_what_can_be_said(tmp_path: Path) -> None:
    typo = tmp_path / "typo.toml"
    typo.write_text("[tasks]\nmax_pendng = 1\n")
    url = f"http://127.0.0.1:{free_port()}"
    found = await findings(url, "--config", str(typo), OTEL_BSP_MAX_QUEUE_SIZE="many")
    ((mark, text),) = of(found, "service")
    assert mark == "fail"
    assert text.startswith(f"{url} does not answer")
    settings = of(found, "set")
    (refused,) = (text for mark, text in settings if mark == "fail")
    assert refused.startswith(
        "no service starts with the settings here: setting 'tasks.max_pendng': unknown setting"
    )
    assert [text for mark, text in settings if mark == "warn"] == [
        "OTEL_BSP_MAX_QUEUE_SIZE 'many' is not a whole number of at least 1: the default holds"
    ]
    assert of(found, "reachable") == of(found, "exported") == []


async def test_a_misspelt_variable_is_a_finding_and_the_rest_is_said_too() -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        found = await findings(plane.url, QORZEN_TASKS__MAX_PENDNG="1")
    (refused,) = (text for mark, text in of(found, "set") if mark == "fail")
    assert "max_pendng" in refused.lower()
    assert of(found, "service")[0][0] == "ok"


async def test_good_settings_are_said_to_be_good_and_names_of_variables_come_without_values(
    tmp_path: Path,
) -> None:
    good = tmp_path / "good.toml"
    good.write_text("[tasks]\nmax_pending = 1\n")
    async with serving(SaidManager()) as plane:
        found = of(await findings(plane.url, "--config", str(good), QORZEN_SERVER__TOKEN="t" * 20), "set")
    assert ("ok", f"{good} holds settings that a service can start with") in found
    assert ("ok", "in this terminal: QORZEN_SERVER__TOKEN") in found


async def test_a_service_that_wants_its_token_is_told() -> None:
    settings = ServerSettings(port=0, token=TOKEN)
    async with managing() as (manager, _), serving(manager, settings=settings) as plane:
        refused = await findings(plane.url)
        asked = await findings(plane.url, QORZEN_SERVER__TOKEN=TOKEN)
    ((mark, text),) = of(refused, "service")
    assert (mark, text) == ("fail", "the service wants its token: --token-file, or QORZEN_SERVER__TOKEN")
    assert ("ok", "/readyz: ok") in of(refused, "reachable"), "probes are open"
    assert [mark for mark, text in of(refused, "reachable") if text.startswith("/metrics")] == ["fail"]
    assert of(asked, "service")[0][0] == "ok"
