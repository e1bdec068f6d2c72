"""Settings: defaults, a file, the environment over it, and errors that name the key."""

import contextlib
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qorzen_obs
from qorzen_obs import open_task_manager
from qorzen_obs.errors import SettingsError
from qorzen_obs.settings import (
    ENVIRONMENT_PREFIX,
    ServerSettings,
    Settings,
    TaskSettings,
    TelemetrySettings,
    convert,
    load_settings,
)
from qorzen_obs.tasks import TaskCategory


def test_the_defaults_are_as_documented() -> None:
    settings = Settings()
    assert msgspec.to_builtins(settings.tasks) == {
        "max_concurrent_tasks": 100,
        "keep_completed_tasks": 10_000,
        "keep_completed_bytes": 16 * 2**20,
        "default_timeout": 300.0,
        "max_pending": 10_000,
        "when_full": "refuse",
        "category_limits": {},
        "ageing_seconds": 300.0,
        "cancel_grace_seconds": 1.0,
        "max_abandoned": 16,
        "shutdown_grace_seconds": 30.0,
        "keep_value_bytes": 65_536,
        "keep_arguments": True,
    }
    assert (settings.engines.io_threads, settings.engines.worker_threads >= 5) == (32, True)
    assert (settings.server.host, settings.server.port, settings.server.token) == ("127.0.0.1", 8080, None)
    assert settings.health.loop_blocked_seconds == 30.0
    assert settings.history.url == "memory"
    assert settings.history.path is None


def test_nothing_is_read_that_was_not_handed_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "qorzen.toml").write_text("[tasks]\nmax_pending = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QORZEN_TASKS__MAX_PENDING", "2")
    assert load_settings() == Settings()


def test_the_environment_goes_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "qorzen.toml"
    file.write_text(
        "[tasks]\nmax_pending = 5\nkeep_completed_tasks = 6\ndefault_timeout = inf\n"
        "[tasks.category_limits]\nio = 3\n[server]\nallowed_hosts = ['a.example']\n"
    )
    environment = {
        "QORZEN_TASKS__MAX_PENDING": "7",
        "QORZEN_TASKS__CATEGORY_LIMITS__UI": "1",
        "QORZEN_SERVER__PORT": "0",
        "QORZEN_TASKS__WHEN_FULL": "wait",
        "HOME": "/nowhere",
        "QORZEN_URL": "http://of.the.commands",
    }
    settings = load_settings(file, environment)
    assert (settings.tasks.max_pending, settings.tasks.keep_completed_tasks) == (7, 6)
    assert settings.tasks.default_timeout == math.inf
    assert settings.tasks.category_limits == {TaskCategory.IO: 3, TaskCategory.UI: 1}
    assert (settings.tasks.when_full, settings.server.port) == ("wait", 0)
    assert settings.server.allowed_hosts == ("a.example",)


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("a.example", ("a.example",)),
        ("a.example,b.example", ("a.example", "b.example")),
        (" a.example , b.example, ", ("a.example", "b.example")),
        ('["a.example", "b.example"]', ("a.example", "b.example")),
        (' ["a,b"]', ("a,b",)),
        ("[]", ()),
        ("", ()),
    ],
)
@pytest.mark.parametrize(
    "key", ["server.allowed_hosts", "telemetry.redact_keys", "telemetry.redact_patterns"]
)
def test_a_list_from_the_environment_has_commas_or_is_json(
    tmp_path: Path, key: str, text: str, entries: tuple[str, ...]
) -> None:
    section, name = key.split(".")
    file = tmp_path / "qorzen.toml"
    file.write_text(f"[{section}]\n{name} = ['of the file']\n")
    settings = load_settings(file, {f"QORZEN_{section}__{name}".upper(): text})
    assert getattr(getattr(settings, section), name) == entries


