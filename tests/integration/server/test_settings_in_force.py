"""GET /api/settings: what holds now, and no secret, wherever one was put."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from qorzen_obs.server.settings_in_force import describe
from qorzen_obs.settings import (
    EngineSettings,
    HealthSettings,
    ServerSettings,
    Settings,
    TaskSettings,
    TelemetrySettings,
)
from qorzen_obs.tasks import TaskCategory
from qorzen_obs.telemetry.redaction import Redactor
from tests.services.ops_plane import SaidManager, serving
from tests.services.whole_service import url_of, whole_service

CANARY = "hunter2-canary-of-secrets"
PATTERN = "sesame-[0-9]+"  #: another text, or it would hide the first
READ_ROUTES = (
    "/api/settings",
    "/api/page",
    "/api/health/history",
    "/status",
    "/health",
    "/openapi.json",
    "/metrics",
)


async def ask(url: str, token: str | None = None) -> str:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as response:
        assert response.status == 200, url
        return await response.text()


def values(sections: Any) -> dict[str, Any]:
    return {
        f"{section}.{name}": each["value"]
        for section, of_it in sections.items()
        for name, each in of_it.items()
    }


async def test_every_setting_stands_there_with_whether_it_is_the_default() -> None:
    settings = Settings(
        tasks=TaskSettings(max_pending=7, default_timeout=math.inf, category_limits={TaskCategory.IO: 3}),
        engines=EngineSettings(io_threads=5),
        server=ServerSettings(port=0, allowed_hosts=("tasks.example.org",)),
        health=HealthSettings(loop_blocked_seconds=9),
        telemetry=TelemetrySettings(keep_traces=11, redact_keys=("pin",)),
    )
    async with whole_service(settings) as service:
        sections = json.loads(await ask(f"{url_of(service)}/api/settings"))["sections"]
    assert list(sections) == list(Settings.__struct_fields__)
    assert set(values(sections)) == {
        f"{section.name}.{field.name}"
        for section in msgspec.structs.fields(Settings)
        for field in msgspec.structs.fields(section.type)
    }
    changed = {
        f"{section}.{name}": each["value"]
        for section, of_it in sections.items()
        for name, each in of_it.items()
        if not each["default"]
    }
    assert changed == {
        "tasks.max_pending": 7,
        "tasks.default_timeout": "inf",
        "tasks.category_limits": {"io": 3},
        "engines.io_threads": 5,
        "server.port": 0,
        "server.allowed_hosts": ["tasks.example.org"],
        "health.loop_blocked_seconds": 9.0,
        "telemetry.keep_traces": 11,
        "telemetry.redact_keys": ["pin"],
    }


async def test_what_was_changed_at_run_time_is_what_holds() -> None:
    async with whole_service() as service:
        await service.parts.config.set("tasks.max_concurrent_tasks", 3)
        sections = json.loads(await ask(f"{url_of(service)}/api/settings"))["sections"]
    assert sections["tasks"]["max_concurrent_tasks"] == {"value": 3, "default": False}


async def test_t7_no_secret_of_the_settings_or_of_the_environment_is_served() -> None:
    settings = Settings(
        server=ServerSettings(port=0, token=CANARY),
        telemetry=TelemetrySettings(redact_patterns=(PATTERN,)),
    )
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:{CANARY}@127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {CANARY}",
    }
    async with whole_service(settings, environment=environment) as service:
        shown = {path: await ask(url_of(service) + path, CANARY) for path in READ_ROUTES}
    assert [path for path, text in shown.items() if CANARY in text or PATTERN in text] == []
    found = values(json.loads(shown["/api/settings"])["sections"])
    assert found["server.token"] == "set"
    assert found["server.token_file"] == "unset"
    assert found["telemetry.redact_patterns"] == "set"


async def test_of_a_token_file_neither_path_nor_content_is_served(tmp_path: Path) -> None:
    file = tmp_path / "tokens-of-the-shop"
    file.touch(0o600)
    file.write_text(CANARY)
    async with serving(SaidManager(), settings=ServerSettings(port=0, token_file=str(file))) as plane:
        text = await ask(f"{plane.url}/api/settings", CANARY)
    assert CANARY not in text
    assert file.name not in text
    assert json.loads(text)["sections"]["server"]["token_file"] == {"value": "set", "default": False}


class _Later(msgspec.Struct, frozen=True):
    """A section that does not exist yet."""

    url: str = f"postgresql://qorzen:{CANARY}@db.example.org/tasks"
    db_password: str = CANARY
    hosts: tuple[str, ...] = (f"https://{CANARY}@a.example.org", "b.example.org")


def test_a_setting_that_comes_later_is_hidden_by_its_name_and_its_form() -> None:
    described = describe({"history": _Later()}, Redactor())["history"]
    assert CANARY not in str(described)
    assert described["db_password"].value == "set"
    assert described["hosts"].value[1] == "b.example.org"


@pytest.mark.parametrize("path", ["/api/settings", "/api/page"])
async def test_it_is_for_those_who_may_read(path: str) -> None:
    settings = ServerSettings(port=0, token=CANARY)
    async with (
        serving(SaidManager(), settings=settings) as plane,
        aiohttp.ClientSession() as session,
        session.get(plane.url + path) as response,
    ):
        assert response.status == 401
