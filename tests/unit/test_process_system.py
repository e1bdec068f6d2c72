"""What a system lacks is found by asking it, and said."""

import ctypes
import os
import socket
import sys
from typing import Any

import pytest

from qorzen_obs.engines.processes import system
from qorzen_obs.engines.processes.far_script import SCRIPT_RUNS


def test_here_nothing_is_missing() -> None:
    assert system.missing_for_workers() is None
    assert system.missing_for_guardians() is None


@pytest.mark.parametrize(
    ("owner", "name", "value", "reason"),
    [
        (sys, "frozen", True, "a frozen program"),
        (sys, "executable", "", "sys.executable is ''"),
        (sys, "executable", None, "sys.executable is None"),
        (sys, "executable", "/not/there/python", "is not a Python interpreter to start"),
        (sys, "executable", "/bin/sh", "does not look like a Python interpreter"),
        (system, "GUARDIAN", "/app.pyz/qorzen_obs/engines/processes/guardian.py", "run from an archive"),
    ],
    ids=["frozen", "no executable", "none", "gone", "another program", "archive"],
)
def test_a_program_that_cannot_start_an_interpreter_has_no_workers_and_says_why(
    owner: Any, name: str, value: object, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, value, raising=False)
    problem = system.missing_for_workers()
    assert problem is not None
    assert reason in problem


def test_a_script_that_runs_again_in_a_worker_has_no_workers() -> None:
    SCRIPT_RUNS.set()
    try:
        assert "only inside of `if __name__ == '__main__':`" in str(system.missing_for_workers())
    finally:
        SCRIPT_RUNS.clear()


def test_without_socket_pairs_there_are_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(socket, "socketpair", refuse)
    assert "no Unix sockets" in str(system.missing_for_workers())


class Refusing:
    """A C library whose prctl is there and, for some requests, refused: as by seccomp."""

    def __init__(self, refused: set[int]) -> None:
        self._refused = refused

    def prctl(self, request: int, *_: object) -> int:
        return -1 if request in self._refused else 0


@pytest.mark.parametrize("refused", [{1, 2, 36, 37}, {36}, {1}])
def test_a_prctl_that_is_refused_is_missing(refused: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Refusing(refused))
    assert "no prctl" in str(system.missing_for_guardians())


def test_a_pidfd_that_is_refused_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert "no pidfd_open" in str(system.missing_for_guardians())


def test_asking_changes_nothing() -> None:
    before = ctypes.c_int(), ctypes.c_int()
    libc = ctypes.CDLL(None)
    libc.prctl(37, ctypes.byref(before[0]), 0, 0, 0)
    system.missing_for_guardians()
    libc.prctl(37, ctypes.byref(before[1]), 0, 0, 0)
    assert before[0].value == before[1].value
