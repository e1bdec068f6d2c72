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
    help="Directory to write them to; created if it is missing.",
)
def dashboards_command(folder: Path) -> None:
    """Write the Grafana dashboards as JSON files, replacing those of another version.

    Import them into Grafana 12 or newer, or point a file provider of Grafana at DIR.
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
    "--job", default=_HERE.job, show_default=True, help="The job_name in the configuration of Prometheus."
)
@click.option(
    "--grafana", metavar="URL", default=_HERE.grafana, show_default=True, help="Address of Grafana."
)
@click.option(
    "--runbooks",
    metavar="URL",
    default=_HERE.runbooks,
    show_default=True,
    help="Address of the runbooks: /runbooks of a service, or where you have published them.",
)
def rules_command(job: str, grafana: str, runbooks: str) -> None:
    """Print the recording and alert rules for Prometheus.

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
    """Print the runbooks as an HTML page that you can publish anywhere.

    A service serves them at /runbooks. A copy elsewhere can be read while the service is down.
    """
    click.echo(monitoring.runbooks(), nl=False)
