"""Mistakes that both type checkers must find.

A comment says of the line below it which codes mypy and pyright must report, such as
`Wrong: mypy arg-type, call-arg; pyright reportCallIssue`. An error of any other line fails the test. The module is only
read: nothing here runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qorzen_obs import TaskManager, current_task, task, with_options


def resize(path: str, width: int = 80, *, sharpen: bool = False) -> int:
    return width


async def fetch(url: str, *, follow: bool = True) -> bytes:
    return url.encode()


def with_reporter(path: str, progress_reporter: Callable[[float, str], None]) -> int:
    return len(path)


async def save(value: object) -> None: ...


async def arguments(tasks: TaskManager) -> None:
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(resize)
    # Wrong: mypy arg-type; pyright reportArgumentType, reportCallIssue
    await tasks.run(resize, 3)
    # Wrong: mypy arg-type, call-arg; pyright reportArgumentType, reportCallIssue
    await tasks.run(resize, "a.png", "wide")
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(resize, "a.png", 3, True)
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(resize, "a.png", sharpn=True)
    # Wrong: mypy arg-type; pyright reportArgumentType, reportCallIssue
    await tasks.run(resize, "a.png", sharpen="yes")
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(fetch)
    # Wrong: mypy arg-type; pyright reportArgumentType, reportCallIssue
    await tasks.run(fetch, b"http://a")
    # Wrong: mypy call-overload; pyright reportArgumentType, reportCallIssue
    await tasks.run(fetch("http://a"))
    # Wrong: mypy call-overload; pyright reportArgumentType, reportCallIssue
    await tasks.run("resize", "a.png")
    # Wrong: mypy arg-type, call-arg; pyright reportArgumentType
    await tasks.run(partial(resize, 3), timeout=5)


async def arguments_with_options(tasks: TaskManager) -> None:
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(resize, timeout=5)
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(resize, 3, timeout=5)
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(fetch, "http://a", "b", name="fetch")


async def keyword_arguments_with_options(tasks: TaskManager) -> None:
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(resize, "a.png", sharpen=True, timeout=5)
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(with_options(resize, timeout=5), "a.png", sharpn=True)
    # Wrong: mypy arg-type; pyright reportArgumentType, reportCallIssue
    await tasks.run(with_options(resize, timeout=5), 3)


async def options(tasks: TaskManager) -> None:
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(resize, "a.png", categry="io")
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(resize, "a.png", category="oi")
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(resize, "a.png", priority="hihg")
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(resize, "a.png", priority=99)
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(resize, "a.png", timeout="5")
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await tasks.run(resize, "a.png", engine="thread")
    # Wrong: mypy arg-type; pyright reportArgumentType
    with_options(resize, engine="treads")
    # Wrong: mypy arg-type; pyright reportArgumentType
    with_options(resize, engine="external")
    # Wrong: mypy arg-type; pyright reportArgumentType
    with_options(resize, priority="hihg")
    # Wrong: mypy call-arg; pyright reportCallIssue
    with_options(resize, categry="io")
    # Wrong: mypy arg-type; pyright reportArgumentType
    await tasks.pause("oi")
    # Wrong: mypy arg-type; pyright reportArgumentType
    await tasks.get_tasks("faild")


# Wrong: mypy call-overload, untyped-decorator; pyright reportArgumentType
@task(engine="treads")
def bad_engine() -> None: ...


# Wrong: mypy call-overload, untyped-decorator; pyright reportArgumentType
@task(priority="hihg")
def bad_priority() -> None: ...


async def results(tasks: TaskManager) -> str:
    handle = await tasks.start(fetch, "http://a")
    # Wrong: mypy attr-defined; pyright reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType
    await save((await handle).width)
    # Wrong: mypy union-attr; pyright reportOptionalMemberAccess
    await save(handle.info().result.decode())
    # Wrong: mypy arg-type, call-arg; pyright reportAssignmentType
    number: int = await tasks.run(fetch, "http://a", timeout=5)
    await save(number)
    # Wrong: mypy arg-type; pyright reportReturnType
    return await tasks.run(resize, "a.png")


async def other_ways_to_submit(tasks: TaskManager) -> None:
    # Wrong: mypy arg-type; pyright reportArgumentType, reportCallIssue
    await tasks.submit_task(resize, 3)
    # Wrong: mypy call-arg; pyright reportCallIssue
    await tasks.submit_task(resize, "a.png", priority="hihg")
    # Wrong: mypy arg-type; pyright reportArgumentType, reportCallIssue
    await tasks.submit_async_task(resize, "a.png")
    # Wrong: mypy arg-type; pyright reportArgumentType, reportCallIssue
    tasks.from_thread.run(resize, 3)
    # Wrong: mypy call-arg; pyright reportCallIssue
    tasks.from_thread.submit(fetch, "http://a", category="oi")
    # Wrong: mypy arg-type, call-arg; pyright reportCallIssue
    await (await tasks.start(resize, "a.png", timeuot=5))
    # Wrong: mypy arg-type; pyright reportArgumentType, reportCallIssue
    await tasks.start_all([resize])
    # Wrong: mypy arg-type; pyright reportArgumentType
    await tasks.start_all([partial(resize, 3)])
    # Wrong: mypy call-overload; pyright reportArgumentType, reportCallIssue
    await tasks.start_all([partial(resize, "a.png")], category="oi")
    # Wrong: mypy arg-type; pyright reportArgumentType, reportCallIssue
    await current_task().manager.run(resize, 3)
    # The manager hands a reporter over, which a checker cannot know: give the parameter a default.
    # Wrong: mypy arg-type; pyright reportCallIssue
    await tasks.run(with_reporter, "a.png")
