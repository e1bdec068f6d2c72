"""`qorzen-obs serve`: hosts the tasks of a program's modules."""

from __future__ import annotations

from pathlib import Path

import click

from qorzen_obs.cli.hosting import host_settings, run_to_the_end
from qorzen_obs.cli.options import WrongUse, server_options
from qorzen_obs.serve import BrokenModuleError, UnusableModuleError, load_checks, load_tasks, serve


@click.command("serve")
@click.argument("modules", nargs=-1, required=True, metavar="MODULE...")
@server_options
def serve_command(modules: tuple[str, ...], host: str | None, port: int | None, config: Path | None) -> None:
    """Host the tasks that modules define with @task.

    MODULE is a dotted name such as shop.tasks. The working directory is searched first. serve submits the tasks that
    are marked at_start=True, and submits them again after they end if restart= says so. Ctrl-C or SIGTERM stops the
    service in order; a second one stops it at once.
    """
    settings, stores = host_settings(config, host, port, {})
    try:
        registry = load_tasks(modules)
        checks = load_checks(modules)
    except UnusableModuleError as error:
        raise WrongUse(str(error)) from error
    except BrokenModuleError as error:
        raise click.ClickException(str(error)) from error
    run_to_the_end(serve(settings, registry, click.echo, checks, stores_by_default=stores))
