"""When health checks changed: what /health has found since the start, remembered each time somebody looks.

Knows no check. Only the server's own loop writes and reads.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

from aiohttp import web
from msgspec import Struct

from qorzen_obs.server.documents import Moment

MAX_CHANGES: Final = 50  #: of one check, the last ones
_MAX_OUTPUT: Final = 500

OutcomeName = Literal["pass", "warn", "fail"]


class HealthChange(Struct, frozen=True, kw_only=True):
    """What a check came to from a moment on."""

    at: Moment
    status: OutcomeName
    output: str  #: what was wrong then; empty where nothing was


class CheckPast(Struct, frozen=True, kw_only=True):
    """One check: how it stands, and how it came there."""

    name: str
    probe: str  #: which fails with it; `health` for one that only warns
    status: OutcomeName
    since: Moment
    output: str  #: as of the last look
    changes: list[HealthChange]  #: the last first; the first look counts as one


class _Check:
    __slots__ = ("changes", "output", "probe")

    def __init__(self, probe: str) -> None:
        self.probe = probe
        self.output = ""
        self.changes: deque[HealthChange] = deque(maxlen=MAX_CHANGES)  # the last first


class HealthHistory:
    """The last changes of each check, in the order in which the checks were first seen.

    As many checks as there are: the service's own, and those of its program, which are bounded where they are added.
    """

    def __init__(self) -> None:
        self._checks: dict[str, _Check] = {}

    def note(self, name: str, probe: str, change: HealthChange) -> None:
        """Take note of how a check stands; what has changed is kept."""
        check = self._checks.setdefault(name, _Check(probe))
        check.output = change.output[:_MAX_OUTPUT]
        if not check.changes or check.changes[0].status != change.status:
            kept = HealthChange(at=change.at, status=change.status, output=check.output)
            check.changes.appendleft(kept)

    def read(self) -> list[CheckPast]:
        """Return every check that was ever looked at."""
        return [
            CheckPast(
                name=name,
                probe=check.probe,
                status=check.changes[0].status,
                since=check.changes[0].at,
                output=check.output,
                changes=list(check.changes),
            )
            for name, check in self._checks.items()
        ]


HISTORY: Final = web.AppKey("health_history", HealthHistory)
