"""The program between the service and one worker process. It makes sure that nothing survives either of them.

Run as a script, in a session of its own. It forks the worker before it could have a thread, adopts whatever
the worker's children leave behind (PR_SET_CHILD_SUBREAPER), and waits for three things: the worker's death,
the service's death, or a byte on the lifeline. Then it kills and reaps everything below it, reports how the
worker died, and ends. It imports nothing of the package and as little else as possible, since it is started
for every worker.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import sys
import time
from contextlib import suppress
from typing import Final

#: The guardian's report: the worker's wait status, and how often its memory cgroup has killed meanwhile.
REPORT: Final = struct.Struct("<ii")
TERMINATE: Final = b"T"  #: on the lifeline: send SIGTERM to the worker. The lifeline's end means: kill.
WRITE_STACK: Final = b"S"  #: on the lifeline: make the worker write its stack, as soon as it runs Python
WRITE_STACK_AT_ONCE: Final = b"N"  #: the same, whatever the worker is doing


def _real_time_signal(number: int, instead: str) -> int:
    """Return a real-time signal, which programs do not use otherwise; another signal if there are none.

    Windows has neither these signals nor worker processes: only the import must succeed there.
    """
    first: int | None = getattr(signal, "SIGRTMIN", None)
    return getattr(signal, instead, 0) if first is None else first + number


#: The worker writes its stack on these signals, as soon as it runs Python and at once.
STACK_SIGNAL: Final = _real_time_signal(5, "SIGUSR1")
STACK_SIGNAL_AT_ONCE: Final = _real_time_signal(6, "SIGUSR2")

#: How long multiprocessing's resource tracker has to clean up. The service kills the group after a second.
_TRACKER_SECONDS: Final = 0.7
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_IGNORED: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
# The folder of the package. Without pathlib, which takes 10 ms.
_ROOT: Final = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))  # noqa: PTH100, PTH118, PTH120


def main(arguments: list[str]) -> None:
    """Be the guardian of a new worker, or with two arguments that worker itself, without a guardian."""
    channel, stacks = int(arguments[0]), int(arguments[1])
    if len(arguments) == 2:
        become_worker(channel, stacks)
        return
    lifeline, service = int(arguments[2]), int(arguments[3])
    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    import ctypes  # noqa: PLC0415  # an interpreter without it has no guardians

    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        service_fd = os.pidfd_open(service)
    except ProcessLookupError:
        return
    guardian = os.getpid()
    worker = os.fork()
    if worker == 0:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guardian:  # it died before the line above
            os._exit(1)
        os.close(lifeline)
        os.close(service_fd)
        become_worker(channel, stacks)
        return
    os.close(channel)
    os.close(stacks)
    _leave_stdio()
    kills = oom_kills(worker)
    if os.getppid() == service:  # else the pidfd may be another's that took its number
        watch(worker, lifeline, service_fd)
    status, more_kills = end(worker)
    with suppress(OSError):  # the service is gone
        os.write(lifeline, REPORT.pack(status, max(0, more_kills - kills)))
    os._exit(0)  # the service waits for this end: skipping the interpreter's finalization saves 5 ms


_SIGNALS: Final = {
    TERMINATE: signal.SIGTERM,
    WRITE_STACK: STACK_SIGNAL,
    WRITE_STACK_AT_ONCE: STACK_SIGNAL_AT_ONCE,
}


def watch(worker: int, lifeline: int, service_fd: int) -> None:
    """Wait until the worker has died or should die."""

    def reap_orphans(*_: object) -> None:
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if found.si_pid == worker:
                return
            os.waitpid(found.si_pid, 0)

    signal.signal(signal.SIGCHLD, reap_orphans)
    poll = select.poll()
    worker_fd = os.pidfd_open(worker)
    for descriptor in (worker_fd, service_fd, lifeline):
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if worker_fd in ready or service_fd in ready:
            return
        try:
            word = os.read(lifeline, 1)
        except OSError:
            return
        if word not in _SIGNALS:
            return
        os.kill(worker, _SIGNALS[word])


def end(worker: int) -> tuple[int, int]:
    """Kill the worker and all below it; return its wait status and its cgroup's count of kills."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.kill(worker, signal.SIGKILL)  # not yet reaped, so the number is still its own
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    kills = oom_kills(worker)
    status = os.waitpid(worker, 0)[1]
    children = f"/proc/self/task/{os.getpid()}/children"
    until = time.monotonic() + _TRACKER_SECONDS
    while left := [int(child) for child in _read(children).split()]:
        doomed = left if time.monotonic() >= until else [child for child in left if not _is_tracker(child)]
        for child in doomed:
            os.kill(child, signal.SIGKILL)
        if doomed:
            os.waitpid(-1, 0)  # what it leaves behind becomes our child: look again
        else:
            _wait_for_one(left, until)
    return status, kills


def _is_tracker(child: int) -> bool:
    """Return whether the process unlinks multiprocessing's shared memory and semaphores of dead processes.

    That process does so and ends once nobody holds the other end of its pipe.
    """
    return "multiprocessing.resource_tracker" in _read(f"/proc/{child}/cmdline")


def _wait_for_one(children: list[int], until: float) -> None:
    poll = select.poll()
    descriptors = [os.pidfd_open(child) for child in children]
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    if poll.poll(max(0.0, until - time.monotonic()) * 1000):
        os.waitpid(-1, 0)
    for descriptor in descriptors:
        os.close(descriptor)


def oom_kills(process: int, *, proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> int:
    """Return the number of out-of-memory kills in the cgroup of `process`; 0 if unknown."""
    for line in _read(f"{proc}/{process}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        path = path.rstrip("/")
        if controllers == "":
            events = f"{cgroups}{path}/memory.events"  # version 2
        elif "memory" in controllers.split(","):
            events = f"{cgroups}/memory{path}/memory.oom_control"  # version 1
        else:
            continue
        for event in _read(events).splitlines():
            name, _, count = event.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def become_worker(channel: int, stacks: int) -> None:
    """Undo what the worker should not inherit and take calls until the service closes the channel."""
    for name in (*_IGNORED, "SIGCHLD"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    sys.path.insert(0, _ROOT)
    from qorzen_obs.engines.processes.worker import serve  # noqa: PLC0415  # not in the guardian

    serve(channel, stacks, STACK_SIGNAL, STACK_SIGNAL_AT_ONCE)


def _leave_stdio() -> None:
    """Release the worker's output, so that its end is seen."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123  # as above
            return file.read()
    except OSError:
        return ""


if __name__ == "__main__":
    main(sys.argv[1:])
