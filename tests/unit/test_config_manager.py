"""The running settings: reading by key, checked changes, and who is told."""

import math
from typing import Any

import pytest

from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.errors import SettingsError
from qorzen_obs.settings import Settings, TaskSettings
from qorzen_obs.tasks import TaskCategory


class Heard:
    def __init__(self) -> None:
        self.changes: list[tuple[str, Any]] = []

    async def __call__(self, key: str, value: Any) -> None:
        self.changes.append((key, value))


async def test_a_value_is_read_by_its_key_and_a_table_as_a_dict() -> None:
    config = ConfigManager(Settings(tasks=TaskSettings(max_pending=5, default_timeout=math.inf)))
    assert await config.get("tasks.max_pending") == 5
    tasks = await config.get("tasks", {})
    assert (tasks["max_pending"], tasks["default_timeout"]) == (5, math.inf)
    assert await config.get("tasks.category_limits") == {}


@pytest.mark.parametrize("key", ["unknown", "tasks.unknown", "tasks.max_pending.deeper", "", "."])
async def test_an_unknown_key_gives_the_default(key: str) -> None:
    config = ConfigManager()
    assert await config.get(key) is None
    assert await config.get(key, 7) == 7


async def test_what_was_read_can_be_changed_without_changing_the_settings() -> None:
    config = ConfigManager()
    (await config.get("tasks"))["max_pending"] = 1
    assert await config.get("tasks.max_pending") == 10_000


async def test_a_change_is_checked_applied_and_told_to_whom_it_concerns() -> None:
    config, below, exact, other = ConfigManager(), Heard(), Heard(), Heard()
    await config.register_listener("tasks", below)
    await config.register_listener("tasks.max_pending", exact)
    await config.register_listener("server", other)
    await config.set("tasks.max_pending", 5)
    await config.set("tasks.category_limits.io", 2)
    assert config.settings.tasks.max_pending == 5
    assert config.settings.tasks.category_limits == {TaskCategory.IO: 2}
    assert below.changes == [("tasks.max_pending", 5), ("tasks.category_limits.io", 2)]
    assert exact.changes == [("tasks.max_pending", 5)]
    assert other.changes == []


async def test_a_whole_table_can_be_set() -> None:
    config, heard = ConfigManager(), Heard()
    await config.register_listener("tasks", heard)
    await config.set("tasks", {"max_pending": 5})
    assert config.settings.tasks == TaskSettings(max_pending=5)
    ((key, value),) = heard.changes
    assert (key, value["max_pending"], value["when_full"]) == ("tasks", 5, "refuse")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tasks.max_pending", 0),
        ("tasks.max_pending", "many"),
        ("tasks.unknown", 1),
        ("unknown", 1),
        ("unknown.deeper", 1),
        ("tasks.max_pending.deeper", 1),
        ("tasks", 7),
        ("", 1),
    ],
)
async def test_a_bad_change_is_refused_by_name_and_changes_and_tells_nothing(key: str, value: object) -> None:
    config, heard = ConfigManager(), Heard()
    await config.register_listener("tasks", heard)
    with pytest.raises(SettingsError):
        await config.set(key, value)
    assert config.settings == Settings()
    assert heard.changes == []


async def test_who_has_unregistered_hears_nothing_more() -> None:
    config, heard = ConfigManager(), Heard()
    await config.register_listener("tasks", heard)
    await config.unregister_listener("tasks", heard)
    await config.unregister_listener("tasks", heard)
    await config.set("tasks.max_pending", 5)
    assert heard.changes == []


async def test_it_starts_and_stops_as_every_manager_does() -> None:
    config, heard = ConfigManager(), Heard()
    assert config.status() == {"name": "config_manager", "initialized": False, "healthy": False}
    await config.initialize()
    assert (config.initialized, config.healthy) == (True, True)
    await config.register_listener("tasks", heard)
    await config.shutdown()
    await config.shutdown()
    assert not config.initialized
    await config.set("tasks.max_pending", 5)
    assert heard.changes == []
