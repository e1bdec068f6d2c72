"""Who owns a durable history: facts in, decisions out.

Ownership needs three facts: a lock that the kernel drops with its process, proof that the recorded owner is dead, and
an epoch that fences its late writes. This module decides from facts that others find out. It reads no clock, no file
and no process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

#: How long a contender must find the lock free where it cannot tell whether the recorded process lives.
FREE_SECONDS: Final = 0.5
#: How often it must find it free in that time. On a busy machine the time alone proves little.
FREE_LOOKS: Final = 5
#: The owner takes its lock again this often: a process drops a POSIX lock when it closes any descriptor of the file.
RENEWAL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A process that owns a history, or owned it."""

    instance: str  #: of one manager; unique
    service: str
    version: str  #: of the service
    boot_id: str  #: of the machine's boot; empty where the system does not tell
    pid_namespace: str  #: in which the pid counts; empty where the system does not tell
    pid: int
    process_start: int | None  #: in clock ticks since the boot; None where the system does not tell


@dataclass(frozen=True, slots=True)
class Claim:
    """What an owner has written about itself and has not ended."""

    epoch: int  #: rises with each owner
    identity: Identity
    started_at: float  #: Unix seconds
    last_seen_at: float  #: Unix seconds


class Life(Enum):
    """What a contender knows about the process behind a claim."""

    ALIVE = "alive"  #: it exists, running or stopped
    DEAD = "dead"  #: it has ended, and the system proves it
    UNKNOWN = "unknown"  #: it belongs to another boot or pid namespace, where its pid proves nothing


def life_of(owner: Identity, here: Identity, start_of_pid: int | None, working_here: frozenset[str]) -> Life:
    """Return what is known of the process behind a claim.

    Args:
        owner: the claim's.
        here: the process that asks.
        start_of_pid: when the process that has the owner's pid here started; None if there is none.
        working_here: the instances of the asking process that own a history now.
    """
    if not (owner.boot_id and owner.pid_namespace) or owner.process_start is None:
        return Life.UNKNOWN
    if (owner.boot_id, owner.pid_namespace) != (here.boot_id, here.pid_namespace):
        return Life.UNKNOWN
    if start_of_pid != owner.process_start:
        return Life.DEAD
    if owner.pid == here.pid and owner.instance not in working_here:
        return Life.DEAD  # an earlier manager of the asking process, whose goodbye could not be written
    return Life.ALIVE


@dataclass(frozen=True, slots=True)
class Look:
    """What a contender sees at one moment."""

    at: float  #: monotonic
    holds_lock: bool  #: it got the lock, and holds it until it has decided
    claims: Mapping[int, Life]  #: the claims that have not ended, by epoch


@dataclass(frozen=True, slots=True)
class Takeover:
    """The decision to become the owner. It is valid only while exactly these claims have not ended."""

    epochs: frozenset[int]  #: of the dead owners


class Contender:
    """Decides when a process that wants to own a history may take it. Each look comes later than the one before."""

    def __init__(self) -> None:
        self._free_since: float | None = None
        self._looks = 0  # that found the lock free and the same claims, one after the other
        self._claims: frozenset[int] = frozenset()
        self._looked_at = 0.0

    def decide(self, look: Look) -> Takeover | None:
        """Return the takeover if it is allowed now. Otherwise give the lock back at once, so that its owner gets it."""
        if not look.holds_lock or Life.ALIVE in look.claims.values():
            self._free_since = None
            return None
        claims = frozenset(look.claims)
        is_gap = look.at - self._looked_at > RENEWAL_SECONDS  # the owner may have had it in between
        if self._free_since is None or is_gap or claims != self._claims:
            self._free_since, self._looks, self._claims = look.at, 0, claims
        self._looked_at = look.at
        self._looks += 1
        is_left = look.at - self._free_since >= FREE_SECONDS and self._looks >= FREE_LOOKS
        if Life.UNKNOWN in look.claims.values() and not is_left:
            return None
        return Takeover(claims)


class Tenure:
    """What an owner may do. It ends for ever when a write finds that another process has replaced it."""

    def __init__(self, epoch: int, pid: int) -> None:
        self.epoch = epoch
        self._pid = pid
        self.is_replaced = False  #: a write found no open claim of this epoch

    def may_write(self, pid: int) -> bool:
        """Return whether the process with this pid may write: never a forked child, and nobody once it is replaced."""
        return pid == self._pid and not self.is_replaced

    def fenced(self, claims_found: int) -> bool:
        """Note how many open claims of its epoch a write has found; return whether it may commit."""
        self.is_replaced = self.is_replaced or claims_found != 1
        return not self.is_replaced
