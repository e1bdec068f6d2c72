"""What is renewed in a forked child (F24)."""

from __future__ import annotations

import gc
import os
import threading
import weakref

import pytest

from qorzen_obs.telemetry.forks import ForkSafeLock, call_in_child

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def test_f24_a_lock_that_another_thread_holds_is_free_in_the_child() -> None:
    owner, held, done = ForkSafeLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with owner.lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if owner.lock.acquire(blocking=False) else 1)
    _, status = os.waitpid(child, 0)
    assert not owner.lock.acquire(blocking=False), "in the parent nothing has changed"
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


def test_what_waits_for_a_fork_is_not_kept_alive() -> None:
    class Owner:
        def renew(self) -> None:
            """Do nothing."""

    owner = Owner()
    call_in_child(owner.renew)
    alive = weakref.ref(owner)
    del owner
    gc.collect()
    assert alive() is None
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
