"""Compares what a program said before it died with what the next start finds in the history's file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from qorzen_obs.history.base import Loss
from qorzen_obs.tasks import TaskInfo


@dataclass
class Said:
    """What a program said through its pipe, in that order."""

    accepted: dict[str, float] = field(default_factory=dict)  #: ids, and when by the monotonic clock
    #: The status that a task ends with, said before it ends.
    ends: dict[str, str] = field(default_factory=dict)
    withdrawn: set[str] = field(default_factory=set)  #: ids that were never accepted

    @classmethod
    def of(cls, lines: Iterable[str]) -> Said:
        said = cls()
        for line in lines:
            match line.split():
                case ["accepted", task_id, at]:
                    said.accepted[task_id] = float(at)
                case ["ends", task_id, status]:
                    said.ends[task_id] = status
                case ["withdrawn", task_id]:
                    said.withdrawn.add(task_id)
        return said


@dataclass
class Found:
    """What a start has found."""

    tasks: Mapping[str, TaskInfo]
    losses: list[Loss]
    crash_took: set[str]  #: the ids of tasks that are listed as lost by a crash
    problems: list[str] = field(default_factory=list)  #: of the file's integrity


def problems_of(said: Said, first: Found, second: Found, *, forgotten_seconds: float = 0.0) -> list[str]:
    """Return what is wrong after a kill, a sentence each.

    Args:
        said: by the program that was killed.
        first: found by the start after it.
        second: found by one more start, which must change nothing.
        forgotten_seconds: acceptances of so long before the last may be missing, if all later ones are missing too.
    """
    problems = [f"the file is corrupted: {problem}" for problem in first.problems]
    missing = [task_id for task_id in said.accepted if task_id not in first.tasks]
    last = max(said.accepted.values(), default=0.0)
    old = [task_id for task_id in missing if last - said.accepted[task_id] > forgotten_seconds]
    if old or (missing and not forgotten_seconds):
        problems.append(f"{len(missing)} accepted tasks are missing, such as {(old or missing)[0]}")
    elif missing != list(said.accepted)[len(said.accepted) - len(missing) :]:
        problems.append("a task is missing that was accepted before one that is not")
    for task_id, info in first.tasks.items():
        if not info.status.final:
            problems.append(f"{task_id} is still {info.status.value}")
        elif info.error_type == "lost":
            if not (info.error or "").startswith("its process died"):
                problems.append(f"{task_id} does not say what it was doing: {info.error}")
        elif said.ends.get(task_id) != info.status.value:
            problems.append(f"{task_id} has ended as {info.status.value}, not as {said.ends.get(task_id)}")
        if task_id not in said.accepted and task_id in said.ends:
            problems.append(f"{task_id} has run and was never accepted")
    lost = {task_id for task_id, info in first.tasks.items() if info.error_type == "lost"}
    counted = sum(loss.running + loss.pending for loss in first.losses)
    if counted != len(lost) or lost != first.crash_took:
        problems.append(f"{len(lost)} tasks are lost, {counted} counted, {len(first.crash_took)} listed")
    if second.tasks != first.tasks or second.losses != first.losses:
        problems.append("D17: a second start has changed something")
    return problems
