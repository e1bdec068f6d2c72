"""Where a library has put greenlets in the place of threads, a manager refuses to start, and says so."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from qorzen_obs.core.patched_threads import problem_of_threads
from qorzen_obs.errors import ManagerInitializationError
from qorzen_obs.testing import open_test_manager


@pytest.mark.parametrize(
    ("module", "asks", "library"),
    [
        ("gevent.monkey", "is_module_patched", "gevent"),
        ("eventlet.patcher", "is_monkey_patched", "eventlet"),
    ],
)
async def test_a_manager_does_not_start_on_greenlets(
    module: str, asks: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched: set[str] = set()
    fake: Any = SimpleNamespace(**{asks: lambda name: name in patched})
    monkeypatch.setitem(sys.modules, module, fake)
    assert problem_of_threads() is None, "imported is not patched"
    patched.add("select")
    with pytest.raises(ManagerInitializationError, match=f"{library} has replaced threads"):
        async with open_test_manager():
            pass
