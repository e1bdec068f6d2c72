"""What `qorzen-obs demo` does: runs a real workload on a task manager and serves what can be seen of it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import sysconfig
import time
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from qorzen_obs.app import Service
from qorzen_obs.core.runtime import ManagerState
from qorzen_obs.demo.ends import Ends
from qorzen_obs.demo.screen import Screen
from qorzen_obs.demo.summary import Summary, read_surfaces, summarize
from qorzen_obs.demo.trouble import WHERE_TO_LOOK, trouble
from qorzen_obs.demo.workload import Tally, find_files, printable, survey
from qorzen_obs.endpoint import socket_path
from qorzen_obs.errors import TaskManagerClosedError, TaskNotFoundError
from qorzen_obs.host import StopSignals, hosted, set_up_process, stop_message
from qorzen_obs.settings import Settings
from qorzen_obs.tasks import TaskCategory, TaskStatus
from qorzen_obs.telemetry.gil_watch import GilWatch

__all__ = ["Workload", "run_demo", "standard_library"]

#: Syntax trees are millions of objects without cycles. Looking through them as often as Python does by default made
#: a round over the standard library take 35 s instead of 24 s.
_GC_THRESHOLDS: Final = (20_000, 10, 100)
_INSTALLED_PACKAGES: Final = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True)
class Workload:
    """Which files to survey."""

    folder: Path
    skipped_folders: frozenset[str] = frozenset()

    def is_empty(self) -> bool:
        """Whether not a single Python file was found.

        Raises:
            OSError: the folder cannot be read.
        """
        return next(find_files(self.folder, self.skipped_folders), None) is None


def standard_library() -> Workload:
    """Return the interpreter's own library, without the packages that were installed into it."""
    return Workload(Path(sysconfig.get_path("stdlib")), _INSTALLED_PACKAGES)


async def run_demo(
    settings: Settings,
    workload: Workload,
    *,
    once: bool,
    as_json: bool,
    pause_seconds: float,
    with_trouble: bool = False,
    stores_by_default: bool = False,
) -> bool:
    """Survey once, or again and again until SIGINT or SIGTERM; return whether all went well.

    `with_trouble` runs demo/trouble.py beside each survey. What fails there is meant to. `stores_by_default` records
    tasks in the default file if `history.url` is `memory`, but never for one round.

    Belongs to a process of its own: it silences the warnings that parsing gives for old code, and sets the garbage
    collector to rarer runs.

    Raises:
        SettingsError: a setting or an OTEL_* variable cannot be followed.
        ManagerInitializationError: the port is in use, or another part did not start.
    """
    for category in (SyntaxWarning, DeprecationWarning):
        warnings.simplefilter("ignore", category)
    gc.set_threshold(*_GC_THRESHOLDS)
    gil_watch = GilWatch()
    with Screen(as_json=as_json) as screen:
        log_level = settings.telemetry.log_level
        if sys.stderr.isatty() and log_level == "info":
            log_level = "error"  # a line for each task would bury the display
        settings = msgspec.structs.replace(
            settings, telemetry=msgspec.structs.replace(settings.telemetry, log_level=log_level)
        )
        logs = set_up_process(settings.telemetry, sys.stderr)
        service = Service(
            settings,
            http=True,
            log_stream=logs,
            gil_watch=gil_watch,
            default_history="demo" if stores_by_default and not once else None,
        )
        with StopSignals(settings.tasks, gil_watch, service.refuse_traffic, logs.redactor.text) as signals:
            async with hosted(service, signals):
                rounds = _Rounds(service, workload, screen, as_json=as_json, with_trouble=with_trouble)
                rounds.announce()
                working = asyncio.create_task(rounds.run(once=once, pause_seconds=pause_seconds))
                asked = asyncio.create_task(signals.asked.wait())
                await asyncio.wait({working, asked}, return_when=asyncio.FIRST_COMPLETED)
                asked.cancel()
                if working.done():
                    return working.result()
                await rounds.wind_up()
                screen.say(stop_message(service))
            working.cancel()
            with suppress(asyncio.CancelledError, TaskManagerClosedError):
                await working
            if once:
                screen.complain("stopped before every file was surveyed")
            return not once


