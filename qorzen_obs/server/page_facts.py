"""GET /api/page: what the page has to know about its server and its reader before it draws anything."""

from __future__ import annotations

import socket
from importlib import metadata
from typing import Final

from aiohttp import web
from msgspec import Struct

from qorzen_obs.server.documents import Moment, json_response, now, timestamp
from qorzen_obs.server.links import Links
from qorzen_obs.server.lost import LossDocument, loss_document
from qorzen_obs.server.registry import ALLOW_SUBMIT
from qorzen_obs.server.routes import SCOPE, Access, Answer, Route, Tag
from qorzen_obs.server.sources import LOOKS, Looks


class ServiceFacts(Struct, frozen=True, kw_only=True):
    """Which service this is, as it tells its telemetry."""

    name: str
    version: str | None  #: its own, not that of qorzen-obs; None where it gives none
    host: str  #: the name of its machine or container
    ready_at: Moment | None  #: since when it takes work; None while it starts


class PageFacts(Struct, frozen=True, kw_only=True):
    """Which service this is, what may be done here, and where to go from here."""

    service: ServiceFacts
    links: Links
    may_control: bool  #: whether the caller may cancel, run again, pause
    may_submit: bool  #: whether the caller may submit registered tasks
    instance: str  #: of the manager; another one after a restart
    losses: list[LossDocument]  #: what earlier processes took along, as this start found it; the newest first
    version: str  #: of qorzen-obs
    at: Moment


_NAMELESS: Final = "qorzen-obs"


def _service_of(looks: Looks) -> ServiceFacts:
    status = looks.status()
    known = status["telemetry"].get("service", {})  # a manager without tracing says nothing of it
    return ServiceFacts(
        name=known.get("name") or _NAMELESS,
        version=known.get("version"),
        host=socket.gethostname(),
        ready_at=timestamp(status.get("ready_at")),
    )


async def get_page_facts(request: web.Request) -> web.Response:
    """Answer with what holds for this caller."""
    may_control = request[SCOPE] is Access.CONTROL
    return json_response(
        PageFacts(
            service=_service_of(request.app[LOOKS]),
            links=request.app[LINKS],
            may_control=may_control,
            may_submit=may_control and request.app[ALLOW_SUBMIT],
            instance=request.app[LOOKS].event_ring.instance,
            losses=[loss_document(loss) for loss in request.app[LOOKS].losses],
            version=metadata.version("qorzen-obs"),
            at=now(),
        )
    )


LINKS: Final = web.AppKey("links", Links)

ROUTES: Final = (
    Route(
        "/api/page",
        get_page_facts,
        Access.READ,
        summary="Which service this is, what the caller may do, and where dashboards and traces are seen.",
        tag=Tag.SERVICE,
        description="What the live page needs to know of its service, of its caller and of the settings.",
        answers={200: Answer("What the page draws by.", PageFacts)},
    ),
)
