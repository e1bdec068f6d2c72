"""Opens the durable history of a service: which file it is, and what the log says about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from qorzen_obs.core.recording import HistoryParts, new_instance
from qorzen_obs.errors import HistoryError
from qorzen_obs.history.base import Loss
from qorzen_obs.history.recorder import DurableHistory, Notice
from qorzen_obs.history.sqlite import SqliteStorage
from qorzen_obs.in_thread import run_in_daemon_thread
from qorzen_obs.record import TaskRecord
from qorzen_obs.settings import SQLITE, HistorySettings
from qorzen_obs.telemetry import names

FILE_NAME: Final = "history.sqlite"
#: How long a start waits for another process to free a file that the user gave.
_WAIT_SECONDS: Final = 5.0
#: The same for the default file, without which the service also works.
_DEFAULT_WAIT_SECONDS: Final = 1.0
#: How long a stop waits for a disk: with the last flushes, less than the host gives a stop beyond its grace.
_STOP_SECONDS: Final = 2.0
_BAD_NOTICES: Final = frozenset({"broken", "set_aside", "replaced"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySources:
    """What a durable history asks its service for, on the writer's thread. See DurableHistory."""

    ageing_seconds: float
    redact: Callable[[dict[str, Any]], dict[str, Any]]
    lines_of: Callable[[str], Sequence[Any]]
    spans_of: Callable[[str], Sequence[Any]]
    live: Callable[[], Iterable[TaskRecord]]


def default_file(name: str, port: int, environment: Mapping[str, str]) -> Path:
    """Return the history's file in the state folder of the user, for a service of this name on this port.

    https://specifications.freedesktop.org/basedir-spec/: a relative $XDG_STATE_HOME is ignored.

    >>> default_file("shop/eu", 9100, {"XDG_STATE_HOME": "/state"}).as_posix()
    '/state/qorzen-obs/shop_eu-9100/history.sqlite'
    """
    given = Path(environment.get("XDG_STATE_HOME", ""))
    state = given if given.is_absolute() else Path(environment.get("HOME", "~")).expanduser() / ".local/state"
    folder = re.sub(r"[^\w.-]|^\.+", "_", name, flags=re.ASCII)[:100]
    return state / "qorzen-obs" / f"{folder}-{port}" / FILE_NAME


async def open_history(
    settings: HistorySettings,
    sources: HistorySources,
    *,
    service: str,
    version: str,
    logger: Any,
    default: Path | None = None,
) -> tuple[DurableHistory | None, HistoryParts]:
    """Open the file of the settings, in a thread; if they say memory, the `default` one if possible.

    Return the history, which is started and which the caller stops with `close_history`, and the manager's part of it.

    Raises:
        HistoryError: the file of the settings cannot be used; its subclasses say why.
    """
    path = settings.path or default
    if path is None:
        return None, HistoryParts(settings=settings)
    instance = new_instance()
    storage = SqliteStorage(
        path,
        instance=instance,
        service=service,
        version=version,
        max_age_days=settings.max_age_days,
        max_records=settings.max_records,
    )
    history = DurableHistory(
        storage,
        commits_first=settings.accept == "committed",
        when_broken=settings.when_broken,
        ageing_seconds=sources.ageing_seconds,
        redact=sources.redact,
        lines_of=sources.lines_of,
        spans_of=sources.spans_of,
        live=sources.live,
        on_notice=partial(_log_notice, logger),
    )
    wait_seconds = _DEFAULT_WAIT_SECONDS if settings.path is None else _WAIT_SECONDS
    try:
        losses = await _start(history, wait_seconds)
    except HistoryError as error:
        if settings.path is not None:
            raise
        trouble = f"tasks are only in memory: {error}"
        logger.warning(names.LOG_HISTORY_IN_MEMORY, path=str(path), problem=error.problem)
        return None, HistoryParts(settings=settings, trouble=trouble)
    for loss in losses:
        _log_loss(logger, loss)
    parts = HistoryParts(
        recorder=history,
        stored=history.stored,
        losses=tuple(losses),
        instance=instance,
        settings=msgspec.structs.replace(settings, url=f"{SQLITE}{path}"),
    )
    return history, parts


async def _start(history: DurableHistory, wait_seconds: float) -> list[Loss]:
    """Start the history; if that is cancelled, stop it again."""
    try:
        return await run_in_daemon_thread(partial(history.start, wait_seconds), name="qorzen-history-start")
    except BaseException:
        await run_in_daemon_thread(partial(history.stop, 0.0), name="qorzen-history-stop")
        raise


async def close_history(history: DurableHistory, logger: Any) -> None:
    """Write what waits for the disk, in a thread, and free the file. Idempotent."""
    if not await run_in_daemon_thread(partial(history.stop, _STOP_SECONDS), name="qorzen-history-stop"):
        logger.error(names.LOG_HISTORY_UNWRITTEN, waiting=history.status()["waiting"])


def lost_line(losses: Sequence[Loss]) -> str | None:
    """Return in one line how many tasks crashes took, and when the last process died; None if they took none."""
    found = [loss for loss in losses if loss.running or loss.pending]
    if not found:
        return None
    tasks = sum(loss.running + loss.pending for loss in found)
    what = "1 task was" if tasks == 1 else f"{tasks:,} tasks were"
    ended_at = datetime.fromtimestamp(max(loss.last_seen_at for loss in found), UTC).astimezone()
    return f"{what} lost when the process ended at {ended_at:%Y-%m-%d %H:%M:%S}; qorzen-obs lost shows which"


def _log_notice(logger: Any, notice: Notice) -> None:
    write = logger.warning if notice.kind in _BAD_NOTICES else logger.info
    write(names.LOG_HISTORY_NOTICE, kind=notice.kind, notice=notice.text)


def _log_loss(logger: Any, loss: Loss) -> None:
    """Log what a dead process has left unfinished; nothing if it had no tasks."""
    if loss.running or loss.pending:
        logger.warning(
            names.LOG_HISTORY_RECOVERED,
            instance=loss.instance,
            running=loss.running,
            pending=loss.pending,
            by_category={category.value: n for category, n in loss.by_category.items()},
            last_seen_at=loss.last_seen_at,
        )
