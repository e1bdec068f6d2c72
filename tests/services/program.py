"""Runs `qorzen-obs`, or another Python program, as a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
COMMAND = ("-W", "error", "-m", "qorzen_obs")


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would change the program's settings or screen, and with any free port."""
    others = ("QORZEN_", "OTEL_", "COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return {**kept, "QORZEN_SERVER__PORT": "0", **changes}


def run(
    *arguments: str | Path, cwd: Path = ROOT, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `qorzen-obs` to its end."""
    return subprocess.run(
        [sys.executable, *COMMAND, *arguments],
        cwd=cwd,
        env=environment(variables or {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the tests in a folder as a user would: without this project's configuration, and warnings are errors."""
    scope = () if "no:asyncio" in options else ("-o", "asyncio_default_fixture_loop_scope=function")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-W", "error", "-p", "no:schemathesis", *scope, *options],
        cwd=folder,
        env=environment(
            {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "PYTEST_ADDOPTS": "-p no:cacheprovider"}
        ),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


class Running:
    """`qorzen-obs` while it runs; killed at the end of the block, if it is still there.

    It may have so many `descriptors` open, and may begin without a standard error.
    """

    def __init__(
        self,
        *arguments: str | Path,
        cwd: Path,
        variables: Mapping[str, str] | None = None,
        descriptors: int | None = None,
        closes_stderr: bool = False,
    ) -> None:
        self._errors = (cwd / "stderr.txt").open("w+")
        limit = f"ulimit -n {descriptors} && " if descriptors else ""
        closing = " 2>&-" if closes_stderr else ""
        self._process = subprocess.Popen(
            ["sh", "-c", f'{limit}exec "$@"{closing}', "sh", sys.executable, *COMMAND, *arguments],
            cwd=cwd,
            env=environment(variables or {}),
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def line(self, containing: str = "") -> str:
        """Read standard output until such a line comes."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if containing in line:
                return line.rstrip("\n")
        raise AssertionError(f"it ended without a line with {containing!r}: {self.errors()}")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """The exit status."""
        return self._process.wait(seconds)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def errors(self, encoding: str | None = None) -> str:
        """Standard error so far."""
        return Path(self._errors.name).read_text(encoding)

    def log(self) -> list[dict[str, Any]]:
        """Standard error, where it is nothing but JSON lines."""
        return json_lines(self.errors())


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Put files into a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
