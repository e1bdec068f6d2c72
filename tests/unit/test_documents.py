"""How values look in JSON."""

import json
import math

import pytest

from qorzen_obs.server.documents import (
    MAX_LISTED_TEXT,
    Task,
    encode_json,
    task_document,
    task_line,
    timestamp,
    with_timestamps,
)
from qorzen_obs.tasks import TaskCategory, TaskInfo, TaskPriority, TaskProgress, TaskStatus
from qorzen_obs.telemetry.redaction import Redactor


def an_info(**changes: object) -> TaskInfo:
    """A failed task with a secret wherever one may be."""
    info = TaskInfo(
        task_id="1f",
        name="invoice.send",
        category=TaskCategory.USER,
        plugin_id=None,
        priority=TaskPriority.CRITICAL,
        status=TaskStatus.FAILED,
        progress=TaskProgress(40.0, "4 of 10", 1_700_000_000.5),
        created_at=1_700_000_000.0,
        started_at=1_700_000_000.25,
        completed_at=1_700_000_001.0,
        result="secret",
        metadata={"key": "secret"},
    )
    return info.replace(**changes)


def test_times_are_utc_and_priorities_are_named() -> None:
    document = task_document(an_info(), Redactor())
    assert document.created_at == "2023-11-14T22:13:20.000000Z"
    assert document.progress.updated_at == "2023-11-14T22:13:20.500000Z"
    assert document.eligible_at is None
    assert (document.priority, document.category, document.status) == ("critical", "user", "failed")


def test_results_are_never_shown_and_metadata_is_redacted_with_the_task_alone() -> None:
    given = {"file": "a.csv", "password": "secret", "nested": [{"token": "secret"}]}
    document = task_document(an_info(metadata=given), Redactor())
    assert b"secret" not in encode_json(document)
    assert isinstance(document.metadata, dict)
    assert document.metadata["file"] == "a.csv"
    assert b"a.csv" not in encode_json(task_line(an_info(metadata=given)))


def test_everything_else_of_a_task_is_shown() -> None:
    assert set(TaskInfo.__dataclass_fields__) - set(Task.__struct_fields__) == {"result"}


def test_a_list_cuts_long_texts_and_leaves_tracebacks_out() -> None:
    line = task_line(
        an_info(error="e" * 10_000, traceback="Traceback", progress=TaskProgress(1, "p" * 10_000, 1))
    )
    assert line.error is not None
    assert len(line.error) == len(line.progress.message) == MAX_LISTED_TEXT
    assert line.error.endswith("…")
    assert b"traceback" not in encode_json(line)


def test_a_name_that_is_no_utf_8_breaks_no_document() -> None:
    undecodable = b"caf\xe9.txt".decode("utf-8", "surrogateescape")
    decoded = json.loads(
        encode_json({"items": [{"error": undecodable, "n": 1}], undecodable: (undecodable,)})
    )
    assert decoded == {"items": [{"error": r"caf\udce9.txt", "n": 1}], r"caf\udce9.txt": [r"caf\udce9.txt"]}
    assert json.loads(encode_json(task_line(an_info(error=undecodable))))["error"] == r"caf\udce9.txt"


def test_json_has_no_infinity() -> None:
    assert encode_json({"timeout_seconds": math.inf}) == b'{"timeout_seconds":null}'


@pytest.mark.parametrize(("seconds", "text"), [(0, "1970-01-01T00:00:00.000000Z"), (None, None)])
def test_a_moment_is_written_to_the_microsecond(seconds: float | None, text: str | None) -> None:
    assert timestamp(seconds) == text


def test_unix_seconds_become_moments_by_their_key() -> None:
    status = {
        "started_at": 0.5,
        "queue": {"limit": 10},
        "list": [{"seen_at": 1}],
        "ended_at": None,
        "stopped_at": "x",
    }
    assert with_timestamps(status) == {
        "started_at": "1970-01-01T00:00:00.500000Z",
        "queue": {"limit": 10},
        "list": [{"seen_at": "1970-01-01T00:00:01.000000Z"}],
        "ended_at": None,
        "stopped_at": "x",
    }
