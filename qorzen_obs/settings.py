"""The settings of a service: one frozen, typed, checked object.

Created in code, or read from a TOML file, then from `QORZEN_*` variables with `__` between levels. Nothing here looks
for files or reads the environment by itself: the caller passes both in.
"""

from __future__ import annotations

import functools
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_origin

import msgspec
from msgspec import Meta

from qorzen_obs.endpoint import DEFAULT_HOST, DEFAULT_PORT
from qorzen_obs.errors import SettingsError
from qorzen_obs.small_file import UnusableFileError, read_small_file
from qorzen_obs.tasks import TaskCategory

ENVIRONMENT_PREFIX = "QORZEN_"
MEMORY: Final = "memory"  #: the `history.url` of this process's own memory
SQLITE: Final = "sqlite:"  #: what the `history.url` of a file begins with
#: The service that the commands connect to; not a setting of the service itself.
URL_VARIABLE: Final = "QORZEN_URL"
_MAX_FILE_BYTES: Final = 1_048_576

#: Upper bounds in seconds of the histograms of durations, unless `telemetry.run_buckets` says otherwise.
RUN_BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 300.0, 900.0, 3_600.0, 14_400.0,
    86_400.0,
)  # fmt: skip
#: Upper bounds in seconds of the histograms of queue waits, unless `telemetry.wait_buckets` says otherwise.
WAIT_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 300.0, 600.0,
    1_500.0,
)  # fmt: skip
_MAX_BUCKETS: Final = 100  # each adds a line to every series

Seconds = Annotated[float, Meta(gt=0)]  #: A duration above 0, in seconds.
MEBIBYTE: Final = 1_048_576
Count = Annotated[int, Meta(ge=1)]  #: A whole number of at least 1.
T = TypeVar("T")


class _Checked(msgspec.Struct, frozen=True):
    """Settings that are checked when code creates them, like those from a file.

    A value is converted to its declared type: a dict becomes a section, a list becomes a tuple.
    """

    _section: ClassVar[str] = ""  #: the prefix of its settings' names

    def __post_init__(self) -> None:
        for name, kind, default in _fields_of(type(self)):
            value = getattr(self, name)
            if value is default or type(value) is kind:
                continue  # most are valid, and a check takes 20 microseconds
            value = _convert(value, kind, f"{self._section}{name}", strict=True)
            msgspec.structs.force_setattr(self, name, value)


@functools.cache
def _fields_of(section: type[_Checked]) -> list[tuple[str, Any, Any]]:
    """Return the settings of a section: name, type and default."""
    return [(field.name, field.type, field.default) for field in msgspec.structs.fields(section)]


