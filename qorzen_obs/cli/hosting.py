"""What `demo` and `serve` share: their settings, and how they report what stops them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import click
import msgspec

from qorzen_obs.cli.options import WrongUse
from qorzen_obs.errors import ManagerInitializationError, SettingsError
from qorzen_obs.settings import MEMORY, SQLITE, HistorySettings, Settings, load_settings

T = TypeVar("T")


#: Stands for a `history.url` that nobody has given, while settings are read.
_NOT_GIVEN: Final = f"{SQLITE}(the default file)"


class HostSettings(NamedTuple):
    """The settings of a service of its own process."""

    settings: Settings
    #: Nobody has said where tasks are recorded, and the port is a fixed one, which the default file is named after.
    stores_by_default: bool


def host_settings(
    config: Path | None, host: str | None, port: int | None, overrides: dict[str, str]
) -> HostSettings:
    """Return the settings of the file, then the environment, then `overrides` and the options.

    Raises:
        WrongUse: one of them cannot be followed.
    """
    if host is not None:
        overrides["QORZEN_SERVER__HOST"] = host
    if port is not None:
        overrides["QORZEN_SERVER__PORT"] = str(port)
    try:
        base = Settings(history=HistorySettings(url=_NOT_GIVEN))
        settings = load_settings(config, {**os.environ, **overrides}, base=base)
    except SettingsError as error:
        raise WrongUse(str(error)) from error
    if settings.history.url != _NOT_GIVEN:
        return HostSettings(settings, False)
    history = msgspec.structs.replace(settings.history, url=MEMORY)
    return HostSettings(msgspec.structs.replace(settings, history=history), settings.server.port != 0)


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