def test_a_table_from_the_environment_is_json_or_a_variable_for_each_key(tmp_path: Path) -> None:
    file = tmp_path / "qorzen.toml"
    file.write_text("[tasks.category_limits]\nui = 1\n")
    variable = "QORZEN_TASKS__CATEGORY_LIMITS"
    for environment, limits in (
        ({variable: '{"io": 4, "core": "2"}'}, {TaskCategory.IO: 4, TaskCategory.CORE: 2}),
        ({variable: '{"io": 4}', f"{variable}__CORE": "2"}, {TaskCategory.IO: 4, TaskCategory.CORE: 2}),
        ({f"{variable}__IO": "4"}, {TaskCategory.UI: 1, TaskCategory.IO: 4}),
        ({variable: "{}"}, {}),
        ({variable: " "}, {}),
    ):
        assert load_settings(file, environment).tasks.category_limits == limits


@pytest.mark.parametrize(
    ("variable", "value", "key", "forms"),
    [
        ("SERVER__ALLOWED_HOSTS", '["a.example"', "server.allowed_hosts", ["(a,b)", '["a", "b"]']),
        ("SERVER__ALLOWED_HOSTS", "[::1],a.example", "server.allowed_hosts", ["(a,b)", '["a", "b"]']),
        ("TELEMETRY__REDACT_PATTERNS", "[A-Z]{9}", "telemetry.redact_patterns", ["(a,b)", '["a", "b"]']),
        ("TELEMETRY__REDACT_KEYS", "[" * 100_000, "telemetry.redact_keys", ["(a,b)", '["a", "b"]']),
        (
            "TASKS__CATEGORY_LIMITS",
            "io=4",
            "tasks.category_limits",
            ['{"io": 4}', "QORZEN_TASKS__CATEGORY_LIMITS__IO=4"],
        ),
        ("TASKS__CATEGORY_LIMITS", '["io"]', "tasks.category_limits", ['{"io": 4}']),
    ],
)
def test_a_list_or_a_table_in_another_form_is_told_the_forms(
    variable: str, value: str, key: str, forms: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environment={ENVIRONMENT_PREFIX + variable: value})
    assert caught.value.key == key
    for form in forms:
        assert form in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("TASKS__MAX_PENDING", "0", "tasks.max_pending"),
        ("TASKS__MAX_PENDING", "many", "tasks.max_pending"),
        ("TASKS__MAX_PENDING", "", "tasks.max_pending"),
        ("TASKS__MAX_PENDING__DEEPER", "1", "tasks.max_pending"),
        ("TASKS__DEFAULT_TIMEOUT", "nan", "tasks.default_timeout"),
        ("TASKS__DEFAULT_TIMEOUT", "0", "tasks.default_timeout"),
        ("TASKS__AGEING_SECONDS", "inf", "tasks.ageing_seconds"),
        ("TASKS__AGEING_SECONDS", "-1", "tasks.ageing_seconds"),
        ("TASKS__WHEN_FULL", "drop", "tasks.when_full"),
        ("TASKS__CATEGORY_LIMITS__IO", "0", "tasks.category_limits"),
        ("TASKS__CATEGORY_LIMITS__NOBODY", "1", "tasks.category_limits"),
        ("TASKS__CATEGORY_LIMITS", '{"io": 0}', "tasks.category_limits"),
        ("SERVER__ALLOWED_HOSTS__0", "a.example", "server.allowed_hosts"),
        ("TASKS__UNKNOWN", "1", "tasks.unknown"),
        ("TASKS", "1", "tasks"),
        ("UNKNOWN", "1", "unknown"),
        ("SERVER__PORT", "65536", "server.port"),
        ("SERVER__TOKEN", "short", "server.token"),
        ("HISTORY__URL", "postgresql://", "history.url"),
        ("HISTORY__URL", "sqlite:", "history.url"),
        ("HISTORY__ACCEPT", "soon", "history.accept"),
        ("HISTORY__WHEN_BROKEN", "crash", "history.when_broken"),
        ("HISTORY__MAX_AGE_DAYS", "0", "history.max_age_days"),
        ("HISTORY__MAX_RECORDS", "0", "history.max_records"),
        ("TELEMETRY__LOG_LEVEL", "loud", "telemetry.log_level"),
    ],
)
def test_a_bad_key_or_value_is_named(variable: str, value: str, key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environment={ENVIRONMENT_PREFIX + variable: value})
    assert caught.value.key == key
    assert f"setting {key!r}" in str(caught.value)


