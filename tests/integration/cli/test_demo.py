"""The demo as a user runs it: every number of its summary, real failures, and an orderly stop."""

import ast
import json
import os
import pty
import re
import signal
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from qorzen_obs.demo.summary import Surfaces
from qorzen_obs.demo.syntax import measure
from qorzen_obs.demo.workload import find_files
from qorzen_obs.tasks import TaskStatus
from qorzen_obs.telemetry import names
from tests.services.backends import eventually, free_port, get_json, program
from tests.services.program import ROOT, Running, environment, json_lines, run, write_files
from tests.support import PATIENCE_SECONDS

pytestmark = pytest.mark.slow  # programs of their own, which no version of Python makes another

GOOD: dict[str, str | bytes] = {
    "function.py": "@decorator\ndef f():\n    return 1\n",
    "deep/er/one.py": "x = 1",
    "copy.py": "x = 1",
}
BROKEN = "def (\n"
UNDECODABLE = b"# One\n# Two\nx = '\xff'\n"
BAD: dict[str, str | bytes] = {"broken.py": BROKEN, "undecodable.py": UNDECODABLE}
NO_SOURCES: dict[str, str | bytes] = {
    "notes.txt": "def f(): ...",
    "folder.py/notes.md": "",
    "compiled.pyc": b"\0",
}

