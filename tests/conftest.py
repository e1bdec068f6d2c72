"""What every test is held to: it ends with no thread and no asyncio task of its own left running.

Also the one way to ask for a program from the system's packages. Knows nothing of qorzen_obs.
"""

import asyncio
import gc
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

GRACE_SECONDS = 60.0  #: how long what a test stopped may take to be gone

# The timeout of a test bounds it; a busy machine must not fail a property for one slow example.
hypothesis.settings.register_profile(
    "unhurried",
    hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin each worker's share with what takes long, so that at the end none is left alone with it.

    pytest-xdist gives each worker one run of tests that stand side by side. Tests of a module stay together, since they
    share fixtures.
    """
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    items.clear()
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    for left in range(workers, 0, -1):
        for tests in (slow, quick):
            share = tests[: len(tests) // left]
            del tests[: len(share)]
            items += share


def pytest_collection_finish() -> None:
    """Keep the collector of cycles from looking at thousands of collected tests again and again."""
    gc.collect()
    gc.freeze()


def require(command: str, install_hint: str) -> str:
    """The path of a program; without it the test is skipped, or fails where CI is set.

    The hint is the command that brings it, such as `apt-get install prometheus`.
    """
    if path := shutil.which(command):
        return path
    message = f"{command} is missing: {install_hint}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def _lingering_threads(before: set[threading.Thread], grace_seconds: float) -> list[threading.Thread]:
    """The threads started since that outlive the grace and should not: ours, and those that block an exit."""
    deadline = time.monotonic() + grace_seconds
    ours = [
        t for t in threading.enumerate() if t not in before and (not t.daemon or t.name.startswith("qorzen-"))
    ]
    for thread in ours:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread for thread in ours if thread.is_alive()]


async def _lingering_tasks(grace_seconds: float) -> set[asyncio.Task[object]]:
    """The tasks of this loop, other than the caller's, that outlive the grace."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return (await asyncio.wait(others, timeout=grace_seconds))[1] if others else set()


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what `serve` and `demo` store by default out of the user's state folder, also in programs that tests run."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Fail a test whose threads outlive it. Set up first, so it looks after the loop has been closed."""
    before = set(threading.enumerate())
    yield
    if lingering := _lingering_threads(before, GRACE_SECONDS):
        pytest.fail(f"the test left threads running: {', '.join(t.name for t in lingering)}")


@pytest.fixture(autouse=True)
def no_asyncio_task_is_left(no_thread_is_left: None, request: pytest.FixtureRequest) -> None:
    """Fail an async test whose tasks outlive it and its fixtures. A test without a loop gets none."""
    if request.node.get_closest_marker("asyncio"):
        request.getfixturevalue("_tasks_end_with_the_test")


@pytest.fixture
async def _tasks_end_with_the_test() -> AsyncIterator[None]:
    yield
    if lingering := await _lingering_tasks(GRACE_SECONDS):
        pytest.fail(f"the test left asyncio tasks running: {', '.join(map(repr, lingering))}")