@pytest.mark.parametrize("key", ["run_buckets", "wait_buckets"])
@pytest.mark.parametrize(
    "bounds", [[], [0], [-1, 1], [1, 1], [2, 1], [1, math.inf], [1, math.nan], list(range(1, 102)), ["x"], 1]
)
def test_bounds_of_buckets_are_positive_finite_and_rising(key: str, bounds: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        convert({"telemetry": {key: bounds}}, Settings)
    assert caught.value.key.partition("[")[0] == f"telemetry.{key}"
    if isinstance(bounds, list) and "x" not in bounds:
        with pytest.raises(SettingsError, match=key):
            msgspec.structs.replace(TelemetrySettings(), **{key: tuple(bounds)})


def test_buckets_and_the_number_of_definitions_can_be_set(tmp_path: Path) -> None:
    file = tmp_path / "qorzen.toml"
    file.write_text(
        "[telemetry]\nrun_buckets = [0.1, 1, 86400]\nwait_buckets = [5]\nmetrics_by_definition = 0\n"
    )
    telemetry = load_settings(file).telemetry
    assert (telemetry.run_buckets, telemetry.wait_buckets) == ((0.1, 1.0, 86_400.0), (5.0,))
    assert telemetry.metrics_by_definition == 0
    assert Settings().telemetry.metrics_by_definition == 100
    assert Settings().telemetry.run_buckets[-1] == 86_400


def test_a_value_with_settings_below_it_is_named() -> None:
    with pytest.raises(SettingsError, match="'max_pending' is a value"):
        load_settings(
            environment={"QORZEN_TASKS__MAX_PENDING": "1", "QORZEN_TASKS__MAX_PENDING__DEEPER": "2"}
        )


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"tasks = ", "is not valid TOML"), (b"\xff", "is not UTF-8 text"), (None, "cannot be read")],
    ids=["no TOML", "no text", "no file"],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "qorzen.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=problem) as caught:
        load_settings(file)
    assert caught.value.key == "--config"
    assert str(file) in str(caught.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().tasks.max_pending = 1  # type: ignore[misc]  # on purpose


@pytest.mark.parametrize("value", [True, "x", 0, -1, 1.5, None, [1]])
def test_a_count_is_a_whole_positive_number(value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        convert({"max_concurrent_tasks": value}, TaskSettings, prefix="tasks.")
    assert caught.value.key == "tasks.max_concurrent_tasks"


names = st.sampled_from(["TASKS", "MAX_PENDING", "ENGINES", "IO_THREADS", "SERVER", "X", ""])


@given(
    st.dictionaries(
        st.lists(names, min_size=1, max_size=3).map(lambda levels: ENVIRONMENT_PREFIX + "__".join(levels)),
        st.text(max_size=5) | st.integers().map(str),
        max_size=3,
    )
)
def test_any_environment_gives_settings_or_a_settings_error(environment: dict[str, str]) -> None:
    with contextlib.suppress(SettingsError):
        assert isinstance(load_settings(environment=environment), Settings)


# ---------------------------------------------------------------- settings made in code


def test_the_sections_and_the_reader_are_public_names() -> None:
    sections = {field.type for field in msgspec.structs.fields(Settings)}
    assert {getattr(qorzen_obs, section.__name__) for section in sections} == sections
    assert qorzen_obs.load_settings is load_settings
    assert {"load_settings", *(section.__name__ for section in sections)} <= set(qorzen_obs.__all__)


def test_a_dict_becomes_the_section_that_it_stands_for() -> None:
    made = Settings(tasks={"max_pending": 5, "category_limits": {"io": 4}})  # type: ignore[arg-type]  # as JSON has it
    assert made.tasks == TaskSettings(max_pending=5, category_limits={TaskCategory.IO: 4})


@pytest.mark.parametrize(
    ("section", "key", "problem"),
    [
        ({"max_pendng": 5}, "tasks.max_pendng", "unknown setting"),
        ({"max_pending": 0}, "tasks.max_pending", "Expected `int` >= 1"),
        ({"category_limits": {"nobody": 1}}, "tasks.category_limits", "Invalid enum value"),
        (5, "tasks", "takes a table"),
        (None, "tasks", "takes a table"),
        (ServerSettings(), "tasks", "takes a table"),
    ],
)
def test_what_stands_in_place_of_a_section_is_checked(section: Any, key: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as caught:
        Settings(tasks=section)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        (TaskSettings, "max_pending", 0),
        (TaskSettings, "max_pending", "5"),
        (TaskSettings, "max_pending", True),
        (TaskSettings, "default_timeout", math.nan),
        (TaskSettings, "when_full", "drop"),
        (TaskSettings, "category_limits", {"nobody": 1}),
        (ServerSettings, "port", 65_536),
        (ServerSettings, "token", object()),
        (ServerSettings, "allow_submit", "yes"),
        (TelemetrySettings, "log_level", "loud"),
        (TelemetrySettings, "run_buckets", "fast"),
    ],
)
def test_a_section_made_in_code_is_checked_where_it_is_made(section: Any, name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        section(**{name: value})
    assert caught.value.key.endswith(f".{name}")
    with pytest.raises(SettingsError):
        msgspec.structs.replace(section(), **{name: value})


def test_values_made_in_code_take_their_setting_s_form() -> None:
    hosts: Any = ["a.example"]
    assert ServerSettings(allowed_hosts=hosts).allowed_hosts == ("a.example",)
    assert isinstance(TaskSettings(default_timeout=5).default_timeout, float)


def test_the_environment_and_a_file_go_over_settings_made_in_code(tmp_path: Path) -> None:
    file = tmp_path / "qorzen.toml"
    file.write_text("[tasks]\nmax_abandoned = 2\n[tasks.category_limits]\nui = 2\n")
    limits = {TaskCategory.IO: 1}
    base = Settings(
        tasks=TaskSettings(max_pending=5, max_abandoned=1, default_timeout=math.inf, category_limits=limits),
        server=ServerSettings(allowed_hosts=("a.example",)),
    )
    environment = {"QORZEN_TASKS__MAX_PENDING": "7", "QORZEN_TASKS__CATEGORY_LIMITS__CORE": "3"}

    both = load_settings(environment=environment, base=base)
    assert (both.tasks.max_pending, both.tasks.max_abandoned, both.tasks.default_timeout) == (7, 1, math.inf)
    assert both.tasks.category_limits == {TaskCategory.IO: 1, TaskCategory.CORE: 3}
    assert both.server == base.server
    all_three = load_settings(file, environment, base=base)
    assert (all_three.tasks.max_pending, all_three.tasks.max_abandoned) == (7, 2)
    assert all_three.tasks.category_limits == {TaskCategory.UI: 2, TaskCategory.CORE: 3}
    assert load_settings(base=base) == base


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("QORZEN_TASKS__MAX_PENDNG", "did you mean QORZEN_TASKS__MAX_PENDING?"),
        ("QORZEN_TASK__MAX_PENDING", "did you mean QORZEN_TASKS__MAX_PENDING?"),
        ("QORZEN_TASKS_MAX_PENDING", "did you mean QORZEN_TASKS__MAX_PENDING?"),
        ("QORZEN_ULR", "did you mean QORZEN_URL?"),
        ("QORZEN_COLOUR_OF_THE_PAGE", "check the spelling or remove it"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_one_that_was_meant(variable: str, meant: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environment={variable: "1"})
    assert variable in str(caught.value)
    assert meant in str(caught.value)


async def test_an_embedded_manager_refuses_a_misspelt_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QORZEN_TASKS__MAX_PENDNG", "1")
    with pytest.raises(SettingsError, match="QORZEN_TASKS__MAX_PENDING"):
        async with open_task_manager():
            pass
