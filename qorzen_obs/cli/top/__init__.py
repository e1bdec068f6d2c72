"""`top`: a live view of a running service in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from qorzen_obs.cli.options import WrongUse, client_options, make_client, refusals_shown

_TIMEOUT_SECONDS: Final = 3.0


@click.command("top")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.2, max=60),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two queries; longer if the service answers slowly.",
)
@client_options
def top_command(url: str, token_file: Path | None, interval: float) -> None:
    """Watch a running service in the terminal: what runs, waits, fails and blocks the loop.

    The arrow keys select a task, enter opens it (stack, log, trace), c cancels it, / filters, s sorts, ? shows all
    keys and q quits. top keeps running while the service restarts. It respects NO_COLOR.
    """
    console = Console(markup=False, emoji=False, highlight=False)
    if not (sys.stdin.isatty() and console.is_terminal) or console.is_dumb_terminal:
        raise WrongUse("top needs a terminal; for scripts there are `status --json` and `tasks --json`")
    try:
        from qorzen_obs.cli.top.screen import run_top  # noqa: PLC0415 - needs termios
    except ImportError as error:
        raise WrongUse(
            "top needs a POSIX terminal; look at the service's page, or use `tasks` and `show`"
        ) from error
    client = make_client(url, token_file, timeout_seconds=_TIMEOUT_SECONDS)
    try:
        with refusals_shown():
            run_top(client, interval, console)
    except KeyboardInterrupt:
        pass  # the other way to say that one has seen enough
