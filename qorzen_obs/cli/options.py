"""What commands have in common: their options, and how they refuse."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from qorzen_obs.cli.texts import printable
from qorzen_obs.client import Client, ClientError
from qorzen_obs.endpoint import DEFAULT_HOST, DEFAULT_PORT, socket_path, url_of
from qorzen_obs.errors import SettingsError
from qorzen_obs.small_file import UnusableFileError, read_small_file

_MAX_TOKEN_FILE_BYTES: Final = 65_536
#: The variables that the options below fall back on.
_FOLLOWED: Final = frozenset(
    {
        "QORZEN_URL",
        "QORZEN_SERVER__HOST",
        "QORZEN_SERVER__PORT",
        "QORZEN_SERVER__TOKEN",
        "QORZEN_SERVER__TOKEN_FILE",
    }
)

F = TypeVar("F", bound=Callable[..., Any])


class WrongUse(click.ClickException):
    """What was asked for makes no sense. Click's own class is for what failed, with status 1."""

    exit_code = 2


def server_options(command: F) -> F:
    """Add the options of a command that serves."""
    for option in (
        click.option(
            "--config", type=click.Path(path_type=Path), metavar="FILE", help="A TOML file with settings."
        ),
        click.option("--port", type=int, help="Port to listen on; 0 takes any free port.  [default: 8080]"),
        click.option("--host", help="Address to listen on.  [default: 127.0.0.1]"),
    ):
        command = option(command)
    return command


def client_options(command: F) -> F:
    """Add the options of a command that asks a running service."""
    for option in (
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            envvar="QORZEN_SERVER__TOKEN_FILE",
            help="A file whose first word is the service's token.  [default: QORZEN_SERVER__TOKEN_FILE, else the "
            "token in QORZEN_SERVER__TOKEN]",
        ),
        click.option(
            "--url",
            default=_default_url,
            show_default="QORZEN_URL, else QORZEN_SERVER__HOST and QORZEN_SERVER__PORT, else "
            + url_of(DEFAULT_HOST, DEFAULT_PORT),
            help="Address of the service.",
        ),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print the service's answer as JSON.")


def make_client(
    url: str, token_file: Path | None, *, variables_checked: bool = True, **options: Any
) -> Client:
    """Return the client that the options ask for. Only `doctor`, which says what is misspelt, lets that pass.

    Raises:
        WrongUse: the token's file cannot be read, or a `QORZEN_*` variable is misspelt.
    """
    if variables_checked:
        _check_variables()
    has_scheme = "://" in url or socket_path(url) is not None
    return Client(url if has_scheme else f"http://{url}", _token(token_file), **options)


@contextmanager
def refusals_shown() -> Iterator[None]:
    """Turn what the client raises into a message and exit status 1."""
    try:
        yield
    except ClientError as error:
        raise click.ClickException(printable(str(error))) from error


def give_json(document: object) -> None:
    """Write a document to standard output; in ASCII, so that a terminal shows it and does nothing else."""
    click.echo(json.dumps(document, indent=2))


def _default_url() -> str:
    """Return where the service answers by the environment; a variable that is set to nothing says nothing.

    Raises:
        WrongUse: the port is none that a service can be asked at.
    """
    if url := os.environ.get("QORZEN_URL"):
        return url
    port = os.environ.get("QORZEN_SERVER__PORT") or str(DEFAULT_PORT)
    if not (port.isdecimal() and 0 < int(port) < 65_536):
        raise WrongUse(
            "QORZEN_SERVER__PORT is not a port that a service listens on; give its address with --url"
        )
    return url_of(os.environ.get("QORZEN_SERVER__HOST") or DEFAULT_HOST, int(port))


def _check_variables() -> None:
    """Refuse a misspelt variable, which would have the command ask another service than was meant.

    Raises:
        WrongUse: with the name that is most like it.
    """
    others = [name for name in os.environ if name.startswith("QORZEN_") and name not in _FOLLOWED]
    if others:
        from qorzen_obs.settings import check_variables  # noqa: PLC0415 - 25 ms, for what is seldom there

        try:
            check_variables(others)
        except SettingsError as error:
            raise WrongUse(printable(str(error))) from error


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("QORZEN_SERVER__TOKEN")
    try:
        words = read_small_file(file, _MAX_TOKEN_FILE_BYTES, pipes=True).text.split()
    except UnusableFileError as error:
        raise WrongUse(f"--token-file {str(file)!r} {error}") from error
    # The service's own file has one token a line, and may say after it that it is for reading only.
    return words[0] if words else ""
