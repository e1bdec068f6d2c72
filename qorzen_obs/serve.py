"""What `qorzen-obs serve` does: hosts the tasks that a program's modules define."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Final

from qorzen_obs import foreign
from qorzen_obs.app import Service
from qorzen_obs.core.health_checks import HealthChecks
from qorzen_obs.endpoint import socket_path
from qorzen_obs.errors import InvalidHealthCheckError, InvalidTaskError, QorzenError
from qorzen_obs.health import checks_in
from qorzen_obs.host import StopSignals, hosted, set_up_process, stop_message
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.settings import Settings
from qorzen_obs.standing import StandingTasks
from qorzen_obs.telemetry.gil_watch import GilWatch

_OWN_CODE: Final = Path(__file__).parent


class ModuleError(QorzenError):
    """A module cannot be hosted."""

    def __init__(self, module: str, problem: str) -> None:
        super().__init__(module, problem)
        self.module = module
        self.problem = problem

    def __str__(self) -> str:
        return f"module {self.module!r} {self.problem}"


class UnusableModuleError(ModuleError):
    """The module is the wrong one: it does not exist, or defines no tasks."""


class BrokenModuleError(ModuleError):
    """The module exists, but its import failed."""


def load_tasks(modules: Iterable[str]) -> TaskRegistry:
    """Import the modules, with the working directory first on the path, and return the tasks that they define.

    Raises:
        UnusableModuleError: a module does not exist, has no @task, or has a task whose name is taken.
        BrokenModuleError: the import of a module failed.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    registry = TaskRegistry()
    for name in modules:
        module = _import(name)
        try:
            found = registry.add_module(module)
        except InvalidTaskError as error:
            raise UnusableModuleError(name, f"cannot be hosted: {error.problem}") from error
        if not found and not checks_in(module):
            raise UnusableModuleError(name, "defines no tasks; mark its functions with @qorzen_obs.task")
    return registry


def load_checks(modules: Iterable[str]) -> list[Callable[[], object]]:
    """Return the health checks of modules that `load_tasks` has imported.

    Raises:
        UnusableModuleError: a check is unusable, for example because its name is taken.
    """
    found: dict[Callable[[], object], None] = {}
    known = HealthChecks()
    for name in modules:
        for check in checks_in(sys.modules[name]):
            if check not in found:
                found[check] = None
                try:
                    known.add(check)
                except InvalidHealthCheckError as error:
                    raise UnusableModuleError(name, f"cannot be hosted: {error}") from error
    return list(found)


async def serve(
    settings: Settings,
    registry: TaskRegistry,
    say: Callable[[str], object],
    checks: Iterable[Callable[[], object]] = (),
    *,
    stores_by_default: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM, then stop in order. Tasks with `at_start` are submitted.

    `stores_by_default` records tasks in the default file if `history.url` is `memory`.

    Raises:
        SettingsError: a setting or an OTEL_* variable is unusable.
        ManagerInitializationError: the port is in use, or another part did not start.
    """
    logs = set_up_process(settings.telemetry, sys.stderr)
    gil_watch = GilWatch()
    standing = StandingTasks(registry)
    service = Service(
        settings,
        http=True,
        known=registry,
        log_stream=logs,
        gil_watch=gil_watch,
        checks=[*checks, *standing.checks()],
        default_history="serve" if stores_by_default else None,
    )
    with StopSignals(settings.tasks, gil_watch, service.refuse_traffic, logs.redactor.text) as signals:
        async with hosted(service, signals):
            assert service.ops is not None, "it was asked for"
            say(f"qorzen_obs serves {service.ops.url}{'' if socket_path(service.ops.url) else '/'}")
            for line in service.history_news:
                say(f"  {line}")
            for name, _, definition in registry:
                say(f"  {name}{', submitted at the start' if definition.at_start else ''}")
            log = service.parts.loggers.get_logger("serve").warning
            async with standing.kept(service.tasks, log):
                await signals.asked.wait()
            say(stop_message(service))


def _import(name: str) -> ModuleType:
    if not all(name.split(".")):
        raise UnusableModuleError(name, "cannot be imported; give its full dotted name")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UnusableModuleError(name, _explain_missing(name)) from error
        problem = f"needs {error.name!r}, which is not installed" if error.name else str(error)
        raise BrokenModuleError(name, f"{problem}{_place_of(error)}") from error
    except (Exception, SystemExit) as error:  # the program's own code may raise anything
        problem = f"failed while it was imported: {foreign.described(error)}{_place_of(error)}"
        raise BrokenModuleError(name, problem) from error


def _explain_missing(name: str) -> str:
    path = Path(name)
    if path.suffix == ".py" or len(path.parts) > 1:
        dotted = ".".join(path.with_suffix("").parts)
        return f"is a file's name; give the module's own, such as {dotted!r}"
    return f"does not exist; it was looked for in {Path.cwd()} and on Python's path (PYTHONPATH)"


def _place_of(error: BaseException) -> str:
    """Return the file and line where the program's code failed, in brackets; empty if none of it had run.

    Our own code refuses a wrong decorator, but the reader must fix the program's code.
    """
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen importlib")
        and frame.filename != importlib.__file__
        and not Path(frame.filename).is_relative_to(_OWN_CODE)
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