class _Rounds:
    """Surveys of one workload, one after the other."""

    def __init__(
        self, service: Service, workload: Workload, screen: Screen, *, as_json: bool, with_trouble: bool
    ) -> None:
        assert service.ops is not None, "a demo is served"
        self._url = service.ops.url
        self._service = service
        self._workload = workload
        self._screen = screen
        self._as_json = as_json
        self._with_trouble = with_trouble
        self._tally: Tally | None = None  # of this round, as is the next
        self._trouble_id: str | None = None
        self._stops = False
        self._ended: Counter[TaskStatus] = Counter()  # in all rounds

    def announce(self) -> None:
        """Say what is surveyed and where it can be watched."""
        self._screen.say(f"qorzen_obs surveys the Python files in {printable(self._workload.folder)}")
        url, path = self._url, socket_path(self._url)
        if path is not None:
            url = "http://localhost"
            self._screen.say(f"  socket   {path}")
        for what, path in (
            ("page", "/"),
            ("metrics", "/metrics"),
            ("status", "/status"),
            ("health", "/health"),
        ):
            self._screen.say(f"  {what:<9}{url}{path}")
        for line in self._service.history_news:
            self._screen.say(f"  history  {printable(line)}")
        if self._with_trouble:
            self._screen.say("Beside it a shop has a bad day, again in each round:")
            for what, where in WHERE_TO_LOOK:
                self._screen.say(f"  {what:<9}{where}")

    async def run(self, *, once: bool, pause_seconds: float) -> bool:
        """Survey, and unless `once` go on until cancelled; return whether all went well."""
        for number in itertools.count(1):
            summary = await self._survey(number)
            if summary is not None:
                self._publish(summary, in_full=once)
            if once:
                return summary is not None and summary.surfaces_agree
            self._screen.rest(pause_seconds)
            await asyncio.sleep(pause_seconds)
        raise AssertionError("unreachable")

    async def wind_up(self) -> None:
        """Begin no further batch, and cancel what goes wrong: the service stops, and would wait for all of it."""
        self._stops = True
        if self._tally is not None:
            self._tally.stop()
        if self._trouble_id is not None:
            with suppress(TaskNotFoundError):
                await self._service.tasks.cancel_task(self._trouble_id, reason="the demo stops")

    async def _survey(self, number: int) -> Summary | None:
        """Survey once; None when there was nothing to survey. The screen then says why, unless the service stops.

        Raises:
            TaskManagerClosedError: the service stops.
        """
        tasks, folder = self._service.tasks, self._workload.folder
        self._tally = tally = Tally(on_failure=self._screen.show_failure)
        self._screen.watch(number, tally, lambda: tasks.looks.counts.read().by_status())
        trouble_ends = Ends()
        if self._with_trouble:
            self._trouble_id = await tasks.submit_task(
                trouble, number, trouble_ends, category=TaskCategory.USER, name=f"trouble {number}"
            )
        started_at = time.monotonic()
        task_id = await tasks.submit_task(survey, folder, self._workload.skipped_folders, tally)
        went_well = await self._wait_for("the survey", task_id, tally)
        wall_seconds = time.monotonic() - started_at
        if self._trouble_id is not None:
            self._screen.wait_for_trouble()
            went_well &= await self._wait_for("the trouble", self._trouble_id, trouble_ends)
        self._ended += tally.tasks + trouble_ends.tasks
        if not went_well:
            return None
        try:
            surfaces = await read_surfaces(self._url, self._service.settings.server.token)
        except (aiohttp.ClientError, TimeoutError) as error:
            self._screen.complain(
                f"cannot read {self._url}/status and /metrics: {str(error) or type(error).__name__}"
            )
            return None
        disagreements = surfaces.disagreements(self._ended)
        for line in disagreements:
            self._screen.complain(f"the counts disagree on {line}")
        return summarize(
            tally,
            surfaces,
            url=self._url,
            path=printable(folder),
            number=number,
            wall_seconds=wall_seconds,
            agree=not disagreements,
            trouble=trouble_ends.tasks if self._with_trouble else None,
        )

    async def _wait_for(self, what: str, task_id: str, ends: Ends) -> bool:
        """Wait for the task of a workload, count it too, and return whether it completed and the service goes on."""
        tasks = self._service.tasks
        info = await tasks.wait_for_task(task_id)
        ends.tasks[info.status] += 1
        if self._stops or ends.stopped or tasks.state is not ManagerState.READY:
            return False
        if info.status is not TaskStatus.COMPLETED:
            self._screen.complain(f"{what} {info.status.value}: {info.error or info.cancel_reason}")
            return False
        return True

    def _publish(self, summary: Summary, *, in_full: bool) -> None:
        if in_full:
            self._screen.end_display()
        if self._as_json:
            self._screen.give_json(json.dumps(msgspec.to_builtins(summary)))
        elif in_full:
            for line in summary.text(with_failures=not self._screen.is_live):
                self._screen.say(line)
        else:
            self._screen.say(summary.headline())
