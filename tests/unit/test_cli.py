"""What the command line says of itself, and what it refuses before anything starts."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from qorzen_obs.cli import cli, main
from qorzen_obs.serve import BrokenModuleError, ModuleError, UnusableModuleError, load_tasks
from tests.services.program import write_files


def test_the_version_is_the_package_s() -> None:
    done = CliRunner().invoke(cli, ["--version"], prog_name="qorzen-obs")

    assert done.exit_code == 0
    assert done.output == f"qorzen-obs, version {version('qorzen-obs')}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["demo", "serve", "QORZEN_TASKS__MAX_CONCURRENT_TASKS", "2 usage error"]),
        (["-h"], ["demo", "serve"]),
        (["demo", "--help"], ["--path", "--once", "--trouble", "--json", "--pause", "--host", "--port", "--config"]),
        (["serve", "--help"], ["MODULE...", "--host", "--port", "--config FILE", "at_start"]),
        (["--help"], ["top", "status", "tasks", "show", "trace", "submit", "cancel", "rerun", "pause", "resume"]),
        (["doctor", "--help"], ["--config FILE", "--url", "--json", "does not"]),
        (["health", "--help"], ["--url", "--token-file FILE", "--json", "does not answer"]),
        (["tasks", "--help"], ["--status", "--category", "--priority", "--plugin", "--name", "-q", "--limit", "--all"]),
        (["submit", "--help"], ["[JSON]...", "--priority", "--timeout", "--idempotency-key", "--wait"]),
        (["top", "--help"], ["--interval SECONDS", "NO_COLOR", "--url"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_help_names_every_option(arguments: list[str], words: list[str]) -> None:
    done = CliRunner().invoke(cli, arguments)

    assert done.exit_code == 0
    assert [word for word in words if word not in done.output] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dance"], "No such command 'dance'"),
        (["demo", "--port", "abc"], "'abc' is not a valid integer"),
        (["demo", "surplus"], "unexpected extra argument"),
        (["demo", "--json=1"], "does not take a value"),
        (["serve"], "Missing argument 'MODULE...'"),
        (["serve", "tests", "--nonsense"], "No such option"),
        (["serve", "nowhere.at.all"], "module 'nowhere.at.all' does not exist"),
        (["demo", "--path", "/nowhere/at/all"], "'/nowhere/at/all' does not exist"),
        (["top"], "top needs a terminal; for scripts there are"),
        (["top", "--interval", "0"], "is not in the range"),
        (["tasks", "--status", "lost"], "'lost' is not one of"),
        (["tasks", "--limit", "0"], "is not in the range"),
        (["pause", "shoes"], "'shoes' is not one of"),
        (["trace"], "Missing argument 'ID'"),
    ],
)
def test_wrong_use_ends_with_status_2_and_the_reason(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(cli, arguments)

    assert done.exit_code == 2
    assert done.stdout == ""
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--path", "nowhere"], "--path 'nowhere' does not exist; give a directory with Python files"),
        (["--path", "notes.txt"], "--path 'notes.txt' is not a directory; give a directory"),
        (["--path", "empty"], "--path 'empty' holds no Python files; give a directory"),
        (["--path", ""], "--path '' does not exist"),
        (["--port", "70000"], "setting 'server.port'"),
        (["--pause", "-1"], "--pause -1: give 0 or more seconds"),
        (["--pause", "nan"], "--pause nan"),
        (["--config", "nowhere.toml"], "'nowhere.toml' cannot be read: No such file"),
        (["--config", "notes.txt"], "'notes.txt' is not valid TOML"),
        (["--config", "typo.toml"], "setting 'tasks.max_pendng': unknown setting"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_demo_that_cannot_be_is_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(
        tmp_path,
        {
            "empty/notes.py/none": "",
            "good.py": "",
            "notes.txt": "not = [toml",
            "typo.toml": "[tasks]\nmax_pendng = 1\n",
        },
    )
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["demo", "--once", "--path", ".", *arguments])

    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line


def test_options_outrank_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QORZEN_SERVER__PORT", "-1")
    refused = CliRunner().invoke(cli, ["serve", "nowhere"])
    assert "setting 'server.port'" in refused.stderr
    taken = CliRunner().invoke(cli, ["serve", "nowhere", "--port", "0"])
    assert "module 'nowhere'" in taken.stderr


@pytest.mark.parametrize(
    "command", [["status"], ["health"], ["tasks"], ["show", "1"], ["cancel", "1"], ["trace", "1"]]
)
def test_a_command_refuses_a_misspelt_variable_and_asks_nobody(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QORZEN_SERVER__PROT", "9090")
    refused = CliRunner().invoke(cli, command)
    assert refused.exit_code == 2
    assert "QORZEN_SERVER__PROT; did you mean QORZEN_SERVER__PORT?" in refused.stderr


def test_a_command_passes_over_variables_that_are_for_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QORZEN_TASKS__CATEGORY_LIMITS__IO", "4")
    monkeypatch.setenv("QORZEN_URL", "http://127.0.0.1:1")
    assert "127.0.0.1:1" in CliRunner().invoke(cli, ["status"]).stderr


TASK = "from qorzen_obs import task\n@task\ndef work(): ...\n"
LAZY = """
class Proxy:
    def __getattr__(self, name):
        raise RuntimeError("working outside of a request")

