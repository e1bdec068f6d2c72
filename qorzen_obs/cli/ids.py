"""Ids as a person types them: the first characters are enough where no other task or trace has them too."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from qorzen_obs.cli.texts import printable
from qorzen_obs.client import Client, ClientError, TaskPage, TraceList

_WHOLE: Final = 32  #: characters of an id
_BEGINNING: Final = re.compile(f"[0-9a-fA-F]{{1,{_WHOLE - 1}}}")
#: How much of a longer beginning the service is asked for: it may take more for a secret, and does not search for it.
_ASKED_FOR: Final = 12
_PAGE: Final = 1000
_NAMED: Final = 5  #: candidates in a message
_SHORT, _MORE = 8, 4  #: characters of each candidate: at least this many, and this many more than were given


class _Candidate(NamedTuple):
    id: str
    name: str


def whole_task_id(client: Client, given: str) -> str:
    """Return the id of the only live or kept task whose id begins so; what begins none is returned as it is.

    Raises:
        ClientError: several begin so, or the service refuses.
    """
    return _only_one(given, "tasks", lambda beginning: _tasks(client, beginning))


def whole_trace_id(client: Client, given: str) -> str:
    """Return the id of the only trace in memory whose id begins so; what begins none is returned as it is.

    Raises:
        ClientError: several begin so, or the service refuses.
    """
    return _only_one(given, "traces", lambda beginning: _traces(client, beginning))


def _only_one(given: str, what: str, candidates: Callable[[str], Iterator[_Candidate]]) -> str:
    beginning = given.lower()
    if not _BEGINNING.fullmatch(given):
        return given
    found = list(islice((one for one in candidates(beginning) if one.id.startswith(beginning)), _NAMED + 1))
    if not found:
        return given
    if len(found) == 1:
        return found[0].id
    length = max(_SHORT, len(given) + _MORE)
    shown = ", ".join(f"{printable(one.id[:length])} {printable(one.name)}" for one in found[:_NAMED])
    more = " and more" if len(found) > _NAMED else ""
    raise ClientError(f"the ids of several {what} begin with {given}: {shown}{more}; give more of it")


def _tasks(client: Client, beginning: str) -> Iterator[_Candidate]:
    cursor: str | None = None
    while True:
        page = client.get(
            "/api/tasks", TaskPage, {"q": beginning[:_ASKED_FOR], "limit": _PAGE, "cursor": cursor}
        )
        yield from (_Candidate(task.task_id, task.name) for task in page.items)
        cursor = page.next_cursor
        if cursor is None:
            return


def _traces(client: Client, beginning: str) -> Iterator[_Candidate]:
    page = client.get("/api/traces", TraceList, {"q": beginning[:_ASKED_FOR], "limit": _PAGE})
    yield from (_Candidate(trace.trace_id, trace.root_name) for trace in page.items)
