"""The command `qorzen-obs`. Exit status: 0 done, 1 it failed, 2 wrong use."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from qorzen_obs.client import DEFAULT_URL, Client, ClientError
from qorzen_obs.demo.rounds import Workload, run_demo, standard_library
from qorzen_obs.errors import ManagerInitializationError, SettingsError
from qorzen_obs.serve import BrokenModuleError, UnusableModuleError, load_checks, load_tasks, serve
from qorzen_obs.settings import Settings, load_settings

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class WrongUse(click.ClickException):
    """What was asked for makes no sense. Click's own class is for what failed, with status 1."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="qorzen-obs", prog_name="qorzen-obs")
def cli() -> None:
    """Run asyncio task managers in which nothing runs unobserved.

    Settings come from the defaults, then a TOML file (--config), then QORZEN_* variables such as
    QORZEN_TASKS__MAX_CONCURRENT_TASKS=50, then options. Exit status: 0 done, 1 it failed, 2 wrong use.
    """


def server_options(command: F) -> F:
    """Add the options of a command that serves."""
    for option in (
        click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings in TOML."),
        click.option("--port", type=int, help="Where to listen; 0 takes any free port.  [default: 8080]"),
        click.option("--host", help="Which address to listen on.  [default: 127.0.0.1]"),
    ):
        command = option(command)
    return command


@cli.command("demo")
@click.option(
    "--path",
    metavar="DIR",
    help="Survey this folder.  [default: the standard library, without installed packages]",
)
@click.option("--once", is_flag=True, help="End after one round, with a summary.")
@click.option("--json", "as_json", is_flag=True, help="Write each round's summary as a line of JSON.")
@click.option(
    "--pause", type=float, default=5.0, metavar="SECONDS", show_default=True, help="Rest between rounds."
)
@server_options
def demo_command(
    path: str | None,
    once: bool,
    as_json: bool,
    pause: float,
    host: str | None,
    port: int | None,
    config: Path | None,
) -> None:
    """Survey Python files: a workload to watch.

    Every file is read, hashed and parsed: thousands of tasks of several categories and priorities, again and again.
    Files that cannot be parsed fail. All of it is served: a live page, /metrics, /status, /health, traces. Ctrl-C
    stops in order, a second one at once.

    With --once the summary holds the counts of /status and of /metrics, and exit status 1 says that they disagree.
    """
    if not pause >= 0:
        raise WrongUse(f"--pause {pause:g}: give 0 or more seconds")
    workload = _workload(path)
    # Submitting waits where the queue is full: a survey has no use for a refusal.
    settings = _settings(config, host, port, {"QORZEN_TASKS__WHEN_FULL": "wait"})
    went_well = _run(run_demo(settings, workload, once=once, as_json=as_json, pause_seconds=pause))
    raise SystemExit(0 if went_well else 1)


@cli.command("serve")
@click.argument("modules", nargs=-1, required=True, metavar="MODULE...")
@server_options
def serve_command(modules: tuple[str, ...], host: str | None, port: int | None, config: Path | None) -> None:
    """Host the tasks that modules define with @task.

    MODULE is a dotted name such as shop.tasks, looked for in the working directory first. Tasks marked at_start=True
    are submitted once. Ctrl-C or SIGTERM stops in order, a second one at once.
    """
    settings = _settings(config, host, port, {})
    try:
        registry = load_tasks(modules)
        checks = load_checks(modules)
    except UnusableModuleError as error:
        raise WrongUse(str(error)) from error
    except BrokenModuleError as error:
        raise click.ClickException(str(error)) from error
    _run(serve(settings, registry, click.echo, checks))


def client_options(command: F) -> F:
    """Add the options of a command that asks a running service."""
    for option in (
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            envvar="QORZEN_SERVER__TOKEN_FILE",
            help="A file whose first line is the service's token.  [default: QORZEN_SERVER__TOKEN_FILE, else the "
            "token itself is taken from QORZEN_SERVER__TOKEN, where they are set]",
        ),
        click.option("--url", default=DEFAULT_URL, show_default=True, help="Where the service answers."),
    ):
        command = option(command)
    return command


@cli.command("cancel")
@click.argument("task_id", metavar="ID")
@client_options
def cancel_command(task_id: str, url: str, token_file: Path | None) -> None:
    """Cancel a pending task of a running service, or ask a running task to stop.

    Exit status 1 says that it had ended, may not be cancelled, or is unknown to the service.
    """
    client = Client(url, _token(token_file))
    try:
        click.echo(client.cancel(task_id))
    except ClientError as error:
        raise click.ClickException(str(error)) from error


@cli.command("health")
@click.option("--json", "as_json", is_flag=True, help="Write what the service says, as JSON.")
@client_options
def health_command(url: str, token_file: Path | None, as_json: bool) -> None:
    """Say whether a running service is well, and what is wrong with it.

    Made for containers and scripts: exit status 0 says that it works, also where it warns; 1 that it fails or does not
    answer.
    """
    client = Client(url, _token(token_file))
    try:
        health = client.health()
    except ClientError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(health, indent=2) if as_json else "\n".join(_describe_health(health)))
    raise SystemExit(1 if health["status"] == "fail" else 0)


def _describe_health(health: Mapping[str, Any]) -> Iterator[str]:
    yield str(health["status"])
    for name, findings in health.get("checks", {}).items():
        for finding in findings:
            if finding["status"] != "pass":
                yield f"  {finding['status']}  {name}: {finding.get('output', 'no reason given')}"


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("QORZEN_SERVER__TOKEN")
    try:
        return file.read_text(encoding="utf-8").partition("\n")[0].strip()
    except OSError as error:
        raise WrongUse(f"--token-file {str(file)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise WrongUse(f"--token-file {str(file)!r} is no text") from error


def main() -> NoReturn:
    """Run the command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not fit a terminal's encoding
    cli(prog_name="qorzen-obs")
    raise AssertionError("click exits")


def _workload(path: str | None) -> Workload:
    workload = standard_library() if path is None else Workload(Path(path))
    shown = click.format_filename(path) if path is not None else str(workload.folder)
    problem = None
    if path == "" or not workload.folder.exists():
        problem = "does not exist"
    elif not workload.folder.is_dir():
        problem = "is not a directory"
    else:
        try:
            if workload.is_empty():
                problem = "holds no Python files"
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
    if problem:
        raise WrongUse(f"--path {shown!r} {problem}; give a directory with Python files")
    return workload


def _settings(config: Path | None, host: str | None, port: int | None, overrides: dict[str, str]) -> Settings:
    if host is not None:
        overrides["QORZEN_SERVER__HOST"] = host
    if port is not None:
        overrides["QORZEN_SERVER__PORT"] = str(port)
    try:
        return load_settings(config, {**os.environ, **overrides})
    except SettingsError as error:
        raise WrongUse(str(error)) from error


def _run(main: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(main)
    except SettingsError as error:
        raise WrongUse(str(error)) from error
    except ManagerInitializationError as error:
        raise click.ClickException(str(error)) from error
