"""A newcomer who follows README.md and docs/guide/quickstart.md finds what they say."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import click
import pytest

from qorzen_obs.cli import cli
from qorzen_obs.demo.trouble import WHERE_TO_LOOK
from tests.services.program import ROOT, environment, write_files

README = (ROOT / "README.md").read_text("utf-8")
QUICKSTART = (ROOT / "docs" / "guide" / "quickstart.md").read_text("utf-8")
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


@contextmanager
def program(script: Path) -> Iterator[Iterator[str]]:
    """The lines that a script prints, which is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-u", "-W", "error", script],
        cwd=script.parent,
        env=environment({"PYTHONPATH": str(ROOT)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as running:
        assert running.stdout is not None
        try:
            yield (line.rstrip("\n") for line in running.stdout)
        finally:
            running.kill()


def running_at(address: str) -> list[str]:
    """The names of the running tasks: the program starts one after its last line."""
    names: list[str] = []
    while not names:
        with urlopen(f"{address}/api/tasks?status=running") as answer:
            names = [item["name"] for item in json.load(answer)["items"]]
    return names


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= 200


def test_the_lines_that_embed_it_run_and_show_their_task(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    write_files(tmp_path, {"embed.py": code})
    with program(tmp_path / "embed.py") as lines:
        value, address = next(lines).split()
        assert value == "6"
        assert running_at(address) == ["sleep"]


def test_the_program_of_the_quickstart_prints_what_the_page_says(tmp_path: Path) -> None:
    files = dict(re.findall(r"^```python\n(?=# (\S+)\n)(.*?)^```$", QUICKSTART, re.MULTILINE | re.DOTALL))
    assert files.keys() == {"words.py", "main.py"}
    write_files(tmp_path, files)
    (told,) = re.findall(r"^It prints\n\n```\n(.*?)^```$", QUICKSTART, re.MULTILINE | re.DOTALL)
    with program(tmp_path / "main.py") as lines:
        printed = [next(lines) for _ in told.splitlines()]
        address = ADDRESS.search(printed[-1])
        assert address is not None
        assert [ADDRESS.sub("…", line) for line in printed] == ADDRESS.sub("…", told).splitlines()
        assert running_at(address[0]) == ["time to look"]


@pytest.mark.parametrize("text", [README, QUICKSTART], ids=["README", "quickstart"])
def test_each_command_is_used_as_it_may_be(text: str) -> None:
    lines = re.findall(r"^ *\.venv/bin/qorzen-obs (.*)$", text, re.MULTILINE)
    assert lines
    for line in lines:
        name, *arguments = shlex.split(line, comments=True)
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, name
        command.make_context(name, arguments)


def test_the_six_steps_are_the_troubles_of_the_demo() -> None:
    steps = README.partition("## `--trouble` in six steps")[2].partition("\n## ")[0]
    assert re.findall(r"^(\d)\. \*\*", steps, re.MULTILINE) == ["1", "2", "3", "4", "5", "6"]
    assert len(WHERE_TO_LOOK) == 6
    told = " ".join(where for _, where in WHERE_TO_LOOK)
    named = re.findall(r'-q "([^"]+)"', steps)
    assert named
    assert [name for name in named if name not in told] == []


def test_each_path_of_the_readme_is_a_route() -> None:
    routes = json.loads((ROOT / "docs" / "openapi.json").read_text("utf-8"))["paths"]
    known = {re.sub(r"{\w+}", "{}", path) for path in [*routes, "/openapi.json"]}
    paths = re.findall(r"`(/[^`?\s]*)(?:\?\w+)?`", README)
    assert len(paths) > 10
    assert [path for path in paths if re.sub(r"{\w+}", "{}", path) not in known] == []


def test_each_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
