"""What docker-compose.yml starts, and with which configurations: checked by each program's own tool, if it has one.

Grafana, Tempo, Loki and the collector have none that comes without them. For these a table says which keys they
know, and the rest is what every file here is held to: that what it names exists on the other side.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from dashboards import rules
from qorzen_obs.monitoring import Site
from qorzen_obs.server.routes import Access
from qorzen_obs.server.security import read_tokens
from qorzen_obs.settings import ServerSettings, load_settings
from qorzen_obs.telemetry import names
from tests.conftest import require
from tests.services.backends import PROMETHEUS_HINT

ROOT = Path(__file__).parents[2]
PROVISIONING = ROOT / "dashboards" / "provisioning"
ALERTMANAGER_HINT = "apt-get install --no-install-recommends prometheus-alertmanager"
WHEEL_HINT = "make .venv/.dev, on Linux on an x86-64 processor"

DEFAULT = {"service", "prometheus", "alertmanager", "grafana"}
FULL = {*DEFAULT, "tempo", "loki", "collector"}
ONE_SHOT = {"token", "probe"}


def tool(name: str, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program that a wheel brought into this environment."""
    program = Path(sys.executable).with_name(name)
    path = str(program) if program.exists() else require(name, WHEEL_HINT)
    return subprocess.run(
        [path, *map(str, arguments)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def compose(profiles: str = "") -> dict[str, Any]:
    """What Compose makes of the file: everything interpolated, merged and checked."""
    done = tool("docker-compose", "config", "--format", "json", COMPOSE_PROFILES=profiles)
    assert (done.returncode, done.stderr) == (0, "")
    content: dict[str, Any] = json.loads(done.stdout)
    return content


@pytest.fixture(scope="module")
def services() -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = compose("full")["services"]
    return found


def read(file: str) -> Any:
    return yaml.safe_load((PROVISIONING / file).read_text("utf-8"))


# docker-compose.yml


def test_the_default_is_the_service_prometheus_alertmanager_and_grafana() -> None:
    assert set(compose()["services"]) == DEFAULT | {"token"}
    assert set(compose("full")["services"]) == FULL | ONE_SHOT


def test_the_service_sends_traces_and_logs_only_where_there_is_a_collector() -> None:
    quiet, full = (compose(profile)["services"]["service"]["environment"] for profile in ("", "full"))
    assert quiet["OTEL_EXPORTER_OTLP_ENDPOINT"] == quiet["OTEL_LOGS_EXPORTER"] == ""
    assert urlsplit(full["OTEL_EXPORTER_OTLP_ENDPOINT"]).netloc == "collector:4318"
    assert full["OTEL_LOGS_EXPORTER"] == "otlp"


def test_the_way_to_failures_that_the_documentation_shows_is_one_that_compose_takes(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    override = tmp_path / "docker-compose.override.yml"
    override.write_text(text.partition("```yaml\n")[2].partition("```")[0])
    files = ("--file", "docker-compose.yml", "--file", override)
    done = tool("docker-compose", *files, "config", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    service = json.loads(done.stdout)["services"]["service"]
    assert service["command"][-2:] == ["--path", "/code"]
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    assert mounts["/code"]["read_only"]
    assert set(mounts) == {"/code", "/etc/qorzen/qorzen.toml", "/run/qorzen", "/var/lib/qorzen"}, (
        "the others stay"
    )


def test_every_port_is_of_this_machine_only(services: Mapping[str, Any]) -> None:
    published = {name: service.get("ports", []) for name, service in services.items()}
    assert {name for name, ports in published.items() if ports} == FULL
    assert {port["host_ip"] for ports in published.values() for port in ports} == {"127.0.0.1"}


def test_every_image_is_pinned_to_a_release(services: Mapping[str, Any]) -> None:
    images = {service["image"] for service in services.values()} - {"qorzen-obs:local"}
    assert [image for image in images if not re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+(-musl)?", image)] == []
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert len(bases) == 2, "what builds does not come along"
    assert all(re.fullmatch(r"python:3\.\d+-slim-\w+", base) for base in bases)


def test_everything_that_goes_on_running_has_a_health_check(services: Mapping[str, Any]) -> None:
    with_one = {name for name, service in services.items() if service.get("healthcheck", {}).get("test")}
    assert with_one == FULL - {"service"}, "the service's is in its image"
    assert 'CMD ["qorzen-obs", "health"]' in (ROOT / "Dockerfile").read_text("utf-8")
    assert not any("curl" in str(service.get("healthcheck")) for service in services.values())


def test_nothing_runs_with_more_rights_than_it_needs(services: Mapping[str, Any]) -> None:
    for name in FULL | ONE_SHOT:
        assert services[name]["cap_drop"] == ["ALL"], name
        assert services[name]["security_opt"] == ["no-new-privileges:true"], name
    assert services["service"]["read_only"]
    assert "\nUSER 10001:10001\n" in (ROOT / "Dockerfile").read_text("utf-8")
    for name, service in services.items():
        for mount in service.get("volumes", []):
            assert mount["type"] == "volume" or mount["read_only"], f"{name} may write to {mount['source']}"


def test_every_file_that_is_mounted_exists_and_every_volume_has_a_name(services: Mapping[str, Any]) -> None:
    mounts = [mount for service in services.values() for mount in service.get("volumes", [])]
    sources = {mount["source"] for mount in mounts if mount["type"] == "bind"}
    assert [source for source in sources if not Path(source).exists()] == []
    assert {mount["source"] for mount in mounts if mount["type"] == "volume"} == set(
        compose("full")["volumes"]
    )
    assert all(mount["source"] for mount in mounts)


def test_only_the_one_shot_may_write_the_token_and_what_it_writes_the_service_accepts(
    services: Mapping[str, Any], tmp_path: Path
) -> None:
    writers = {
        name: mount.get("read_only", False)
        for name, service in services.items()
        for mount in service.get("volumes", [])
        if mount["source"] == "token"
    }
    assert writers == {"token": False, "service": True, "prometheus": True}
    for reader in ("service", "prometheus"):
        assert services[reader]["depends_on"]["token"]["condition"] == "service_completed_successfully"

    (script,) = services["token"]["command"]
    command = [sys.executable, "-c", script.replace("/run/qorzen", str(tmp_path))]
    subprocess.run(command, check=True)
    token = tmp_path / "token"
    first = token.read_text()
    subprocess.run(command, check=True)
    assert token.read_text() == first, "a restart does not change it"
    assert stat.S_IMODE(token.stat().st_mode) == 0o640
    tokens = read_tokens(ServerSettings(token_file=str(token)))
    assert tokens.scope_of(first.strip().encode()) is Access.CONTROL
    assert services["prometheus"]["group_add"] == ["10001"], "its group may read it"


def test_the_collector_s_probe_is_replaced_while_it_runs(services: Mapping[str, Any], tmp_path: Path) -> None:
    program = require("sleep", "any system has it")
    command = [
        word.replace("/bin/busybox", program).replace("/probe", str(tmp_path))
        for word in services["probe"]["command"]
    ]
    subprocess.run(command, check=True)
    with subprocess.Popen([tmp_path / "wget", "60"]) as busy:
        try:
            subprocess.run(command, check=True)
        finally:
            busy.kill()


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    done = tool("hadolint", "--failure-threshold=style", "Dockerfile")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_image_is_made_of_what_the_build_may_see() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for word in line.split()[:-1]
    }
    seen = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    assert copied == seen
    assert all((ROOT / name).exists() for name in seen)


# Prometheus and Alertmanager


def container_files(service: Mapping[str, Any], folder: Path, below: str) -> Path:
    """Lay out what a container has below a folder of its own."""
    for mount in service["volumes"]:
        if mount["type"] == "bind" and mount["target"].startswith(below):
            copy = folder / mount["target"].removeprefix(below).lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copier = shutil.copytree if Path(mount["source"]).is_dir() else shutil.copy
            copier(mount["source"], copy)
    return folder


def test_promtool_accepts_prometheus_configuration_as_its_container_has_it(
    services: Mapping[str, Any], tmp_path: Path
) -> None:
    promtool = require("promtool", PROMETHEUS_HINT)
    folder = container_files(services["prometheus"], tmp_path, "/etc/prometheus")
    (folder / "token").mkdir()
    (folder / "token" / "token").write_text("a-token-of-many-characters\n")
    command: list[str | Path] = [
        promtool,
        "check",
        "config",
        "--lint=all",
        "--lint-fatal",
        folder / "prometheus.yml",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rule files found" in done.stdout


def test_prometheus_keeps_exemplars_and_enough_for_the_longest_window(services: Mapping[str, Any]) -> None:
    command = services["prometheus"]["command"]
    assert "--enable-feature=exemplar-storage" in command
    assert "--storage.tsdb.retention.time=7d" in command
    assert max(window.long for window in rules.WINDOWS if window.long.endswith("d")) == "3d"


def test_prometheus_scrapes_the_job_of_the_rules_by_a_name_that_the_service_goes_by() -> None:
    (job,) = read("prometheus/prometheus.yml")["scrape_configs"]
    assert job["job_name"] == Site().job
    (targets,) = read("prometheus/targets/qorzen.yml")
    (target,) = targets["targets"]
    host, _, port = target.partition(":")
    settings = load_settings(PROVISIONING / "service" / "qorzen.toml")
    assert settings.server.allowed_hosts == (host,)
    assert int(port) == settings.server.port


def test_amtool_accepts_alertmanager_s_configuration() -> None:
    amtool = require("amtool", ALERTMANAGER_HINT)
    command: list[str | Path] = [amtool, "check-config", PROVISIONING / "alertmanager" / "alertmanager.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "8 inhibit rules" in done.stdout


# Grafana


def test_the_data_sources_have_fixed_uids_and_lead_to_each_other() -> None:
    sources = {source["uid"]: source for source in read("grafana/datasources/qorzen.yml")["datasources"]}
    assert {uid: source["type"] for uid, source in sources.items()} == {
        uid: uid for uid in ("prometheus", "alertmanager", "tempo", "loki")
    }
    assert [uid for uid, source in sources.items() if source.get("isDefault")] == ["prometheus"]
    data = {uid: source["jsonData"] for uid, source in sources.items()}
    assert data["prometheus"]["exemplarTraceIdDestinations"][0]["datasourceUid"] == "tempo"
    assert data["prometheus"]["exemplarTraceIdDestinations"][0]["name"] == "trace_id"
    assert data["tempo"]["tracesToLogsV2"]["datasourceUid"] == "loki"
    assert data["tempo"]["tracesToMetrics"]["datasourceUid"] == "prometheus"
    assert data["loki"]["derivedFields"][0]["datasourceUid"] == "tempo"


def test_what_grafana_s_files_take_from_the_environment_is_set(services: Mapping[str, Any]) -> None:
    wanted = {
        name
        for file in sorted((PROVISIONING / "grafana").rglob("*.yml"))
        for name in re.findall(r"(?<!\$)\$(QORZEN_\w+)", file.read_text("utf-8"))
    }
    environment = services["grafana"]["environment"]
    assert wanted == {name for name in environment if name.startswith("QORZEN_")}
    dashboards = environment["QORZEN_DASHBOARDS"]
    assert dashboards in {mount["target"] for mount in services["grafana"]["volumes"]}


def test_from_a_trace_to_metrics_leads_by_declared_names(tmp_path: Path) -> None:
    (tempo,) = [s for s in read("grafana/datasources/qorzen.yml")["datasources"] if s["uid"] == "tempo"]
    link = tempo["jsonData"]["tracesToMetrics"]
    assert {tag["key"] for tag in link["tags"]} == {names.TASK_CATEGORY, names.TASK_PRIORITY}
    assert {tag["value"] for tag in link["tags"]} == {"category", "priority"}
    declared = {metric.name for metric in vars(names).values() if isinstance(metric, names.MetricName)}
    queries = [query["query"].replace("$$__tags", 'category="io"') for query in link["queries"]]
    for query in queries:
        for used in re.findall(r"qorzen_\w+", query):
            assert re.sub(r"_(bucket|total)$", "", used) in declared
    file = tmp_path / "queries.yml"
    recorded = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    command: list[str | Path] = [require("promtool", PROMETHEUS_HINT), "check", "rules", file]
    subprocess.run(command, capture_output=True, check=True)


def test_every_dashboard_that_an_alert_links_to_is_provisioned() -> None:
    provisioned = {
        json.loads(file.read_text("utf-8"))["uid"] for file in (ROOT / "dashboards").glob("*.json")
    }
    assert {alert.dashboard for alert in rules.alerts(Site())} <= provisioned


# Tempo, Loki and the collector

OTLP_HTTP = {"protocols": {"grpc": {"endpoint": str}, "http": {"endpoint": str}}}
#: The keys that each program knows, of those that are used here; from its documentation, as no tool says it.
KNOWN_KEYS: Mapping[str, Any] = {
    "tempo/tempo.yml": {
        "server": {"http_listen_address": str, "http_listen_port": int},
        "distributor": {"receivers": {"otlp": OTLP_HTTP}},
        "storage": {"trace": {"backend": str, "wal": {"path": str}, "local": {"path": str}}},
        "usage_report": {"reporting_enabled": bool},
    },
    "loki/loki.yml": {
        "auth_enabled": bool,
        "server": {
            "http_listen_address": str,
            "http_listen_port": int,
            "grpc_listen_address": str,
            "grpc_listen_port": int,
        },
        "common": {
            "instance_addr": str,
            "path_prefix": str,
            "replication_factor": int,
            "ring": {"kvstore": {"store": str}},
            "storage": {"filesystem": {"chunks_directory": str, "rules_directory": str}},
        },
        "schema_config": {"configs": list},
        "limits_config": {"allow_structured_metadata": bool, "retention_period": str},
        "compactor": {"working_directory": str, "retention_enabled": bool, "delete_request_store": str},
        "analytics": {"reporting_enabled": bool},
    },
    "collector/collector.yml": {
        "receivers": {"otlp": OTLP_HTTP},
        "processors": {
            "memory_limiter": {"check_interval": str, "limit_mib": int, "spike_limit_mib": int},
            "batch": {},
        },
        "exporters": {"otlp_http/tempo": {"endpoint": str}, "otlp_http/loki": {"endpoint": str}},
        "extensions": {"health_check": {"endpoint": str}},
        "service": {
            "extensions": list,
            "telemetry": {"metrics": {"level": str}},
            "pipelines": {
                signal: {"receivers": list, "processors": list, "exporters": list}
                for signal in ("traces", "logs")
            },
        },
    },
}


def problems(content: Any, known: Any, where: str) -> Iterator[str]:
    """What a file says that the table does not know, a line each."""
    if isinstance(known, dict):
        if not isinstance(content, dict):
            yield f"{where} is no mapping"
            return
        for key, value in content.items():
            if key in known:
                yield from problems(value, known[key], f"{where}.{key}")
            else:
                yield f"{where}.{key} is unknown"
    elif not isinstance(content, known):
        yield f"{where} is no {known.__name__}"


@pytest.mark.parametrize("file", KNOWN_KEYS)
def test_a_configuration_has_no_key_that_its_program_does_not_know(file: str) -> None:
    assert list(problems(read(file), KNOWN_KEYS[file], file)) == []


def test_the_table_of_keys_catches_a_slip() -> None:
    content = {"server": {"http_listen_prot": 1, "http_listen_port": "3200"}, "storage": []}
    assert list(problems(content, KNOWN_KEYS["tempo/tempo.yml"], "t")) == [
        "t.server.http_listen_prot is unknown",
        "t.server.http_listen_port is no int",
        "t.storage is no mapping",
    ]


@pytest.mark.parametrize("file", KNOWN_KEYS)
def test_without_containers_a_program_listens_on_this_machine_only(file: str) -> None:
    text = (PROVISIONING / file).read_text("utf-8")
    assert "0.0.0.0" not in text
    defaults = dict(re.findall(r"\$\{(?:env:)?(\w+):-([^}]+)\}", text))
    assert defaults["QORZEN_LISTEN"] == "127.0.0.1"
    assert len(re.findall(r"\$\{", text)) == len(re.findall(r"\$\{(?:env:)?\w+:-", text)), (
        "all have a default"
    )


def test_each_signal_goes_through_parts_of_the_collector_that_are_there() -> None:
    content = read("collector/collector.yml")
    for signal, pipeline in content["service"]["pipelines"].items():
        for kind, used in pipeline.items():
            assert set(used) <= set(content[kind]), f"{signal}: {kind}"
        assert pipeline["processors"][0] == "memory_limiter", signal
    assert set(content["service"]["extensions"]) == set(content["extensions"])
    used = {part for p in content["service"]["pipelines"].values() for parts in p.values() for part in parts}
    assert used == {part for kind in ("receivers", "processors", "exporters") for part in content[kind]}


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2].partition("/")[0])


def test_every_address_leads_to_a_service_that_listens_there(services: Mapping[str, Any]) -> None:
    collector, tempo, loki = (read(f"{name}/{name}.yml") for name in ("collector", "tempo", "loki"))
    listening = {
        ("service", 8080),
        ("prometheus", 9090),
        ("alertmanager", 9093),
        ("tempo", tempo["server"]["http_listen_port"]),
        ("tempo", port_of(tempo["distributor"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"])),
        ("loki", loki["server"]["http_listen_port"]),
        ("collector", port_of(collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"])),
    }
    called = {
        (url.hostname, url.port)
        for service in services.values()
        for name, value in (service.get("environment") or {}).items()
        if value and name.endswith(("_URL", "_ENDPOINT")) and (url := urlsplit(value)).hostname != "localhost"
    }
    for file in ("qorzen", "alertmanager"):
        (targets,) = read(f"prometheus/targets/{file}.yml")
        called |= {(host, int(port)) for host, port in (target.split(":") for target in targets["targets"])}
    assert called - listening == set()
    assert called == listening, "somebody calls each"


def test_on_one_machine_no_two_programs_want_the_same_port() -> None:
    collector, tempo, loki = (read(f"{name}/{name}.yml") for name in ("collector", "tempo", "loki"))
    ports = [
        *(port_of(protocol["endpoint"]) for protocol in collector["receivers"]["otlp"]["protocols"].values()),
        port_of(collector["extensions"]["health_check"]["endpoint"]),
        port_of(tempo["distributor"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"]),
        tempo["server"]["http_listen_port"],
        loki["server"]["http_listen_port"],
        loki["server"]["grpc_listen_port"],
        8080,
        9090,
        9093,
        3000,
        9095,  # Tempo's gRPC, where nothing else is said
    ]
    assert len(ports) == len(set(ports))
