"""`dashboards`, `rules` and `runbooks`: write what a service is watched with. They ask no service."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from qorzen_obs import monitoring
from qorzen_obs.cli.options import WrongUse
from qorzen_obs.cli.texts import printable
from qorzen_obs.monitoring import Site

_HERE: Final = Site()


@click.command("dashboards")
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    required=True,
    help="Where to write them; the directory is made where it is missing.",
)
def dashboards_command(folder: Path) -> None:
    """Write the Grafana dashboards as JSON files, over those of another version.

    Import them in Grafana 12 or newer, or let a file provider of Grafana read DIR.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in monitoring.dashboards().items():
            (folder / name).write_text(text, encoding="utf-8")
            click.echo(printable(str(folder / name)))
    except OSError as error:
        raise click.ClickException(printable(f"--out {str(folder)!r}: {error}")) from error


@click.command("rules")
@click.option(
    "--job", default=_HERE.job, show_default=True, help="The job_name in Prometheus' configuration."
)
@click.option("--grafana", metavar="URL", default=_HERE.grafana, show_default=True, help="Grafana's address.")
@click.option(
    "--runbooks",
    metavar="URL",
    default=_HERE.runbooks,
    show_default=True,
    help="Where people find the runbooks: /runbooks of a service, or where you have published them.",
)
def rules_command(job: str, grafana: str, runbooks: str) -> None:
    """Write the recording and alert rules for Prometheus to standard output.

    \b
    qorzen-obs rules --job shop --runbooks https://shop.example.org/ops/runbooks > qorzen.yml
    """
    try:
        site = Site(job, grafana, runbooks)
    except ValueError as error:
        raise WrongUse(printable(str(error))) from error
    click.echo(monitoring.rules(site), nl=False)


@click.command("runbooks")
def runbooks_command() -> None:
    """Write the runbooks to standard output, as an HTML page that can be published anywhere.

    A service has them at /runbooks. Where it is down, a copy elsewhere still opens.
    """
    click.echo(monitoring.runbooks(), nl=False)
