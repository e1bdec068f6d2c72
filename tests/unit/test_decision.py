"""How an attempt ends: the whole table of what was asked and what the code did."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from qorzen_obs.core.decision import (
    TASK_DEADLINE,
    decide,
    decide_abandoned,
    error_type_of,
    shown_text,
)
from qorzen_obs.definition import TaskDefinition
from qorzen_obs.errors import TaskCancelled
from qorzen_obs.record import Ask, Attempt, Decision
from qorzen_obs.tasks import TIMEOUT, TaskStatus
from tests import support


def attempt(asked: Ask | None) -> Attempt:
    made = support.attempt(support.record(timeout=2.5))
    if asked is not None:
        made.ask(asked, "the reason", 0.0)
    return made


VALUE = "a value"
ERROR = ValueError("wrong")
CANCELLED = asyncio.CancelledError()
TOLD = TaskCancelled("id")

COMPLETED, FAILED, GAVE_IN = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED


@pytest.mark.parametrize(
    ("asked", "error", "status", "error_type"),
    [
        (None, None, COMPLETED, None),
        (None, ERROR, FAILED, "ValueError"),
        (None, CANCELLED, FAILED, "asyncio.exceptions.CancelledError"),
        (None, TOLD, FAILED, "qorzen_obs.errors.TaskCancelled"),
        (None, SystemExit(1), FAILED, "SystemExit"),
        (Ask.CANCEL, None, COMPLETED, None),
        (Ask.CANCEL, ERROR, FAILED, "ValueError"),
        (Ask.CANCEL, CANCELLED, GAVE_IN, None),
        (Ask.CANCEL, TOLD, GAVE_IN, None),
        (Ask.CANCEL, KeyboardInterrupt(), FAILED, "KeyboardInterrupt"),
        (Ask.DEADLINE, None, FAILED, TIMEOUT),
        (Ask.DEADLINE, ERROR, FAILED, TIMEOUT),
        (Ask.DEADLINE, CANCELLED, FAILED, TIMEOUT),
        (Ask.DEADLINE, TOLD, FAILED, TIMEOUT),
    ],
)
def test_what_was_asked_and_what_the_code_did_decide(
    asked: Ask | None, error: BaseException | None, status: TaskStatus, error_type: str | None
) -> None:
    decision = decide(attempt(asked), None if error else VALUE, error)
    assert (decision.status, decision.error_type) == (status, error_type)
    assert decision.result == (VALUE if status is COMPLETED else None)
    assert decision.cancel_reason == ("the reason" if status is GAVE_IN else None)
    assert (decision.error is not None) == (status is FAILED)
    assert not decision.abandoned


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Ask.CANCEL, Decision(GAVE_IN, cancel_reason="the reason", abandoned=True)),
        (
            Ask.DEADLINE,
            Decision(
                FAILED,
                error="the attempt took longer than its timeout of 2.5 s",
                error_type=TIMEOUT,
                abandoned=True,
            ),
        ),
    ],
)
def test_when_the_grace_is_over_the_ask_decides_alone(asked: Ask, expected: Decision) -> None:
    assert decide_abandoned(attempt(asked)) == expected


def test_the_first_ask_is_never_overwritten_by_a_timeout_of_the_code() -> None:
    assert decide(attempt(Ask.CANCEL), None, TimeoutError("its own")).error_type == "TimeoutError"


def test_a_coroutine_that_was_returned_is_closed_and_fails_the_task() -> None:
    async def forgotten() -> None: ...

    coroutine: Coroutine[Any, Any, None] = forgotten()
    decision = decide(attempt(None), coroutine, None)
    assert (decision.status, decision.error_type) == (FAILED, "TypeError")
    with pytest.raises(RuntimeError, match="cannot reuse"):
        coroutine.send(None)


class Outer:
    class Inner(Exception):
        pass


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError(), "ValueError"),
        (Outer.Inner(), f"{__name__}.Outer.Inner"),
        (asyncio.QueueFull(), "asyncio.queues.QueueFull"),
        (ExceptionGroup("g", [ValueError()]), "ExceptionGroup"),
    ],
)
def test_an_error_type_is_the_qualified_name(error: BaseException, name: str) -> None:
    assert error_type_of(error) == name


def test_a_chain_of_exceptions_that_is_a_circle_is_shown() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    decision = decide(attempt(None), None, first)
    assert decision.traceback is not None
    assert "ValueError: second" in decision.traceback


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("plain", 10, "plain"),
        ("größe 日本", 7, "größe 日"),
        ("\udcff\ud800", 9, "\\udcff\\ud800"),
        ("", 5, ""),
    ],
)
def test_shown_text_is_cut_and_can_be_encoded(text: str, limit: int, shown: str) -> None:
    assert shown_text(text, limit) == shown
    shown.encode()


def test_the_deadline_of_the_whole_task_is_told_from_the_timeout_of_an_attempt() -> None:
    made = support.attempt(support.record(timeout=2.5, definition=TaskDefinition(deadline=60.0)))
    made.ask(Ask.DEADLINE, TASK_DEADLINE, 0.0)
    decision = decide(made, VALUE, None)
    assert decision.error_type == TIMEOUT
    assert "60 s after it was accepted" in (decision.error or "")
