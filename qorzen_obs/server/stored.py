"""Reading what is stored on disk, for the server: on threads, one question at a time, each with a deadline.

A disk that hangs must hold neither a loop nor the answers that need no disk.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, TypeVar

from aiohttp import web

from qorzen_obs.errors import HistoryError
from qorzen_obs.history.storage import StorageError
from qorzen_obs.in_thread import run_in_daemon_thread
from qorzen_obs.server.problems import ProblemError, problem
from qorzen_obs.telemetry.own_log import OwnLog

T = TypeVar("T")

logger = OwnLog(__name__)

DEADLINE_SECONDS: Final = 4.0  #: the page waits for five


class UnreadableStoreError(Exception):
    """What is stored cannot be read now."""


class StoreReads:
    """Asks the store of one server, one question at a time."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._readable = True  # as far as is known: each trouble is logged once

    async def read(self, question: Callable[[], T]) -> T:
        """Return what `question` returns on a daemon thread.

        Raises:
            UnreadableStoreError: the store failed, or has not answered in time.
        """
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                answer = await run_in_daemon_thread(lambda: self._in_turn(question), name="qorzen-stored")
        except TimeoutError as error:
            raise self._unreadable(f"it has not answered in {DEADLINE_SECONDS:g} s") from error
        except (StorageError, HistoryError, OSError) as error:
            raise self._unreadable(str(error)) from error
        self._readable = True
        return answer

    def _unreadable(self, problem: str) -> UnreadableStoreError:
        if self._readable:
            logger.warning("the stored history cannot be read: %s", problem)
        self._readable = False
        return UnreadableStoreError(problem)

    def _in_turn(self, question: Callable[[], T]) -> T:
        # A question that hangs keeps its turn, and later ones give up: threads must not pile up behind a disk.
        if not self._turn.acquire(timeout=DEADLINE_SECONDS):
            raise StorageError("another question to it has not been answered")
        try:
            return question()
        finally:
            self._turn.release()


STORE_READS: Final = web.AppKey("store_reads", StoreReads)

#: The answer of a route that needs the store.
UNREADABLE_STORE: Final = problem("The stored history cannot be read now.")


def unreadable_store() -> ProblemError:
    """Return the error that answers with UNREADABLE_STORE."""
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE, "the stored history cannot be read now; /health says more"
    )
