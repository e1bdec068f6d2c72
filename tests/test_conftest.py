"""The watch over the tests can itself fail: leaks are reported, a missing program is not passed over."""

import pytest

from tests import conftest

pytest_plugins = ["pytester"]

# What leaks here ends by itself, after the inner run has looked and before the outer one does.
pytestmark = pytest.mark.slow  # a program of its own for each test

LEAKS_A_THREAD = """
    import threading
    def test_leak():
        threading.Thread(target=threading.Event().wait, args=(0.3,), name={name!r}, daemon={daemon}).start()
"""
LEAKS_A_TASK = """
    import asyncio
    async def test_leak():
        test_leak.task = asyncio.create_task(asyncio.Event().wait(), name="forgotten")
"""
ENDS_WHAT_IT_STARTS = """
    import asyncio, threading
    async def test_clean():
        await asyncio.to_thread(int)
        asyncio.create_task(asyncio.sleep(0))
        threading.Thread(target=int).start()
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project of its own, watched by our conftest with a short grace."""
    monkeypatch.setattr(conftest, "GRACE_SECONDS", 0.05)
    names = "no_thread_is_left, no_asyncio_task_is_left, _tasks_end_with_the_test"
    pytester.makeconftest(f"from tests.conftest import {names}")
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    return pytester


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (LEAKS_A_THREAD.format(name="worker", daemon=False), "*left threads running: worker*"),
        (LEAKS_A_THREAD.format(name="qorzen-ops", daemon=True), "*left threads running: qorzen-ops*"),
        (LEAKS_A_TASK, "*left asyncio tasks running: *forgotten*"),
    ],
    ids=["a thread that blocks the exit", "a daemon thread of ours", "an asyncio task"],
)
def test_a_leak_fails_the_test(inner: pytest.Pytester, source: str, message: str) -> None:
    inner.makepyfile(source)
    result = inner.runpytest_inprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([message])


@pytest.mark.parametrize(
    "source",
    [ENDS_WHAT_IT_STARTS, LEAKS_A_THREAD.format(name="theirs", daemon=True)],
    ids=["clean", "foreign"],
)
def test_what_ends_or_is_not_ours_passes(inner: pytest.Pytester, source: str) -> None:
    inner.makepyfile(source)
    inner.runpytest_inprocess().assert_outcomes(passed=1)


def test_a_missing_program_skips_on_a_laptop_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install nothing"):
        conftest.require("no-such-program", "apt-get install nothing")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install nothing"):
        conftest.require("no-such-program", "apt-get install nothing")


def test_a_program_that_is_here_is_found() -> None:
    assert conftest.require("sh", "").endswith("/sh")
