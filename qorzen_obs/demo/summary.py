"""What a survey came to: the workload's own findings, and the counts as `/status` and `/metrics` give them.

The counts come by HTTP from the running service, so that the demo checks what it shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from rich import filesize

from qorzen_obs.demo.workload import Tally
from qorzen_obs.endpoint import socket_path
from qorzen_obs.tasks import TaskInfo, TaskStatus
from qorzen_obs.telemetry import names

_FINAL: Final = [status for status in TaskStatus if status.final]
_READ_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)
_FAILURES_IN_TEXT: Final = 20


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A task of a file that failed."""

    file: str
    task: str
    task_id: str
    error_type: str
    message: str


class SlowFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file by its slowest task."""

    file: str
    task: str
    seconds: float


class SlowBatch(msgspec.Struct, frozen=True, kw_only=True):
    """The slowest batch and its trace."""

    name: str
    seconds: float
    trace_id: str | None


class Deepest(msgspec.Struct, frozen=True, kw_only=True):
    """The file with the deepest syntax tree."""

    file: str
    depth: int


class LongestFunction(msgspec.Struct, frozen=True, kw_only=True):
    """The function with the most lines."""

    file: str
    name: str
    lines: int


class Surfaces(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks the service says there were since its start, by status."""

    status: dict[str, int]  #: `/status`
    gauge: dict[str, int]  #: `/metrics`, qorzen_tasks
    finished: dict[str, int]  #: `/metrics`, qorzen_tasks_finished_total
    submitted: int  #: `/metrics`, qorzen_tasks_submitted_total

    def disagreements(self, counted: Mapping[TaskStatus, int]) -> list[str]:
        """Return a sentence for each count that differs at rest; `counted` is what the workload saw end."""
        found = []
        for status in TaskStatus:
            counts = {
                "/status": self.status[status],
                "qorzen_tasks": self.gauge[status],
                "the workload": counted[status] if status.final else 0,
            }
            if status.final:
                counts["qorzen_tasks_finished_total"] = self.finished[status]
            if len(set(counts.values())) > 1:
                shown = ", ".join(f"{n} by {source}" for source, n in counts.items())
                found.append(f"{status.value} tasks: {shown}")
        if self.submitted != sum(self.status.values()):
            total = sum(self.status.values())
            found.append(f"all tasks: {total} by /status, {self.submitted} by qorzen_tasks_submitted_total")
        return found


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One round of the demo. `tasks` counts this survey; `status` and `metrics` count all since the start."""

    url: str
    path: str
    round: int
    wall_seconds: float
    files: int
    distinct_files: int
    bytes: int
    lines: int
    nodes: int
    functions: int
    deepest: Deepest
    longest_function: LongestFunction
    tasks: dict[str, int]
    trouble: dict[str, int] | None  #: as `tasks`, for those that go wrong on purpose; None without them
    failures: list[Failure]
    slowest: list[SlowFile]
    slowest_batch: SlowBatch | None
    status: dict[str, int]
    metrics: dict[str, int]
    surfaces_agree: bool

    def text(self, *, with_failures: bool) -> Iterator[str]:
        """Yield the lines for a person."""
        yield self.headline()
        yield _row("tasks", f"{_counts(self.tasks)}; {_agreement(self.surfaces_agree)}")
        if self.trouble is not None:
            yield _row("trouble", f"{_counts(self.trouble)}, on purpose")
        yield _row(
            "size", f"{filesize.decimal(self.bytes)}, {self.lines:,} lines, {self.nodes:,} syntax nodes"
        )
        if self.functions:
            longest, deepest = self.longest_function, self.deepest
            yield _row("longest", f"{longest.name}, {longest.lines:,} lines, in {longest.file}")
            yield _row("deepest", f"{deepest.depth} nodes in {deepest.file}")
        for number, slow in enumerate(self.slowest):
            yield _row("slowest" if not number else "", f"{slow.seconds:6.3f} s  {slow.task}")
        if batch := self.slowest_batch:
            yield _row("", f"{batch.seconds:6.3f} s  {batch.name}, trace {batch.trace_id}")
        if with_failures:
            yield from self._failures()

    def _failures(self) -> Iterator[str]:
        for number, failure in enumerate(self.failures[:_FAILURES_IN_TEXT]):
            text = f"{failure.task}: {failure.error_type}: {failure.message}"
            yield _row("failed" if not number else "", text)
        if len(self.failures) > _FAILURES_IN_TEXT:
            yield _row("", f"and {len(self.failures) - _FAILURES_IN_TEXT:,} more")

    def headline(self) -> str:
        """Return the summary in one line."""
        tasks = sum(self.tasks.values())
        rate = self.files / self.wall_seconds if self.wall_seconds else 0.0
        trouble = "" if self.trouble is None else f"; trouble: {self.trouble['failed']:,} failed"
        return (
            f"round {self.round}: {self.files:,} files, {tasks:,} tasks, {self.tasks['failed']:,} failed, "
            f"{self.wall_seconds:.1f} s, {rate:,.0f} files/s{trouble}"
        )


def summarize(
    tally: Tally,
    surfaces: Surfaces,
    *,
    url: str,
    path: str,
    number: int,
    wall_seconds: float,
    agree: bool,
    trouble: Mapping[TaskStatus, int] | None = None,
) -> Summary:
    """Put a round's findings and the service's counts together."""
    return Summary(
        url=url,
        path=path,
        round=number,
        wall_seconds=round(wall_seconds, 3),
        files=tally.files,
        distinct_files=len(tally.digests),
        bytes=tally.bytes,
        lines=tally.lines,
        nodes=tally.nodes,
        functions=tally.functions,
        deepest=Deepest(depth=tally.deepest[0], file=tally.deepest[1]),
        longest_function=LongestFunction(
            lines=tally.longest_function[0], name=tally.longest_function[1], file=tally.longest_function[2]
        ),
        tasks=_by_name(tally.tasks),
        trouble=None if trouble is None else _by_name(trouble),
        failures=[_failure(file, info) for file, info in tally.failures],
        slowest=[
            SlowFile(file=file, task=name, seconds=round(seconds, 6))
            for seconds, file, name in sorted(tally.slowest, reverse=True)
        ],
        slowest_batch=_slow_batch(tally.slowest_batch[1]),
        status=surfaces.status,
        metrics=surfaces.finished,
        surfaces_agree=agree,
    )


async def read_surfaces(url: str, token: str | None) -> Surfaces:
    """Ask the service at `url` for its counts.

    Raises:
        aiohttp.ClientError: it cannot be reached, or gives no answer.
        TimeoutError: it takes too long.
    """
    # By localhost whatever name it listens on: an arbitrary one would have to be in server.allowed_hosts.
    headers = {"Host": "localhost", "Accept": "text/plain, application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    connector = None
    if (path := socket_path(url)) is not None:
        connector, url = aiohttp.UnixConnector(path), "http://localhost"
    async with aiohttp.ClientSession(
        headers=headers, timeout=_READ_TIMEOUT, raise_for_status=True, connector=connector
    ) as session:
        async with session.get(f"{url}/status") as response:
            status: dict[str, Any] = await response.json()
        async with session.get(f"{url}/metrics") as response:
            metrics = await response.text()
    by_status = _sums_by_status(metrics)
    return Surfaces(
        status=status["tasks"]["by_status"],
        gauge={state.value: by_status[names.TASKS.name, state.value] for state in TaskStatus},
        finished={
            state.value: by_status[f"{names.TASKS_FINISHED.name}_total", state.value] for state in _FINAL
        },
        submitted=by_status[f"{names.TASKS_SUBMITTED.name}_total", ""],
    )


def _sums_by_status(exposition: str) -> Counter[tuple[str, str]]:
    """Return the sums of the task counts in `/metrics`, by sample name and status."""
    wanted = "\n".join(line for line in exposition.splitlines() if line.startswith(names.TASKS.name)) + "\n"
    sums: Counter[tuple[str, str]] = Counter()
    for family in text_string_to_metric_families(wanted):
        for sample in family.samples:
            sums[sample.name, sample.labels.get("status", "")] += int(sample.value)
    return sums


def _failure(file: str, info: TaskInfo) -> Failure:
    return Failure(
        file=file,
        task=info.name,
        task_id=info.task_id,
        error_type=info.error_type or "",
        message=info.error or "",
    )


def _slow_batch(info: TaskInfo | None) -> SlowBatch | None:
    if info is None:
        return None
    return SlowBatch(name=info.name, seconds=round(info.duration_seconds or 0.0, 6), trace_id=info.trace_id)


def _row(label: str, text: str) -> str:
    return f"  {label:<9}{' '.join(text.splitlines())}"


def _by_name(tasks: Mapping[TaskStatus, int]) -> dict[str, int]:
    return {status.value: tasks.get(status, 0) for status in _FINAL}


def _counts(tasks: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {status}" for status, n in tasks.items())


def _agreement(agree: bool) -> str:
    return "/status and /metrics say the same" if agree else "/status and /metrics DISAGREE"
