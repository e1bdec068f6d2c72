"""CPython's own tests of executors, against those of the manager: what they ask of any executor.

They come with Python 3.12 and later, where its tests are installed (Debian: libpython3-testsuite). What they ask of the
private parts of CPython's pools, such as their threads, has no meaning here. test_executor.py has cases of our own.
"""

import unittest
from concurrent import futures
from contextlib import ExitStack
from typing import Any

import pytest

from qorzen_obs.tasks import EngineOrName
from tests.services.threaded_manager import threaded_manager
from tests.support import settings

NEEDS = "CPython's tests are not installed"
executor = pytest.importorskip("test.test_concurrent_futures.executor", reason=NEEDS)
shutdown = pytest.importorskip("test.test_concurrent_futures.test_shutdown", reason=NEEDS)
waits = pytest.importorskip("test.test_concurrent_futures.test_wait", reason=NEEDS)
completed = pytest.importorskip("test.test_concurrent_futures.test_as_completed", reason=NEEDS)
support = pytest.importorskip("test.support", reason=NEEDS)
support.use_resources = []  # as their own runner: those that take several seconds are left out
thread_pool = pytest.importorskip("test.test_concurrent_futures.test_thread_pool", reason=NEEDS)

EVERY: Any = (
    executor.ExecutorTest,
    shutdown.ExecutorShutdownTest,
    waits.WaitTests,
    completed.AsCompletedTests,
)
NOT_APPLICABLE = [
    "test_max_workers_negative",  # the slots are the engine's
    "test_interpreter_shutdown",  # these four start a program with a pool of CPython's; ours: test_executor.py
    "test_submit_after_interpreter_shutdown",
    "test_hang_gh83386",
    "test_cancel_futures_wait_false",
]


class OfTheManager:
    """What CPython's tests expect of a test case."""

    engine: EngineOrName = "thread"
    worker_count = 5

    def setUp(self) -> None:
        self._ends = ExitStack()
        tasks = self._ends.enter_context(threaded_manager(settings(worker_threads=self.worker_count)))
        self.executor_type: Any = lambda *_, **__: tasks.executor(engine=self.engine)
        self.executor: Any = self.executor_type()

    def tearDown(self) -> None:
        self.executor.shutdown()
        self._ends.close()


class OnProcesses(OfTheManager):
    engine = "process"


def applicable(*tests: Any) -> Any:
    """A class with those of the tests that say something about any executor."""
    return type("Applicable", tests, dict.fromkeys(NOT_APPLICABLE))


class TestThreads(OfTheManager, applicable(*EVERY), unittest.TestCase):  # type: ignore[misc]
    test_map_submits_without_iteration = thread_pool.ThreadPoolExecutorTest.test_map_submits_without_iteration
    test_pending_calls_race = waits.ThreadPoolWaitTests.test_pending_calls_race

    def test_it_is_a_thread_pool(self) -> None:
        assert isinstance(self.executor, futures.ThreadPoolExecutor)


class TestProcesses(OnProcesses, applicable(*EVERY), unittest.TestCase):  # type: ignore[misc]
    pass
