"""What `demo` and `serve` share: their settings, and how they report what stops them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from qorzen_obs.cli.options import WrongUse
from qorzen_obs.errors import ManagerInitializationError, SettingsError
from qorzen_obs.settings import Settings, load_settings

T = TypeVar("T")


def host_settings(
    config: Path | None, host: str | None, port: int | None, overrides: dict[str, str]
) -> Settings:
    """Return the settings of the file, then the environment, then `overrides` and the options.

    Raises:
        WrongUse: one of them cannot be followed.
    """
    if host is not None:
        overrides["QORZEN_SERVER__HOST"] = host
    if port is not None:
        overrides["QORZEN_SERVER__PORT"] = str(port)
    try:
        return load_settings(config, {**os.environ, **overrides})
    except SettingsError as error:
        raise WrongUse(str(error)) from error


def run_to_the_end(main: Coroutine[Any, Any, T]) -> T:
    """Run a service and return what it returns.

    Raises:
        WrongUse: a setting cannot be followed.
        ClickException: a part of the service does not start.
    """
    try:
        return asyncio.run(main)
    except SettingsError as error:
        raise WrongUse(str(error)) from error
    except ManagerInitializationError as error:
        raise click.ClickException(str(error)) from error