class TaskSettings(_Checked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tasks.*`: how much runs, waits and is remembered."""

    _section = "tasks."

    max_concurrent_tasks: Count = 100  #: maximum number of tasks that run at once
    #: Maximum number of ended tasks kept whole: the last ones that failed, and separately as many of all others.
    keep_completed_tasks: Annotated[int, Meta(ge=0)] = 10_000
    #: Maximum bytes that they take: about 1,400 each, plus kept values, errors and tracebacks.
    keep_completed_bytes: Annotated[int, Meta(ge=0)] = 16 * MEBIBYTE
    default_timeout: Seconds = 300.0  #: seconds an attempt may take; inf means no limit
    max_pending: Count = 10_000  #: maximum number of waiting tasks
    #: What a submission does when the queue is full: raise TaskQueueFullError, or wait for room.
    when_full: Literal["refuse", "wait"] = "refuse"
    category_limits: dict[TaskCategory, Count] = {}  #: maximum number of tasks of a category that run at once
    #: seconds of waiting that are worth 50 points of priority, at most a year; 0 means strict priority
    ageing_seconds: Annotated[float, Meta(ge=0, le=31_536_000)] = 300.0
    #: How long a task may continue after it was asked to stop. Then it is killed if possible, else abandoned.
    cancel_grace_seconds: Seconds = 1.0
    #: number of abandoned tasks whose slot another task may get
    max_abandoned: Annotated[int, Meta(ge=0)] = 16
    #: How long a stop lets accepted tasks continue before it cancels them.
    shutdown_grace_seconds: Annotated[float, Meta(ge=0)] = 30.0
    #: Largest size in bytes, counting texts and buffers, of a result or of a task's arguments that is kept with the
    #: record. A larger result is released once a waiter has it; larger arguments are released when the task ends.
    keep_value_bytes: Annotated[int, Meta(ge=0)] = 65_536
    #: keep the arguments of failed and cancelled tasks while they are kept whole, to run them again
    keep_arguments: bool = True


class EngineSettings(_Checked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`engines.*`: how many slots each engine has."""

    _section = "engines."

    io_threads: Count = 32  #: synchronous tasks of category IO that run at once
    worker_threads: Count = (os.cpu_count() or 1) + 4  #: other synchronous tasks that run at once
    processes: Count = os.cpu_count() or 1  #: worker processes; each runs one task at a time
    process_tasks_per_worker: Count = 1_000  #: tasks after which a worker process is replaced
    #: How long tasks of a name are refused after they have killed 3 workers within this time.
    process_quarantine_seconds: Seconds = 600.0


class ServerSettings(_Checked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`server.*`: where the ops plane listens and which requests it answers."""

    _section = "server."

    #: An address to listen on, or `unix:/path` for a socket of mode 0600. One that others can reach needs a token.
    host: str = DEFAULT_HOST
    port: Annotated[int, Meta(ge=0, le=65535)] = DEFAULT_PORT  #: 0 takes any free one
    #: What to do if the port is in use: refuse to start, or try the next ones, for several workers side by side.
    when_taken: Literal["refuse", "next"] = "refuse"
    token: Annotated[str, Meta(min_length=16)] | None = None  #: token for control, which allows everything
    #: Instead of `token`: a file with one token per line, `TOKEN` or `TOKEN read`.
    token_file: str | None = None
    allow_submit: bool = False  #: whether registered tasks can be submitted over HTTP
    #: host names that requests may use, besides localhost and IP addresses
    allowed_hosts: tuple[str, ...] = ()
    #: URL of the service for clients behind a proxy, such as https://a.example/ops.
    public_url: str | None = None
    grafana_url: str | None = None  #: target of the page's link to Grafana
    trace_url: str | None = None  #: URL of a trace in another viewer, with {trace_id}


class HealthSettings(_Checked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`health.*`: when a probe fails."""

    _section = "health."

    #: /livez and /readyz fail when the work loop is blocked for longer than this
    loop_blocked_seconds: Seconds = 30.0
    #: /readyz fails when a task waits for longer than this although nothing keeps it from starting.
    scheduler_stalled_seconds: Seconds = 10.0


class TelemetrySettings(_Checked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`telemetry.*`: how much is observed and kept in memory."""

    _section = "telemetry."

    log_level: Literal["debug", "info", "warning", "error", "off"] = "info"  #: off writes no lines
    keep_traces: Count = 10_000  #: recent traces in memory, at most
    keep_spans_per_trace: Count = 2_000  #: spans of one trace in memory
    keep_spans: Count = 40_000  #: maximum number of spans in memory in all
    #: Maximum bytes that they take: about 1 kB for a task's span, 4 kB for one of other code.
    keep_span_bytes: Count = 36 * MEBIBYTE
    #: ordinary traces kept per second; above that rate their ids decide. Failed and slow ones are always kept
    traces_per_second: Annotated[float, Meta(ge=0)] = 100.0
    slow_task_seconds: Seconds = 10.0  #: a slower task's trace is always kept; inf means never
    time_ledger: bool = True  #: records the phases of each task; costs about 0.5 µs a step
    watch_loop: bool = True  #: runs a thread that finds what blocks the work loop
    #: Upper bounds of the histograms of durations: 1 to 100 of them, in seconds, positive and rising.
    run_buckets: tuple[float, ...] = RUN_BUCKETS
    #: The same for queue waits. They must include the bounds of the rules' objectives (dashboards/objectives.py).
    wait_buckets: tuple[float, ...] = WAIT_BUCKETS
    #: definitions that metrics show by name; all others are `_other`. 0 means none
    metrics_by_definition: Annotated[int, Meta(ge=0, le=10_000)] = 100
    keep_log_lines_per_task: Count = 200  #: last log lines of each task in memory
    keep_log_lines: Count = 50_000  #: maximum number of log lines in memory in all
    keep_log_bytes: Count = 12 * MEBIBYTE  #: maximum bytes that they take
    #: whether /metrics also shows the default registry of prometheus_client
    default_registry: bool = False
    #: Names of fields whose values are always hidden, besides the usual ones.
    redact_keys: tuple[str, ...] = ()
    redact_patterns: tuple[str, ...] = ()  #: regular expressions for text that is always hidden

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_buckets("telemetry.run_buckets", self.run_buckets)
        _check_buckets("telemetry.wait_buckets", self.wait_buckets)


def _check_buckets(key: str, bounds: tuple[float, ...]) -> None:
    if not 1 <= len(bounds) <= _MAX_BUCKETS:
        raise SettingsError(key, f"has {len(bounds)} bounds; give 1 to {_MAX_BUCKETS}")
    for lower, upper in pairwise((0.0, *bounds)):
        if not lower < upper < inf:
            raise SettingsError(key, f"{upper:g} after {lower:g}: bounds are positive, finite and rising")


class HistorySettings(_Checked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`history.*`: where tasks are recorded."""

    _section = "history."

    #: `memory`, which ends with the process, or `sqlite:PATH`, a file that survives it.
    url: str = MEMORY
    #: When a submission returns: once the task is accepted, or once its record is also on disk.
    accept: Literal["buffered", "committed"] = "buffered"
    #: What to do while nothing can be written: refuse new tasks, or accept them without recording them.
    when_broken: Literal["refuse", "undurable"] = "refuse"
    max_age_days: Annotated[float, Meta(gt=0, le=3_650)] = 30.0  #: how long ended tasks stay in the file
    #: maximum number of tasks in the file
    max_records: Annotated[int, Meta(ge=1, le=100_000_000)] = 1_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        path = self.url.removeprefix(SQLITE)
        if self.url != MEMORY and (path == self.url or not path or "\0" in path):
            raise SettingsError(
                "history.url", "is neither 'memory' nor 'sqlite:PATH', such as sqlite:tasks.sqlite"
            )

    @property
    def path(self) -> Path | None:
        """The file of a durable history; None if the history is in memory."""
        return None if self.url == MEMORY else Path(self.url.removeprefix(SQLITE))


class Settings(_Checked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one service.

        Settings(tasks=TaskSettings(max_pending=50), server=ServerSettings(port=0))

    Raises:
        SettingsError: a value is out of bounds or has the wrong type. Each section raises it too.
    """

    #: How much runs, waits and is remembered.
    tasks: TaskSettings = msgspec.field(default_factory=TaskSettings)
    #: How many slots each engine has.
    engines: EngineSettings = msgspec.field(default_factory=EngineSettings)
    #: Where the ops plane listens and which requests it answers.
    server: ServerSettings = msgspec.field(default_factory=ServerSettings)
    #: When a probe fails.
    health: HealthSettings = msgspec.field(default_factory=HealthSettings)
    #: How much is observed and kept in memory.
    telemetry: TelemetrySettings = msgspec.field(default_factory=TelemetrySettings)
    #: Where ended tasks are kept.
    history: HistorySettings = msgspec.field(default_factory=HistorySettings)


def load_settings(
    file: Path | str | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    base: Settings | None = None,
) -> Settings:
    """Return `base` (None means the defaults), overridden by `file`, then by `environment`.

    Settings of your own that the environment may change:

        load_settings(environment=os.environ, base=Settings(tasks=TaskSettings(max_pending=50)))

    A table in the file, such as `tasks.category_limits`, replaces the one of `base`.

    Raises:
        SettingsError: the file is missing or not TOML, a key or a `QORZEN_*` variable is unknown, or a value is out of
            bounds.
    """
    tree: dict[str, Any] = {} if base is None else msgspec.to_builtins(base)
    if file is not None:
        _put_over(tree, _read_toml(Path(file)))
    environment = environment or {}
    check_variables(environment)
    for name, value in sorted(environment.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and name != URL_VARIABLE:
            _put(tree, name, value)
    return convert(tree, Settings)


def check_variables(names: Iterable[str]) -> None:
    """Refuse a name that begins with `QORZEN_` but is not the variable of a setting, whatever its value.

    Raises:
        SettingsError: names the setting that it would be, and the most similar variable.
    """
    known = None
    for name in sorted(names):
        if not name.startswith(ENVIRONMENT_PREFIX) or name == URL_VARIABLE:
            continue
        known = known or _variables()
        variable = name.upper()
        if variable not in known and not any(variable.startswith(f"{one}__") for one in known):
            like = get_close_matches(variable, [*known, URL_VARIABLE], n=1, cutoff=0.8)
            what = f"did you mean {like[0]}?" if like else "check the spelling or remove it"
            raise SettingsError(
                ".".join(_steps_of(name)), f"unknown setting, from the variable {name}; {what}"
            )


def convert(tree: Mapping[str, Any], kind: type[T], *, prefix: str = "") -> T:
    """Check `tree` and return it as `kind`; strings from the environment become numbers where `kind` needs them.

    Raises:
        SettingsError: names the offending key below `prefix`.
    """
    value: T = _convert(tree, kind, prefix.rstrip("."), strict=False)
    return value


def _convert(value: Any, kind: Any, place: str, *, strict: bool) -> Any:
    """Return the value as `kind`. Like a file, a section given as a dict may have texts for numbers."""
    try:
        return msgspec.convert(value, kind, strict=strict and not isinstance(value, Mapping))
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, SettingsError):  # of a check of the settings' own
            raise error.__cause__ from None
        problem, _, path = str(error).partition(" - at `")
        steps = path.removesuffix("`").removeprefix("key` in `").removeprefix("$").removeprefix(".")
        steps = re.sub(r"\[\.\.\.\]", "", steps)
        unknown = re.search(r"unknown field `(.+)`", problem)
        if unknown:
            steps = f"{steps}.{unknown[1]}" if steps else unknown[1]
            problem = "unknown setting; check the spelling or remove it"
        problem = problem.replace(
            "Expected `object`", "takes a table, in code a dict or a section of settings"
        )
        key = f"{place}{'' if steps.startswith('[') else '.'}{steps}".strip(".")
        raise SettingsError(key or "settings", problem) from None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_small_file(file, _MAX_FILE_BYTES, pipes=True).text)
    except UnusableFileError as error:
        raise SettingsError("--config", f"{str(file)!r} {error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError("--config", f"{str(file)!r} is not valid TOML: {error}") from error


def _put_over(tree: dict[str, Any], above: Mapping[str, Any]) -> None:
    """Override the settings of one tree with those of another, each setting whole."""
    for section, values in above.items():
        below = tree.get(section)
        tree[section] = (
            {**below, **values} if isinstance(below, dict) and isinstance(values, dict) else values
        )


def _steps_of(variable: str) -> list[str]:
    return variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")


def _variables() -> list[str]:
    """Return the variables of all settings."""
    return [
        f"{ENVIRONMENT_PREFIX}{section.name}__{setting.name}".upper()
        for section in msgspec.structs.fields(Settings)
        for setting in msgspec.structs.fields(section.type)
    ]


def _put(tree: dict[str, Any], variable: str, value: str) -> None:
    *levels, leaf = _steps_of(variable)
    branch = tree
    for level in levels:
        branch = branch.setdefault(level, {})
        if not isinstance(branch, dict):
            raise SettingsError(variable, f"{level!r} is a value and has no settings below it")
    branch[leaf] = _read_text(variable, [*levels, leaf], value)


def _read_text(variable: str, steps: list[str], text: str) -> Any:
    """Parse a variable for a list or a table; other settings are converted from the text later."""
    key, origin = ".".join(steps), get_origin(_type_of(steps))
    if origin is tuple:
        if text.lstrip().startswith("["):
            return _read_json(text, list, key, 'entries with commas between them (a,b), or JSON (["a", "b"])')
        return [entry for part in text.split(",") if (entry := part.strip())]
    if origin is dict:
        forms = f'JSON ({{"io": 4}}), or a variable for each key ({variable}__IO=4)'
        return _read_json(text, dict, key, forms) if text.strip() else {}
    return text


def _type_of(steps: list[str]) -> Any:
    """Return the type of a setting; None if there is no such setting."""
    kind: Any = Settings
    for step in steps:
        is_section = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        fields = {field.name: field.type for field in msgspec.structs.fields(kind)} if is_section else {}
        kind = fields.get(step)
    return kind


def _read_json(text: str, kind: type, key: str, forms: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise SettingsError(key, f"takes {forms}")
    return value
