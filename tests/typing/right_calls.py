"""Calls as users write them. Both type checkers must take each, and know what it gives.

`assert_type` fails where the type is another one. The module is only read: nothing here runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, assert_type

from qorzen_obs import (
    Retry,
    TaskCategory,
    TaskHandle,
    TaskInfo,
    TaskManager,
    TaskPriority,
    current_task,
    task,
    track,
    with_options,
)


class Image:
    def __init__(self, path: str) -> None:
        self.path = path

    def resized(self, width: int) -> Image:
        return Image(f"{self.path}@{width}")

    async def saved(self) -> int:
        return len(self.path)


def resize(path: str, width: int = 80, *, sharpen: bool = False) -> Image:
    return Image(path)


async def fetch(url: str, retries: int = 3, *, follow: bool = True) -> bytes:
    return url.encode()


@task(name="report", category="background", priority="low", engine="thread", retry=Retry(max_attempts=3))
def report(day: int) -> str:
    for _ in track(range(day)):
        current_task().progress(50.0)
    return str(day)


@task
async def refresh() -> None: ...


def with_reporter(path: str, progress_reporter: Callable[[float, str], None] | None = None) -> int:
    return len(path)


async def run(tasks: TaskManager) -> None:
    assert_type(await tasks.run(resize, "a.png"), Image)
    assert_type(await tasks.run(resize, "a.png", 40, sharpen=True), Image)
    assert_type(await tasks.run(resize, "a.png", category="io", priority=100, timeout=5), Image)
    assert_type(await tasks.run(fetch, "http://a"), bytes)
    assert_type(await tasks.run(fetch, "http://a", follow=False), bytes)
    assert_type(await tasks.run(fetch, "http://a", 5, name="fetch a", metadata={"a": [1]}), bytes)
    assert_type(await tasks.run(report, 3, priority=TaskPriority.HIGH, category=TaskCategory.USER), str)
    assert_type(await tasks.run(with_reporter, "a.png", name="counted"), int)
    assert_type(await tasks.run(Image, "a.png"), Image)
    assert_type(await tasks.run(Image("a").resized, 3), Image)
    assert_type(await tasks.run(Image("a").saved, plugin_id="p", cancellable=False), int)
    assert_type(await tasks.run(partial(resize, "a.png"), timeout=5), Image)
    assert_type(await tasks.run(partial(fetch, "http://a"), timeout=5), bytes)
    assert_type(await tasks.run(lambda: 3, name="three"), int)
    await tasks.run(refresh, timeout=None)
    await tasks.run(print, "a", 3, "b", name="print")


async def no_cast_is_needed(tasks: TaskManager) -> bytes:
    return await tasks.run(fetch, "http://a")


async def nor_with_options(tasks: TaskManager) -> bytes:
    return await tasks.run(fetch, "http://a", timeout=5)


async def keyword_arguments_with_options(tasks: TaskManager) -> None:
    image = await tasks.run(with_options(resize, timeout=5, engine="process"), "a.png", sharpen=True)
    assert_type(image, Image)
    assert_type(await tasks.run(with_options(fetch, delay=5), "http://a", follow=False), bytes)
    assert_type(await tasks.run(partial(resize, sharpen=True), "a.png", timeout=5), Image)


async def submit(tasks: TaskManager) -> None:
    task_id = await tasks.submit_task(resize, "a.png", sharpen=True)
    assert_type(task_id, str)
    await tasks.submit_task(fetch, "http://a", category="io")
    await tasks.submit_async_task(fetch, "http://a", follow=False)
    await tasks.submit_async_task(fetch, "http://a", 3, priority="critical")
    await tasks.get_tasks(["failed", "cancelled"], "io", limit=5)
    await tasks.pause("background")


async def start(tasks: TaskManager) -> None:
    handle = await tasks.start(resize, "a.png", sharpen=True)
    handle = assert_type(handle, TaskHandle[Image])
    assert_type(await handle, Image)
    assert_type(handle.info(), TaskInfo[Image | None])
    assert_type(handle.info().result, Image | None)
    assert_type(handle.cancel(), bool)
    assert_type(handle.progress.percent, float)
    assert_type(await (await tasks.start(fetch, "http://a", timeout=5)), bytes)
    await all_of([handle, await tasks.start(refresh)])


async def all_of(handles: list[TaskHandle[object]]) -> list[object]:
    return [await handle for handle in handles]


async def start_all(tasks: TaskManager, paths: list[str]) -> list[Image]:
    handles = await tasks.start_all([partial(resize, path, sharpen=True) for path in paths], timeout=5)
    assert_type(handles, list[TaskHandle[Image]])
    pages = await tasks.start_all(partial(fetch, path) for path in paths)
    assert_type(pages, list[TaskHandle[bytes]])
    assert_type(await tasks.start_all([refresh, refresh], category="io"), list[TaskHandle[None]])
    own = await tasks.start_all([partial(with_options(report, delay=5), 3)])
    assert_type(own, list[TaskHandle[str]])
    return [await handle for handle in handles]


def from_thread(tasks: TaskManager) -> None:
    assert_type(tasks.from_thread.run(resize, "a.png", sharpen=True), Image)
    assert_type(tasks.from_thread.run(fetch, "http://a", timeout=5), bytes)
    assert_type(tasks.from_thread.submit(fetch, "http://a", name="fetch"), str)


async def inside_a_task() -> Image:
    manager = current_task().manager
    assert_type(manager, TaskManager)
    return await manager.run(resize, "a.png")


async def what_no_checker_can_know(tasks: TaskManager, func: Callable[..., int], anything: Any) -> None:
    assert_type(await tasks.run(func, 1, "two", three=3, timeout=5), int)
    await tasks.run(anything, 1, timeout=5)
    info = await tasks.wait_for_task("id")
    assert_type(info, TaskInfo[Any])
    assert_type(info.result, Any)
