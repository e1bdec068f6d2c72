"""A world in which processes contend for one durable history: locks, pids, pauses and delayed writes, without any I/O.

It decides with history/ownership.py. What it does itself is as little as SQLite and the kernel do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from qorzen_obs.history.ownership import (
    FREE_SECONDS,
    RENEWAL_SECONDS,
    Contender,
    Identity,
    Life,
    Look,
    Takeover,
    Tenure,
    life_of,
)

TICK_SECONDS = 0.05
MOST_PROCESSES = 5  #: alive at once


@dataclass(eq=False)
class Process:
    """A process with one instance of the service in it."""

    identity: Identity
    contender: Contender = field(default_factory=Contender)
    is_alive: bool = True
    is_stopped: bool = False  #: by SIGSTOP: it lives, and does nothing
    takeover: Takeover | None = None  #: decided and not done yet
    #: Owners whose life nobody could tell when it was decided.
    excused: list[Process] = field(default_factory=list)
    tenure: Tenure | None = None
    tasks: list[str] = field(default_factory=list)  #: that it believes to be its own and live
    delayed: list[Callable[[], bool]] = field(default_factory=list)  #: writes that are under way
    renewed_at: float = 0.0
    parent: Process | None = None  #: of a forked child

    @property
    def acts(self) -> bool:
        return self.is_alive and not self.is_stopped

    @property
    def is_working(self) -> bool:
        return self.tenure is not None and not self.tenure.is_replaced and self.parent is None


@dataclass
class Owner:
    """A row of the table of owners."""

    process: Process
    is_ended: bool = False


@dataclass
class Task:
    epoch: int
    ends: list[str] = field(default_factory=list)  #: each end that was written


class World:
    """Rules are methods. `check` says what must hold after each."""

    def __init__(self) -> None:
        self.now = 0.0
        self.processes: list[Process] = []
        self.lock: Process | None = None
        self.owners: dict[int, Owner] = {}
        self.tasks: dict[str, Task] = {}
        self.false_orphans: list[str] = []
        self.freed_others: set[int] = set()  #: claims that a goodbye of another process ended
        self._pids: dict[str, int] = {}
        self._starts = 0

    # ------------------------------------------------------------------ processes

    def start(self, namespace: str = "a", *, reuse_pid: bool = False, boot: str = "boot") -> Process:
        """Start a process; all have the same service's name, as twins do."""
        self._starts += 1
        free = {
            one.identity.pid
            for one in self.processes
            if not one.is_alive and one.identity.pid_namespace == namespace
        }
        used = {
            one.identity.pid
            for one in self.processes
            if one.is_alive and one.identity.pid_namespace == namespace
        }
        again = sorted(free - used)
        if reuse_pid and again:
            pid = again[0]
        else:
            pid = self._pids[namespace] = self._pids.get(namespace, 0) + 1
        identity = Identity(
            instance=f"instance {self._starts}",
            service="shop",
            version="1",
            boot_id=boot,
            pid_namespace=namespace,
            pid=pid,
            process_start=self._starts,
        )
        process = Process(identity, renewed_at=self.now)
        self.processes.append(process)
        return process

    def fork(self, process: Process) -> Process:
        """Fork a child that has a copy of everything, and none of the parent's POSIX locks."""
        child = self.start(process.identity.pid_namespace)
        child.parent, child.tenure = process, process.tenure
        child.tasks = list(process.tasks)
        return child

    def kill(self, process: Process) -> None:
        process.is_alive = False
        process.takeover = None
        if self.lock is process:
            self.lock = self.inheritor(process)

    def inheritor(self, process: Process) -> Process | None:
        """Who keeps the lock of a killed process: nobody, since children inherit no POSIX lock."""
        return None

    def stop(self, process: Process) -> None:
        process.is_stopped = True

    def resume(self, process: Process) -> None:
        process.is_stopped = False

    def lose_lock(self, process: Process) -> None:
        """Close another descriptor of the lock file in that process."""
        if self.lock is process:
            self.lock = None

    def tick(self) -> None:
        """Let a moment pass; every owner that can renews its lock in time."""
        self.now += TICK_SECONDS
        for process in self.processes:
            if process.acts and process.is_working and self.now - process.renewed_at >= RENEWAL_SECONDS:
                self.renew(process)

    def renew(self, process: Process) -> None:
        process.renewed_at = self.now
        if self.lock is None:
            self.lock = process

    # ------------------------------------------------------------------ contending

    def life(self, owner: Identity, here: Process) -> Life:
        """What a contender finds out about an owner."""
        namespace = here.identity.pid_namespace
        starts = [
            one.identity.process_start
            for one in self.processes
            if one.is_alive and one.identity.pid_namespace == namespace and one.identity.pid == owner.pid
        ]
        working = frozenset({here.identity.instance} if here.is_working else ())
        return life_of(owner, here.identity, starts[0] if starts else None, working)

    def open_claims(self) -> dict[int, Owner]:
        return {epoch: owner for epoch, owner in self.owners.items() if not owner.is_ended}

    def takes_lock(self, process: Process) -> bool:
        if self.lock is None:
            self.lock = process
        return self.lock is process

    def look(self, process: Process) -> None:
        """Look once; hold the lock only if the takeover is decided."""
        holds = self.takes_lock(process)
        claims = self.open_claims() if holds else {}
        lives = {epoch: self.life(owner.process.identity, process) for epoch, owner in claims.items()}
        process.takeover = process.contender.decide(Look(self.now, holds, lives))
        process.excused = [
            one.process for one in claims.values() if self.beyond_telling(one.process, process)
        ]
        if process.takeover is None and self.lock is process:
            self.lock = None

    def take_over(self, process: Process) -> None:
        """Do what was decided, perhaps much later: one transaction."""
        takeover, process.takeover = process.takeover, None
        assert takeover is not None
        claims = self.open_claims()
        if not self.is_valid(takeover, claims):
            if self.lock is process:
                self.lock = None
            return
        for owner in claims.values():
            if owner.process.is_alive and owner.process not in process.excused:
                self.false_orphans.append(owner.process.identity.instance)
            owner.is_ended = True
        for task in self.tasks.values():
            if self.is_lost(task):
                task.ends.append("lost")
        epoch = len(self.owners) + 1
        self.owners[epoch] = Owner(process)
        process.tenure = self.tenure(epoch, process)
        process.renewed_at = self.now

    def tenure(self, epoch: int, process: Process) -> Tenure:
        return Tenure(epoch, process.identity.pid)

    def is_valid(self, takeover: Takeover, claims: dict[int, Owner]) -> bool:
        return claims.keys() == takeover.epochs

    def is_lost(self, task: Task) -> bool:
        return not task.ends

    def beyond_telling(self, owner: Process, by: Process) -> bool:
        """Whether nobody can tell that a living owner lives: it is stopped, far away, and its lock was lost.

        It is fenced then, which is why its late writes must change nothing.
        """
        is_far = owner.identity.pid_namespace != by.identity.pid_namespace
        since = self.now - owner.renewed_at
        return is_far and owner.is_stopped and since >= FREE_SECONDS - RENEWAL_SECONDS

    # ------------------------------------------------------------------ owning

    def write(self, process: Process, change: Callable[[], None]) -> bool:
        """Write in one transaction, as an owner does; return whether it was written."""
        tenure = process.tenure
        if tenure is None or not tenure.may_write(process.identity.pid):
            return False
        owner = self.owners[tenure.epoch]
        if not tenure.fenced(0 if owner.is_ended else 1):
            return False
        change()
        return True

    def submit(self, process: Process) -> None:
        task_id = f"task {len(self.tasks) + 1}"
        assert process.tenure is not None
        epoch = process.tenure.epoch

        def add() -> None:
            self.tasks[task_id] = Task(epoch)
            process.tasks.append(task_id)

        self.write(process, add)

    def finish(self, process: Process) -> None:
        """Begin to write the end of a task; `land` finishes it."""
        task_id = process.tasks.pop(0)
        process.delayed.append(
            lambda: self.write(process, lambda: self.tasks[task_id].ends.append(process.identity.instance))
        )

    def land(self, process: Process) -> None:
        """Let a delayed write happen now."""
        process.delayed.pop(0)()

    def leave(self, process: Process) -> None:
        """Say goodbye, with nothing unfinished."""
        while process.delayed:
            self.land(process)
        while process.tasks:
            self.finish(process)
            self.land(process)
        assert process.tenure is not None
        before = self.open_claims().keys() - {process.tenure.epoch}
        self.say_goodbye(process)
        self.freed_others |= before - self.open_claims().keys()
        process.tenure = None
        if self.lock is process:
            self.lock = None
        process.is_alive = False

    def say_goodbye(self, process: Process) -> None:
        assert process.tenure is not None
        self.owners[process.tenure.epoch].is_ended = True

    # ------------------------------------------------------------------ scripts

    def actions(self) -> list[Callable[[], object]]:
        """What may happen now; what stands there more than once is likelier."""
        found: list[Callable[[], object]] = [self.tick]
        alive = [one for one in self.processes if one.is_alive]
        if len(alive) < MOST_PROCESSES:
            found += [partial(self.start, namespace, reuse_pid=True) for namespace in "aab"]
        for one in alive:
            found.append(partial(self.kill, one))
            found += [partial(self.resume, one)] * 3 if one.is_stopped else [partial(self.stop, one)] * 2
            if self.lock is one:
                found += [partial(self.lose_lock, one)] * 2
            if not one.is_stopped:
                found += self._actions_of(one)
        return found

    def _actions_of(self, one: Process) -> list[Callable[[], object]]:
        """What a process may do that is not stopped."""
        found: list[Callable[[], object]] = []
        if one.takeover is not None:
            found += [partial(self.take_over, one)] * 4
        elif one.tenure is None:
            found += [partial(self.look, one), *[partial(self.look_often, one)] * 3]
        else:
            found += [partial(self.submit, one)] * 2
            if one.is_working:
                found.append(partial(self.leave, one))
            if one.is_working and sum(each.is_alive for each in self.processes) < MOST_PROCESSES:
                found.append(partial(self.fork, one))
        found += [partial(self.finish, one)] * 2 if one.tasks else []
        found += [partial(self.land, one)] * 2 if one.delayed else []
        return found

    def look_often(self, process: Process) -> None:
        """Look for more than half a second, or until the takeover is decided."""
        for _ in range(12):
            if process.takeover is None:
                self.look(process)
                self.tick()

    # ------------------------------------------------------------------ what must hold

    def check(self) -> None:
        assert self.false_orphans == [], "F2: nothing of a living owner is lost"
        assert not self.freed_others, "F33: a goodbye frees only what the process owned itself"
        assert len(self.open_claims()) <= 1, "one owner at a time"
        for task_id, task in self.tasks.items():
            assert len(task.ends) <= 1, f"F32: {task_id} has ended twice: {task.ends}"
            owner = self.owners[task.epoch].process.identity.instance
            assert not set(task.ends) - {"lost", owner}, f"{task_id} was ended by another than its owner"

    def check_in_the_end(self) -> None:
        """When every owner is dead, the next process finds all orphans, within a second of looking."""
        for process in self.processes:
            if process.parent is None and process.is_alive:
                self.kill(process)
        heir = self.start(reuse_pid=True)
        began = self.now
        while heir.tenure is None:
            assert self.now - began < 1.0, "F1, F29: the orphans of a dead owner are found within a second"
            self.look(heir)
            if heir.takeover is not None:
                self.take_over(heir)
            self.tick()
        assert all(task.ends for task in self.tasks.values())
        self.check()
