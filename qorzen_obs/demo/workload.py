"""The demo's work: read, hash and parse every Python file below a folder, as tasks of a task manager.

A survey is one task. It finds the files and shares them out to batches; a batch has three tasks for each of its
files. A file that cannot be read or parsed is a task that failed, and everything else goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from qorzen_obs.core.current_task import current_task
from qorzen_obs.demo.ends import Ends
from qorzen_obs.demo.syntax import Measure, parse
from qorzen_obs.errors import TaskFailedError
from qorzen_obs.options import task
from qorzen_obs.tasks import TaskCategory, TaskInfo, TaskPriority, TaskStatus

#: A batch is one trace with six spans per file, and 2,000 spans of a trace are kept.
FILES_PER_BATCH: Final = 50
#: So at most 300 tasks are pending, few files are in memory, and a stop has little to wait for.
BATCHES_AT_ONCE: Final = 3
SLOWEST_KEPT: Final = 5
_NAME_LENGTH: Final = 150


class Source:
    """One Python file and what the tasks have found out about it."""

    __slots__ = ("content", "path", "shown")

    def __init__(self, path: Path, folder: Path) -> None:
        self.path = path
        self.shown = printable(path.relative_to(folder))
        self.content = b""  #: from reading to parsing


class Batch(NamedTuple):
    """As what the tasks of a batch are submitted."""

    category: TaskCategory
    priority: TaskPriority
    plugin_id: str | None = None


#: Batches take these in turn.
ROTA: Final = (
    Batch(TaskCategory.USER, TaskPriority.HIGH),
    Batch(TaskCategory.PLUGIN, TaskPriority.NORMAL, "linter"),
    Batch(TaskCategory.BACKGROUND, TaskPriority.LOW),
    Batch(TaskCategory.CORE, TaskPriority.NORMAL),
    Batch(TaskCategory.PLUGIN, TaskPriority.LOW, "indexer"),
)


@dataclass(slots=True)
class Tally(Ends):
    """What a survey has found so far. Written on the work loop only."""

    on_failure: Callable[[str, TaskInfo], object] = field(kw_only=True)  #: called with the file
    files: int = 0  #: found
    done: int = 0  #: whose tasks have all ended, however they did
    bytes: int = 0
    lines: int = 0  #: like nodes and functions, of the files that parse
    nodes: int = 0
    functions: int = 0
    deepest: tuple[int, str] = (0, "")  #: nodes, file
    longest_function: tuple[int, str, str] = (0, "", "")  #: lines, name, file
    digests: set[str] = field(default_factory=set)
    failures: list[tuple[str, TaskInfo]] = field(default_factory=list)  #: by file
    #: A heap of seconds, file, task's name.
    slowest: list[tuple[float, str, str]] = field(default_factory=list)
    slowest_batch: tuple[float, TaskInfo | None] = (0.0, None)

    def file_ended(self, source: Source, ended: Iterable[TaskInfo]) -> None:
        """Take note of the tasks of a file."""
        self.done += 1
        slowest = (0.0, source.shown, "")
        for info in ended:
            slowest = max(slowest, (info.duration_seconds or 0.0, source.shown, info.name))
            if info.status is TaskStatus.FAILED:
                self.failures.append((source.shown, info))
                self.on_failure(source.shown, info)
        push = heapq.heappush if len(self.slowest) < SLOWEST_KEPT else heapq.heappushpop
        push(self.slowest, slowest)

    def batch_ended(self, info: TaskInfo) -> None:
        """Take note of a batch."""
        seconds = info.duration_seconds or 0.0
        if seconds > self.slowest_batch[0]:
            self.slowest_batch = (seconds, info)

    def add(self, source: Source, measure: Measure) -> None:
        """Add what a file was found to be."""
        self.lines += measure.lines
        self.nodes += measure.nodes
        self.functions += measure.functions
        self.deepest = max(self.deepest, (measure.depth, source.shown))
        self.longest_function = max(self.longest_function, (*measure.longest_function, source.shown))


def find_files(folder: Path, skipped_folders: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the Python files below `folder`, in order; folders that are links or cannot be read are left out.

    Raises:
        OSError: `folder` itself cannot be read.
    """
    with os.scandir(folder):
        pass
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - skipped_folders)
        for name in sorted(names):
            path = Path(where, name)
            if name.endswith(".py") and _is_file(path):
                yield path


# ---------------------------------------------------------------------- the tasks


