"""What users may rely on of a TaskManager is short and written down here; everything else is a part's own matter."""

from __future__ import annotations

import inspect
import re

from qorzen_obs import TaskManager
from qorzen_obs.core import task_manager
from qorzen_obs.core.base import QorzenManager

OF_EVERY_MANAGER = {"name", "initialized", "healthy", "initialize", "shutdown", "status"}
SUBMITTING = {
    "submit_task",
    "submit_async_task",
    "run",
    "start",
    "start_all",
    "submit_once",
    "rerun",
    "from_thread",
    "executor",
}
CONTROL = {"cancel_task", "wait_for_task", "pause", "resume"}
LOOKING = {"get_task_info", "find", "get_tasks", "why_pending", "paused", "looks"}
PARTS = {"state", "loop", "health", "registry", "ops_url", "observe", "stop_observing"}
PUBLIC = OF_EVERY_MANAGER | SUBMITTING | CONTROL | LOOKING | PARTS


def public_names() -> set[str]:
    """The names without an underscore, of the class and those that its constructor sets."""
    set_there = re.findall(r"self\.([a-z]\w*)(?:: \w+)? = ", inspect.getsource(TaskManager.__init__))
    return {name for name in (*dir(TaskManager), *set_there) if not name.startswith("_")}


def test_the_public_surface_is_what_is_written_down() -> None:
    assert public_names() == PUBLIC


def test_it_has_all_that_every_manager_has() -> None:
    assert {name for name in dir(QorzenManager) if not name.startswith("_")} == OF_EVERY_MANAGER


def test_every_public_method_says_what_it_does() -> None:
    members = {name: vars(TaskManager).get(name) for name in PUBLIC - OF_EVERY_MANAGER}
    undocumented = [name for name, member in members.items() if member and not inspect.getdoc(member)]
    assert undocumented == []


def test_submit_async_task_takes_what_submit_task_takes() -> None:
    """The specification lists the parameters of both."""
    sync, coroutine = (
        inspect.signature(method).parameters
        for method in (TaskManager.submit_task, TaskManager.submit_async_task)
    )
    assert [(one.name, one.kind, one.default) for one in sync.values()] == [
        (one.name, one.kind, one.default) for one in coroutine.values()
    ]
    assert (sync["category"].default, sync["priority"].default) == (None, None)


def test_the_specifications_module_has_its_type_variable() -> None:
    assert task_manager.T.__name__ == "T"
