"""`history check` and `history export` read the file, also while a service has it open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qorzen_obs.cli import cli
from tests.histories import accepted, end, event, recording, run, the_end


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "history.sqlite"
    with recording(path) as history:
        for number in range(3):
            one = accepted(f"task-{number}", created_at=10.0 + number)
            history.on_event(event(one))
            history.on_ends([the_end(end(run(one)))])
    return path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["history", *map(str, arguments)])


def test_check_tells_integrity_versions_and_numbers(path: Path) -> None:
    done = invoke("check", path)
    assert done.exit_code == 0, done.output
    assert ("ok" in done.output, "completed 3" in done.output) == (True, True)
    document = json.loads(invoke("check", path, "--json").output)
    assert (document["ok"], document["tasks"], len(document["owners"])) == (True, {"completed": 3}, 1)


def test_export_prints_the_oldest_task_first(path: Path) -> None:
    done = invoke("export", path)
    documents = [json.loads(line) for line in done.output.splitlines()]
    assert [document["task_id"] for document in documents] == ["task-0", "task-1", "task-2"]
    assert "result" not in documents[0]


@pytest.mark.parametrize("command", ["check", "export"])
def test_a_file_that_is_no_history_is_status_1(tmp_path: Path, command: str) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"something else" * 1_000)
    done = invoke(command, path)
    assert done.exit_code == 1
    assert str(path) in done.output
    assert invoke(command, tmp_path / "missing").exit_code == 2