@task(timeout=math.inf)
async def survey(folder: Path, skipped_folders: frozenset[str], tally: Tally) -> None:
    """Survey every Python file below `folder`, batch by batch.

    Raises:
        TaskFailedError: the folder cannot be read.
    """
    found = await tally.run(
        find, folder, skipped_folders, name=_task_name("find files in", printable(folder))
    )
    if found is None:
        return
    if found.status is not TaskStatus.COMPLETED:
        raise TaskFailedError(found.task_id, found.error_type or found.status.value, found.error or "")
    sources: list[Source] = found.result
    tally.files = len(sources)
    this = current_task()
    room = asyncio.Semaphore(BATCHES_AT_ONCE)

    async def run_batch(number: int, part: Sequence[Source]) -> None:
        batch = ROTA[number % len(ROTA)]
        info = await tally.run(
            survey_batch,
            part,
            batch,
            tally,
            name=f"batch {number + 1} of {math.ceil(tally.files / FILES_PER_BATCH)}",
            metadata={"first": part[0].shown, "last": part[-1].shown},
            **batch._asdict(),
        )
        if info is not None:
            tally.batch_ended(info)
        this.progress(100 * tally.done / tally.files, f"{tally.done} of {tally.files} files")
        room.release()

    async with asyncio.TaskGroup() as batches:
        for number, start in enumerate(range(0, len(sources), FILES_PER_BATCH)):
            await room.acquire()
            if tally.stopped:
                break
            batches.create_task(run_batch(number, sources[start : start + FILES_PER_BATCH]))


@task(new_trace=True, timeout=math.inf)
async def survey_batch(sources: Sequence[Source], batch: Batch, tally: Tally) -> None:
    """Survey some files at once. A trace of its own: a survey as one trace would have too many spans."""
    this = current_task()
    done = 0

    async def run_file(source: Source) -> None:
        nonlocal done
        await _survey_file(source, batch, tally)
        done += 1
        this.progress(100 * done / len(sources), f"{done} of {len(sources)} files")

    async with asyncio.TaskGroup() as files:
        for source in sources:
            files.create_task(run_file(source))


@task(category=TaskCategory.IO)
def find(folder: Path, skipped_folders: frozenset[str]) -> list[Source]:
    """Find the files."""
    this = current_task()
    sources = []
    for path in find_files(folder, skipped_folders):
        this.raise_if_cancelled()
        sources.append(Source(path, folder))
    return sources


@task(category=TaskCategory.IO)
def read(source: Source) -> int:
    """Read a file and return its size; the content stays with the source, not in the task's kept result."""
    source.content = source.path.read_bytes()
    return len(source.content)


def digest(source: Source) -> str:
    """Return the SHA-256 of the content."""
    return hashlib.sha256(source.content).hexdigest()


# ---------------------------------------------------------------------- how they are put together


async def _survey_file(source: Source, batch: Batch, tally: Tally) -> None:
    """Read, then hash and parse side by side; count how it ended."""
    options = {"priority": batch.priority, "plugin_id": batch.plugin_id, "metadata": {"file": source.shown}}
    hashing = TaskCategory.BACKGROUND if batch.priority is TaskPriority.LOW else TaskCategory.CORE
    was_read = await tally.run(read, source, name=_task_name("read", source.shown), **options)
    ended = [was_read]
    if was_read is not None and was_read.status is TaskStatus.COMPLETED:
        hashed, parsed = await asyncio.gather(
            tally.run(digest, source, name=_task_name("hash", source.shown), category=hashing, **options),
            tally.run(
                parse,
                source.content,
                source.shown,
                name=_task_name("parse", source.shown),
                category=batch.category,
                **options,
            ),
        )
        ended += [hashed, parsed]
        tally.bytes += len(source.content)
        if hashed is not None and hashed.status is TaskStatus.COMPLETED:
            tally.digests.add(hashed.result)
        if parsed is not None and parsed.status is TaskStatus.COMPLETED:
            tally.add(source, parsed.result)
    source.content = b""
    tally.file_ended(source, [info for info in ended if info is not None])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a file that may not be looked at: reading it will say why
        return True


def printable(path: Path | str) -> str:
    """Return a path fit for terminals, logs and JSON, whatever bytes it is made of."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _task_name(verb: str, shown: str) -> str:
    return f"{verb} {shown}" if len(shown) <= _NAME_LENGTH else f"{verb} …{shown[-_NAME_LENGTH:]}"