request = Proxy()
"""
MODULES: dict[str, str | bytes] = {
    "shop/tasks.py": TASK,
    "good.py": TASK,
    "twin.py": TASK,
    "empty.py": "",
    "needs.py": "import json\nimport a_package_of_nobody\n",
    "fails.py": "\n\n1 / 0\n",
    "broken.py": "def (\n",
    "exits.py": "raise SystemExit(3)",
    "invalid.py": "from qorzen_obs import task\n@task(category='shoes')\ndef work(): ...\n",
    "lazy.py": LAZY + TASK,
}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with modules, which are forgotten again."""
    monkeypatch.chdir(write_files(tmp_path, MODULES))
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_tasks_of_all_modules_are_collected_once(modules: Path) -> None:
    registry = load_tasks(["lazy", "lazy"])

    assert [name for name, _, _ in registry] == ["work"]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["nowhere"], UnusableModuleError, "module 'nowhere' does not exist; it was looked for in"),
        (["shop.nowhere"], UnusableModuleError, "module 'shop.nowhere' does not exist"),
        (["shop.tasks.deeper"], UnusableModuleError, "module 'shop.tasks.deeper' does not exist"),
        (["shop/tasks.py"], UnusableModuleError, "is a file's name; give the module's own, such as 'shop.tasks'"),
        (["good.py"], UnusableModuleError, "such as 'good'"),
        ([".good"], UnusableModuleError, "module '.good' cannot be imported; give its full dotted name"),
        (["empty"], UnusableModuleError, "module 'empty' defines no tasks; mark its functions with @qorzen_obs.task"),
        (["good", "twin"], UnusableModuleError, "module 'twin' cannot be hosted: two tasks are named 'work'"),
        (["needs"], BrokenModuleError, "module 'needs' needs 'a_package_of_nobody', which is not installed ("),
        (["needs"], BrokenModuleError, "needs.py, line 2)"),
        (["fails"], BrokenModuleError, "module 'fails' failed while it was imported: ZeroDivisionError: "),
        (["fails"], BrokenModuleError, "fails.py, line 3)"),
        (["broken"], BrokenModuleError, "SyntaxError: "),
        (["exits"], BrokenModuleError, "module 'exits' failed while it was imported: SystemExit: 3"),
        (["invalid"], BrokenModuleError, "InvalidTaskError: category: 'shoes' is unknown; use one of core"),
        (["invalid"], BrokenModuleError, "invalid.py, line "),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_hosted_is_named_with_the_reason(
    names: list[str], error: type[ModuleError], message: str, modules: Path
) -> None:
    with pytest.raises(error) as refused:
        load_tasks(names)

    assert message in str(refused.value)
    assert "serve.py" not in str(refused.value)
    assert pickle.loads(pickle.dumps(refused.value)).args == refused.value.args


def test_main_is_the_same_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["qorzen-obs", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("qorzen-obs, version ")


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [
        ("health", ("aiohttp", "opentelemetry.sdk", "rich", "structlog")),
        ("serve", ("rich.live", "rich.layout", "qorzen_obs.demo", "qorzen_obs.cli.output")),
        ("tasks", ("aiohttp", "opentelemetry.sdk", "rich.live", "structlog")),
    ],
)
def test_a_command_imports_what_it_needs_and_no_more(command: str, unneeded: tuple[str, ...]) -> None:
    program = f"""
import sys
from qorzen_obs.cli import cli
assert cli.get_command(None, {command!r}) is not None
print([name for name in {unneeded!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("shell", ["zsh", "fish"])  # for bash click asks the installed one for its version
def test_each_shell_gets_a_script_that_completes_commands(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qorzen_obs"],
        env={**os.environ, "_QORZEN_OBS_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"_QORZEN_OBS_COMPLETE={shell}_complete" in done.stdout


def test_commands_are_completed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qorzen_obs"],
        env={
            **os.environ,
            "_QORZEN_OBS_COMPLETE": "zsh_complete",
            "COMP_WORDS": "qorzen-obs do",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert "doctor" in done.stdout.split()