LIBRARY = Path(sysconfig.get_path("stdlib"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_files(tmp_path / "tree", {**GOOD, **BAD, **NO_SOURCES})


def run_once(folder: Path, variables: dict[str, str] | None = None) -> dict[str, Any]:
    """The summary of `demo --once --json`, the only thing on its standard output."""
    done = run("demo", "--once", "--json", "--path", folder, variables=variables)
    assert done.returncode == 0, done.stderr
    (document,) = json_lines(done.stdout)
    return document


def test_every_number_of_a_round_is_right(tree: Path) -> None:
    summary = run_once(tree)

    assert summary["path"] == str(tree)
    assert summary["round"] == 1
    assert (summary["files"], summary["distinct_files"]) == (5, 4)
    assert summary["bytes"] == sum(path.stat().st_size for path in tree.rglob("*.py") if path.is_file())
    assert summary["lines"] == 3 + 1 + 1
    trees = [ast.parse(text) for text in GOOD.values()]
    assert summary["nodes"] == sum(1 for one in trees for _ in ast.walk(one))
    assert summary["functions"] == 1
    assert summary["longest_function"] == {"file": "function.py", "name": "f", "lines": 2}
    assert summary["deepest"] == {"file": "function.py", "depth": 4}
    # Three tasks a file, the batch, the search for files, the survey.
    counts = {"completed": 5 * 3 - 2 + 3, "failed": 2, "cancelled": 0}
    assert summary["tasks"] == counts
    assert summary["metrics"] == counts
    assert summary["status"] == {"pending": 0, "running": 0, **counts}
    assert summary["surfaces_agree"] is True


def test_what_cannot_be_parsed_fails_with_the_reason_and_the_rest_goes_on(tree: Path) -> None:
    failures = {failure["file"]: failure for failure in run_once(tree)["failures"]}

    assert failures.keys() == BAD.keys()
    assert failures["broken.py"]["error_type"] == "SyntaxError"
    assert "broken.py, line 1" in failures["broken.py"]["message"]
    assert failures["undecodable.py"]["error_type"] == "UnicodeDecodeError"
    assert "0xff" in failures["undecodable.py"]["message"]


def test_the_slowest_files_and_the_slowest_batch_are_named(tree: Path) -> None:
    summary = run_once(tree)

    assert {slow["file"] for slow in summary["slowest"]} == GOOD.keys() | BAD.keys()
    seconds = [slow["seconds"] for slow in summary["slowest"]]
    assert seconds == sorted(seconds, reverse=True)
    assert summary["slowest_batch"]["name"] == "batch 1 of 1"
    assert len(summary["slowest_batch"]["trace_id"]) == 32


@pytest.mark.parametrize(
    "variables",
    [
        {"QORZEN_TASKS__MAX_CONCURRENT_TASKS": "1", "QORZEN_TASKS__MAX_PENDING": "1"},
        {"QORZEN_TASKS__KEEP_COMPLETED_TASKS": "0"},
        {"QORZEN_ENGINES__WORKER_THREADS": "1", "QORZEN_ENGINES__IO_THREADS": "1"},
        {"QORZEN_SERVER__TOKEN": "a-token-of-the-test"},
        {"OTEL_SDK_DISABLED": "true"},
    ],
    ids=["one at a time", "nothing kept", "one thread", "token", "no tracing"],
)
def test_settings_leave_the_numbers_alone(tree: Path, variables: dict[str, str]) -> None:
    summary = run_once(tree, variables)

    assert summary["files"] == 5
    assert summary["tasks"] == {"completed": 16, "failed": 2, "cancelled": 0}
    assert {failure["error_type"] for failure in summary["failures"]} == {"SyntaxError", "UnicodeDecodeError"}


def test_standard_error_holds_json_lines_only(tree: Path) -> None:
    done = run("demo", "--once", "--path", tree)

    events = [line["event"] for line in json_lines(done.stderr)]
    assert events.count("task.finished") == 18


def test_the_summary_for_a_person_follows_the_addresses(tree: Path) -> None:
    done = run("demo", "--once", "--path", tree)

    assert done.returncode == 0
    assert "/metrics" in done.stdout.splitlines()[2]
    assert "round 1: 5 files, 18 tasks, 2 failed" in done.stdout
    assert "16 completed, 2 failed, 0 cancelled; /status and /metrics say the same" in done.stdout
    assert "parse broken.py: SyntaxError" in done.stdout


def test_a_file_may_have_any_name_and_size(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n.py")
    try:
        write_files(tmp_path, {name: "x = 1", "x" * 200 + ".py": "y = 1\n", "empty.py": ""})
    except OSError:
        pytest.skip("the file system takes no such name")
    summary = run_once(tmp_path)

    assert summary["failures"] == []
    assert (summary["files"], summary["lines"]) == (3, 2)
    assert "caf\ufffd\ufffd.py" in {slow["file"] for slow in summary["slowest"]}


def test_links_are_not_followed_in_circles_and_fifos_are_not_opened(tmp_path: Path) -> None:
    write_files(tmp_path, {"one.py": "x = 1"})
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo.py")

    assert list(find_files(tmp_path)) == [tmp_path / "one.py"]


def test_a_batch_is_a_trace_of_its_own_linked_to_the_survey(tree: Path, tmp_path: Path) -> None:
    with Running("demo", "--json", "--pause", "3600", "--path", tree, cwd=tmp_path) as demo:
        summary = json.loads(demo.line())
        trace_id = summary["slowest_batch"]["trace_id"]
        with urllib.request.urlopen(
            f"{summary['url']}/api/traces/{trace_id}", timeout=PATIENCE_SECONDS
        ) as response:
            document = json.load(response)

    resources = document["resourceSpans"]
    spans = [span for resource in resources for scope in resource["scopeSpans"] for span in scope["spans"]]
    (root,) = (span for span in spans if not span.get("parentSpanId"))
    assert root["name"] == "run survey_batch"
    assert [link["traceId"] != trace_id for link in root["links"]] == [True]
    assert sum(span["name"] == "run parse" for span in spans) == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_goes_on_until_a_signal_stops_it_in_order(
    number: signal.Signals, tree: Path, tmp_path: Path
) -> None:
    with Running("demo", "--json", "--pause", "0", "--path", tree, cwd=tmp_path) as demo:
        rounds = [json.loads(demo.line()) for _ in range(3)]
        demo.signal(number)
        assert demo.wait() == 0

    assert [summary["round"] for summary in rounds] == [1, 2, 3]
    assert [summary["status"]["completed"] for summary in rounds] == [16, 32, 48]
    assert all(summary["surfaces_agree"] and summary["tasks"]["completed"] == 16 for summary in rounds)
    log = demo.log()
    assert log[-1]["event"] == "manager.state"
    assert log[-1]["state"] == "stopped"
    assert not [line for line in log if line.get("status") == "cancelled"]


def test_a_survey_that_is_stopped_says_so_and_fails(tmp_path: Path) -> None:
    with Running("demo", "--once", cwd=tmp_path) as demo:
        demo.line("/health")
        demo.signal(signal.SIGTERM)
        assert demo.wait() == 1

    assert "Error: stopped before every file was surveyed" in demo.errors()
    assert "\nTraceback" not in demo.errors(), "but for those of tasks, in their lines"


def test_a_folder_that_goes_away_is_told_and_the_service_goes_on(tree: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with Running("demo", "--json", "--pause", "0.2", "--path", tree, cwd=tmp_path) as demo:
        demo.line()
        tree.rename(gone)
        while "FileNotFoundError" not in demo.errors():
            assert demo.is_alive()
        gone.rename(tree)
        assert json.loads(demo.line('"files": 5'))["surfaces_agree"]
        demo.signal(signal.SIGTERM)
        assert demo.wait() == 0


def test_an_address_that_others_can_reach_needs_a_token(tree: Path) -> None:
    done = run("demo", "--host", "0.0.0.0", "--path", tree)

    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: setting 'server.host': '0.0.0.0' can be reached from other machines")


def test_a_port_in_use_is_one_line_and_status_1(tree: Path, tmp_path: Path) -> None:
    with Running("demo", "--json", "--pause", "3600", "--path", tree, cwd=tmp_path) as demo:
        port = json.loads(demo.line())["url"].rpartition(":")[2]
        done = run("demo", "--port", port, "--path", tree, variables={"QORZEN_TELEMETRY__LOG_LEVEL": "off"})

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"127.0.0.1:{port} is in use already" in line


def test_counts_that_differ_are_named() -> None:
    at_rest = {"pending": 0, "running": 0, "completed": 7, "failed": 2, "cancelled": 0}
    ends = {"completed": 7, "failed": 2, "cancelled": 0}
    counted = {TaskStatus(status): number for status, number in ends.items()}
    right = Surfaces(status=at_rest, gauge=at_rest, finished=ends, submitted=9)
    assert right.disagreements(counted) == []

    wrong = Surfaces(
        status={**at_rest, "running": 1}, gauge=at_rest, finished={**ends, "failed": 3}, submitted=9
    )
    running, failed, everything = wrong.disagreements(counted)
    assert running == "running tasks: 1 by /status, 0 by qorzen_tasks, 0 by the workload"
    assert "3 by qorzen_tasks_finished_total" in failed
    assert "10 by /status, 9 by qorzen_tasks_submitted_total" in everything


def test_counts_that_differ_fail_the_demo(tree: Path) -> None:
    patched = """
import msgspec
from qorzen_obs import cli
from qorzen_obs.demo import rounds
from tests.support import PATIENCE_SECONDS

async def read_wrongly(url, token, read=rounds.read_surfaces):
    surfaces = await read(url, token)
    return msgspec.structs.replace(surfaces, finished={**surfaces.finished, "failed": 9})
rounds.read_surfaces = read_wrongly
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", patched, "demo", "--once", "--json", "--path", tree],
        env=environment({"QORZEN_TELEMETRY__LOG_LEVEL": "off"}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

    assert done.returncode == 1
    assert json.loads(done.stdout)["surfaces_agree"] is False
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: the counts disagree on failed tasks: 2 by /status, ")
    assert "9 by qorzen_tasks_finished_total" in line


def test_a_syntax_tree_is_measured_without_recursion() -> None:
    source = Path(__file__).read_text()
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    found = measure(tree, lines=1)

    assert found.nodes == sum(1 for _ in ast.walk(tree))
    assert found.functions == len(functions)
    assert found.longest_function[0] == max((node.end_lineno or 0) - node.lineno + 1 for node in functions)
    assert measure(ast.parse("-" * 60 + "1"), lines=1).depth == 1 + 1 + 60 + 1


def test_a_terminal_shows_a_display_and_short_failures_and_no_log_lines(tree: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "qorzen_obs", "demo", "--once", "--path", tree],
        env=environment({"TERM": "xterm", "COLUMNS": "100"}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as demo:
        os.close(theirs)
        screen = _read_all(ours)
    os.close(ours)

    assert demo.returncode == 0
    assert "/metrics" in screen
    assert "5 of 5 files" in screen
    assert re.search(r"failed\S* *\S*broken.py\S* +SyntaxError: ", screen)
    assert "round 1: 5 files, 18 tasks, 2 failed" in screen
    assert "task.finished" not in screen
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).splitlines()
    assert max(len(line) for line in lines if "failed  " in line) <= 100


def _read_all(terminal: int) -> str:
    parts = []
    try:
        while part := os.read(terminal, 65536):
            parts.append(part)
    except OSError:  # Linux says so when the other end is closed
        pass
    return b"".join(parts).decode()


@pytest.mark.slow
def test_the_standard_library_is_surveyed_with_thousands_of_tasks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qorzen_obs", "demo", "--once", "--json"],
        cwd=ROOT,
        env=environment({"QORZEN_TELEMETRY__LOG_LEVEL": "warning"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)

    assert summary["surfaces_agree"] is True
    assert summary["status"]["completed"] > 1_000
    assert summary["files"] == sum(
        1 for _ in find_files(LIBRARY, frozenset({"site-packages", "dist-packages"}))
    )
    # On a busy machine the loop may be blocked, too.
    logged = [line for line in json_lines(done.stderr) if line["event"] != names.LOG_LOOP_BLOCKED]
    assert len(logged) == len(summary["failures"]) == summary["status"]["failed"]
    genuine = {"SyntaxError", "UnicodeDecodeError", "ValueError", "RecursionError", "MemoryError"}
    assert {failure["error_type"] for failure in summary["failures"]} <= genuine
    expected = {str(path.relative_to(LIBRARY)) for path in _broken_in_the_library()}
    assert {failure["file"] for failure in summary["failures"]} >= expected


def _broken_in_the_library() -> list[Path]:
    """Files that the library's own tests are about; which ones there are depends on the version and the packager."""
    return [path for path in LIBRARY.glob("test/tokenizedata/bad*.py") if path.name != "badsyntax_3131.txt"]


def running(url: str, text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get_json(f"{url}/api/tasks?status=running&q={text}")["items"]
    return found


def test_a_batch_is_stopped_from_another_terminal() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with program(sys.executable, "-m", "qorzen_obs", "demo", "--json", "--port", str(port)):
        eventually(lambda: running(url, "parse"))
        batch = eventually(lambda: running(url, "batch"))[0]
        cancel = (sys.executable, "-m", "qorzen_obs", "cancel", batch["task_id"], "--url", url)
        asked = subprocess.run(cancel, capture_output=True, text=True, check=False)
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout.startswith(batch["name"])

        stopped = eventually(lambda: ended(url, batch["task_id"]))
        assert (stopped["status"], stopped["cancel_reason"]) == ("cancelled", "cancelled over HTTP")
        trace = get_json(f"{url}/api/tasks/{batch['task_id']}/trace")
        assert trace["resourceSpans"], "what it had done is still to be seen"
        assert get_json(f"{url}/status")["tasks"]["by_status"]["cancelled"] > 1, "its children with it"
        eventually(lambda: running(url, "batch"))  # the others go on


def ended(url: str, task_id: str) -> dict[str, Any] | None:
    task: dict[str, Any] = get_json(f"{url}/api/tasks/{task_id}")
    return None if task["status"] == "running" else task


def test_trouble_goes_wrong_in_every_way_and_is_counted_as_exactly_as_the_rest(tree: Path) -> None:
    done = run("demo", "--once", "--trouble", "--json", "--path", tree)

    assert done.returncode == 0, done.stderr
    (summary,) = json_lines(done.stdout)
    assert summary["tasks"] == {"completed": 16, "failed": 2, "cancelled": 0}
    assert summary["trouble"]["cancelled"] == 0
    assert summary["trouble"]["failed"] == 7
    assert summary["surfaces_agree"] is True
    lines = json_lines(done.stderr)
    ended = {line["task_name"]: line for line in lines if line["event"] == "task.finished"}
    for name, error_type in (
        ("charge order 0001", "timeout"),
        ("await courier 0001", "timeout"),
        ("import orders 0001", "qorzen_obs.demo.trouble.BatchError"),
        ("import order 103", "qorzen_obs.demo.trouble.OrderError"),
        ("convert scan 0001", "lost"),
    ):
        assert ended[name]["error_type"] == error_type
    assert ended["charge order 0001"]["abandoned"] is True
    mails = [line["queue_wait_seconds"] for name, line in ended.items() if name.startswith("send mail ")]
    assert max(mails) > 1.0, "one at a time"
    blocks = {line.get("task_name") for line in lines if line["event"] == "loop.blocked"}
    assert "render invoice 1" in blocks
    assert ended["trouble 1"]["status"] == "completed"


def test_trouble_is_over_when_the_demo_is_stopped(tree: Path, tmp_path: Path) -> None:
    with Running("demo", "--trouble", "--json", "--path", tree, cwd=tmp_path) as demo:
        while '"task_name":"charge order 0001"' not in demo.errors():  # its thread is abandoned now
            assert demo.is_alive()
        demo.signal(signal.SIGINT)
        assert demo.wait() == 0
        ended = {line["task_name"]: line for line in demo.log() if line["event"] == "task.finished"}
    assert ended["trouble 1"]["status"] == "cancelled"
    assert ended["await courier 0001"]["status"] == "cancelled", "nobody waits for its timeout"
    assert demo.log()[-1]["state"] == "stopped"
