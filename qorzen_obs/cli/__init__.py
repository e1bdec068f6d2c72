"""The command `qorzen-obs`. Exit status: 0 success, 1 failure, 2 usage error.

Each command is imported when it is asked for: `health` is run by container probes every few seconds and needs a tenth
of the imports of `serve`.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Final, NoReturn

import click

#: The module of each command, in the order of the help.
_HOMES: Final = {
    "demo": "demo",
    "serve": "serve",
    "top": "top",
    "status": "service",
    "health": "service",
    "doctor": "doctor",
    "tasks": "tasks",
    "show": "tasks",
    "lost": "lost",
    "trace": "trace",
    "submit": "commands",
    "cancel": "commands",
    "rerun": "commands",
    "pause": "commands",
    "resume": "commands",
    "history": "history",
    "dashboards": "monitoring",
    "rules": "monitoring",
    "runbooks": "monitoring",
}


class _Commands(click.Group):
    """The commands by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names."""
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one."""
        if cmd_name not in _HOMES:
            return None
        module = importlib.import_module(f"{__name__}.{_HOMES[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="qorzen-obs", prog_name="qorzen-obs")
def cli() -> None:
    """Run asyncio task managers in which nothing runs unobserved.

    demo and serve run a service. dashboards, rules and runbooks write files for monitoring it. history reads the
    file of a durable history. The other commands query or control the running service at --url.

    Later sources override earlier ones: the defaults, a TOML file (--config), QORZEN_* variables such as
    QORZEN_TASKS__MAX_CONCURRENT_TASKS=50, options. Exit status: 0 success, 1 failure, 2 usage error.
    """


def _take_standard_descriptors() -> None:
    """Open 0, 1 and 2 where they are closed: what C code writes there must not land in a socket of ours."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free one


def main() -> NoReturn:
    """Run the command."""
    _take_standard_descriptors()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not fit a terminal's encoding
    cli(prog_name="qorzen-obs")
    raise AssertionError("click exits")
