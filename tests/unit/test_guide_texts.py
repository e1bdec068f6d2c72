"""What the pages of the guide name is there: settings, variables, metrics, errors, commands and other pages.

Their code is run by tests/integration/cli/test_guide.py.
"""

import asyncio
import builtins
import configparser
import io
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
import pytest
import yaml

from qorzen_obs import errors
from qorzen_obs.cli import cli
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.host import STOP_SECONDS
from qorzen_obs.options import SubmitOptions, TaskOptions
from qorzen_obs.server.routes import Access
from qorzen_obs.server.security import read_tokens
from qorzen_obs.settings import ServerSettings, Settings, check_variables, convert
from qorzen_obs.telemetry import names
from tests.services.guide import GUIDE, PAGES, Block, blocks_of

ALL_PAGES: Final = sorted(GUIDE.glob("*.md"))
#: With their defaults.
SETTINGS: Final = {
    f"{section}.{setting}": getattr(getattr(Settings(), section), setting)
    for section in Settings.__struct_fields__
    for setting in getattr(Settings(), section).__struct_fields__
}
#: What is said of the object `tasks` looks as a setting does.
METHODS: Final = {f"tasks.{name}" for name in (*dir(TaskManager), "from_thread")}
METRICS: Final = {
    f"{metric.name}{end}"
    for metric in vars(names).values()
    if isinstance(metric, names.MetricName)
    for end in ("", "_total", "_info", "_bucket", "_sum", "_count")
}
FIXTURES: Final = {"qorzen_settings", "qorzen_logs", "qorzen_events"}


def quoted_in(page: Path) -> str:
    """What a page quotes in its prose."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return "\n".join(re.findall(r"`([^`]+)`", prose))


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.stem)
def test_the_settings_and_variables_of_a_page_exist(page: Path) -> None:
    sections = "|".join(Settings.__struct_fields__)
    named = set(re.findall(rf"(?<![./\w])(?:{sections})\.[a-z_]+\b", quoted_in(page)))
    assert named - SETTINGS.keys() - METHODS == set()
    code = [block.text for block in blocks_of(page) if block.language != "python"]
    check_variables(re.findall(r"\bQORZEN_[A-Z_]+[A-Z]\b", "\n".join([quoted_in(page), *code])))


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.stem)
def test_the_metrics_of_a_page_exist(page: Path) -> None:
    named = set(re.findall(r"\bqorzen_[a-z_]+\b", quoted_in(page)))
    assert named - METRICS - FIXTURES - {"qorzen_obs"} == set()


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.stem)
def test_the_errors_of_a_page_exist(page: Path) -> None:
    named = re.findall(r"\b[A-Z][a-zA-Z]+Error\b", quoted_in(page))
    places = (errors, builtins, asyncio)
    assert [error for error in named if not any(hasattr(place, error) for place in places)] == []


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.stem)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not target.startswith(("http:", "https:")):
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), target
            assert not anchor or anchor in anchors_of(there), target


def anchors_of(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_each_setting_stands_there_with_its_default() -> None:
    text = (GUIDE / "settings.md").read_text("utf-8")
    shown = dict(re.findall(r"^\| `([a-z_.]+)` \| (.+?) \|", text, re.MULTILINE))
    assert shown == {name: as_shown(name, default) for name, default in SETTINGS.items()}


def as_shown(name: str, default: object) -> str:
    if name in SHOWN:
        return SHOWN[name]
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int):
        return str(default)
    if isinstance(default, float):
        return f"{default:g}"
    return str(default) if default else "none"


#: What is not the same on each machine, or too long.
SHOWN: Final = {
    "engines.processes": "processors",
    "engines.worker_threads": "processors + 4",
    "telemetry.run_buckets": "[metrics](../metrics.md)",
    "telemetry.wait_buckets": "[metrics](../metrics.md)",
}


def test_each_option_of_a_task_is_explained() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \|", (GUIDE / "options.md").read_text("utf-8"), re.MULTILINE)
    assert {*TaskOptions.__annotations__, *SubmitOptions.__annotations__} <= {*rows}


def test_each_error_is_explained() -> None:
    page = quoted_in(GUIDE / "errors.md")
    public = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert {name for name in public if not re.search(rf"\b{name}\b", page)} == set()


# ---------------------------------------------------------------- blocks that are not Python


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_not_python_on_a_page_can_be_used(page: Path) -> None:
    for block in blocks_of(page):
        if block.language != "python":
            CHECKS[block.language](block)


def check_toml(block: Block) -> None:
    convert(tomllib.loads(block.text), Settings)


def check_yaml(block: Block) -> None:
    assert all(yaml.safe_load_all(block.text))


def test_whoever_stops_a_service_waits_for_its_watchdog() -> None:
    needed = Settings().tasks.shutdown_grace_seconds + STOP_SECONDS
    (manifest,) = blocks_of(GUIDE / "kubernetes.md")
    pods = [
        part["spec"]["template"] for part in yaml.safe_load_all(manifest.text) if part["kind"] == "Deployment"
    ]
    assert [pod["spec"]["terminationGracePeriodSeconds"] > needed for pod in pods] == [True]
    (unit,) = [block for block in blocks_of(GUIDE / "deploying.md") if block.language == "ini"]
    assert float(read_unit(unit)["Service"]["TimeoutStopSec"]) > needed


def test_the_tokens_of_the_manifest_are_accepted(tmp_path: Path) -> None:
    (manifest,) = blocks_of(GUIDE / "kubernetes.md")
    secret = next(part for part in yaml.safe_load_all(manifest.text) if part["kind"] == "Secret")[
        "stringData"
    ]
    file = tmp_path / "tokens"
    file.write_text(secret["tokens"])
    file.chmod(0o440)
    tokens = read_tokens(ServerSettings(token_file=str(file)))
    assert tokens.scope_of(secret["read"].encode()) is Access.READ


def check_unit(block: Block) -> None:
    assert {"Unit", "Service"} <= set(read_unit(block).sections())


def read_unit(block: Block) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False)
    unit.read_file(io.StringIO(block.text))
    return unit


def check_commands(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    for line in block.text.splitlines():
        _, ours, rest = line.partition("qorzen-obs ")
        if ours:
            name, *arguments = shlex.split(re.split("[|>]", rest)[0], comments=True)
            command = cli.get_command(click.Context(cli), name)
            assert command is not None, line
            command.make_context(name, arguments)


CHECKS: Final[dict[str, Callable[[Block], None]]] = {
    "toml": check_toml,
    "yaml": check_yaml,
    "ini": check_unit,
    "sh": check_commands,
}
