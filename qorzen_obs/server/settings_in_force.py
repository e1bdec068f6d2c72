"""GET /api/settings: the settings that hold now, without secrets: of those only whether they are set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Struct

from qorzen_obs.server.documents import Moment, json_response, now
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import HEALTH, LOOKS, REDACTOR
from qorzen_obs.settings import ServerSettings, Settings
from qorzen_obs.telemetry.redaction import Redactor

#: Besides what is called like a secret: where one is kept, and what may have one written into it.
SECRET: Final = frozenset({"server.token", "server.token_file", "telemetry.redact_patterns"})


class SettingInForce(Struct, frozen=True, kw_only=True):
    """One setting."""

    value: Any  #: of a secret `set` or `unset`
    default: bool  #: whether it is as it is by itself


class SettingsInForce(Struct, frozen=True, kw_only=True):
    """All settings by section, such as `tasks`, and name."""

    sections: dict[str, dict[str, SettingInForce]]
    at: Moment


def describe(sections: Mapping[str, Struct], redactor: Redactor) -> dict[str, dict[str, SettingInForce]]:
    """Return settings by section as they are shown."""
    return {
        section: {
            field.name: _describe(f"{section}.{field.name}", field, getattr(settings, field.name), redactor)
            for field in msgspec.structs.fields(settings)
        }
        for section, settings in sections.items()
    }


def _describe(
    name: str, field: msgspec.structs.FieldInfo, value: object, redactor: Redactor
) -> SettingInForce:
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if name in SECRET or redactor.hides(field.name):
        shown: Any = "set" if value else "unset"
    else:
        shown = _shown(msgspec.to_builtins(value), redactor)
    return SettingInForce(value=shown, default=value == default)


def _shown(value: Any, redactor: Redactor) -> Any:
    if isinstance(value, str):
        return redactor.text(value)
    if isinstance(value, list | tuple):
        return [_shown(item, redactor) for item in value]
    return "inf" if value == math.inf else value


async def get_settings(request: web.Request) -> web.Response:
    """Answer with the settings in force: the manager's, which may have changed since the start, and the server's."""
    given = {
        **request.app[LOOKS].settings_in_force(),
        "server": request.app[SERVER],
        "health": request.app[HEALTH],
    }
    ordered = {name: given[name] for name in Settings.__struct_fields__ if name in given}
    return json_response(SettingsInForce(sections=describe(ordered, request.app[REDACTOR]), at=now()))


SERVER: Final = web.AppKey("server", ServerSettings)

ROUTES: Final = (
    Route(
        "/api/settings",
        get_settings,
        Access.READ,
        summary="The settings in force, without secrets.",
        tag=Tag.SERVICE,
        description="Each with its value and whether that is the default. Of secrets it says only whether they "
        "are set.",
        answers={200: Answer("Each with whether it is the default.", SettingsInForce)},
    ),
)
