"""`__main__` in a worker process: the program's script, run again when somebody first needs something from it.

Imports little, since each worker imports this. The service's side is script.py.
"""

from __future__ import annotations

import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final, NamedTuple

from qorzen_obs import foreign

MAIN: Final = "__main__"
#: The script's module name in a worker. Multiprocessing uses it too.
FAR_MAIN: Final = "__mp_main__"
#: Set while a worker runs the script, so that the script does not start the program again.
SCRIPT_RUNS: Final = threading.Event()


class Script(NamedTuple):
    """What a worker needs to run the script again."""

    source: bytes  #: as it was when the service first read it, for all workers the same
    path: str
    package: str | None  #: relative imports in it begin here; set for `python -m`
    module_name: str | None  #: set for `python -m`
    argv: list[str]
    names: frozenset[str]  #: names that it binds at the top level, outside the block


class ScriptModule(ModuleType):
    """Runs the script when it is first asked for a name that the script binds at the top.

    Without a script to run, it is empty and receives what arrives by value.
    """

    def __init__(self, script: Script | None) -> None:
        super().__init__(FAR_MAIN if script else MAIN)
        # Names that no script uses: the script's own names live beside these.
        self.qorzen_script = script
        self._qorzen_waits = script is not None
        self._qorzen_error: BaseException | None = None
        if script is not None:
            self.__file__ = script.path
            self.__package__ = script.package
            if script.module_name is not None:
                self.__spec__ = ModuleSpec(script.module_name, None, origin=script.path)
            self.__builtins__ = __builtins__

    def __getattr__(self, name: str) -> Any:
        script = self.qorzen_script
        if script is not None and name in script.names:
            if self._qorzen_error is not None:
                raise _no_script(script, self._qorzen_error)
            if self._qorzen_waits:
                self._qorzen_waits = False
                self._run(script)
                if name in vars(self):
                    return vars(self)[name]
        raise AttributeError(f"module {MAIN!r} has no attribute {name!r}")

    def _run(self, script: Script) -> None:
        SCRIPT_RUNS.set()
        try:
            exec(compile(script.source, script.path, "exec", dont_inherit=True), vars(self))
        except BaseException as error:
            self._qorzen_error = error
            raise _no_script(script, error) from error
        finally:
            SCRIPT_RUNS.clear()

    def take(self, value: Any) -> None:
        """Add a class or function that has arrived by value, so that it can be pickled by its name in this worker."""
        name = getattr(value, "__qualname__", "")
        if self.qorzen_script is None and value.__module__ == MAIN and name.isidentifier():
            setattr(self, name, value)


def be_script(script: Script | None) -> None:
    """Set `__main__` of this process as the service describes it."""
    module = ScriptModule(script)
    sys.modules[MAIN] = module
    if script is not None:
        sys.modules[FAR_MAIN] = module
        sys.argv[:] = script.argv


def _no_script(script: Script, error: BaseException) -> ImportError:
    return ImportError(
        f"a worker process runs {script.path} with another __name__ than '__main__', to have its functions and "
        f"classes, and that raised {foreign.described(error)}"
    )
