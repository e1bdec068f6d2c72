"""docs/reference/ has every public name, can be read as it is, and shows nothing that is not public."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import qorzen_obs
from qorzen_obs import errors, hosts, pytest_plugin, testing

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {path.name: path.read_text("utf-8") for path in (DOCS / "reference").glob("*.md")}
GENERATED = sorted(set(PAGES) - {"README.md"})


class Entry(NamedTuple):
    """What a page has of one name, or of one method."""

    page: str
    name: str
    text: str

    @property
    def modules(self) -> list[str]:
        """The modules to import it from; none of a method."""
        found = re.match(r"\nAn? \w+ of `([\w.]+)`(?:, and of `([\w.]+)`)?\.\n", self.text)
        return [module for module in found.groups() if module] if found else []

    @property
    def prose(self) -> str:
        """What is said of it, without its signature and its lists."""
        text = re.sub(r"```python\n.*?```\n", "", self.text, flags=re.DOTALL)
        return re.split(r"^(?:Args|Raises|Attributes|Members):$", text, maxsplit=1, flags=re.MULTILINE)[0]


def entries() -> Iterator[Entry]:
    for page in GENERATED:
        _, *parts = re.split(r"^###? `(.+)`\n", PAGES[page], flags=re.MULTILINE)
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            yield Entry(page, name, text)


ENTRIES = list(entries())
BY_NAME = {entry.name: entry for entry in ENTRIES}


def public_names() -> Iterator[tuple[str, str]]:
    for module in (qorzen_obs, hosts):
        yield from ((module.__name__, name) for name in module.__all__)
    yield from ((errors.__name__, name) for name, value in vars(errors).items() if inspect.isclass(value))
    for module in (testing, pytest_plugin):
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield module.__name__, node.name


@pytest.mark.parametrize(
    ("module", "name"), [pair for pair in public_names() if not pair[1].startswith("_")], ids=".".join
)
def test_every_public_name_is_in_the_reference(module: str, name: str) -> None:
    assert module in BY_NAME[name].modules


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_name_of_the_reference_exists_and_is_described(entry: Entry) -> None:
    said = re.sub(r"\nAn? \w+ of `.*\n", "", entry.prose).strip()
    assert said, "it needs a docstring, or a #: comment"
    for module in entry.modules:
        assert hasattr(importlib.import_module(module), entry.name)
    if not entry.modules:
        owner, _, method = entry.name.partition(".")
        (module,) = BY_NAME[owner].modules
        assert hasattr(getattr(importlib.import_module(module), owner), method)


def test_every_field_and_member_is_described() -> None:
    """Attributes of errors have telling names; what a user sets, or reads of a task, has a line each."""
    lines = [
        (entry.name, line)
        for entry in ENTRIES
        if entry.page != "errors.md"
        for listed in re.findall(
            r"^(?:Attributes|Members):\n\n((?:- .*\n(?:  .*\n)*)+)", entry.text, re.MULTILINE
        )
        for line in re.split(r"\n(?=- )", listed.strip())
    ]
    assert len(lines) > 100
    assert [(name, line) for name, line in lines if not re.match(r"- `[^`]+`:\s\S", line)] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (DOCS / "reference" / (file or page)).resolve()
        assert path.exists(), target
        if anchor:
            assert anchors(PAGES[path.name]).count(anchor) == 1, target


def anchors(text: str) -> list[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", GENERATED)
def test_pages_wrap_and_their_code_is_python(page: str) -> None:
    unbroken = [line for line in PAGES[page].splitlines() if len(line) > 100 and " " in line.strip("- ")]
    assert unbroken == []
    for code in re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL):
        compile(code, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


def test_each_python_writes_the_same_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    written = importlib.import_module("api_pages").pages()
    assert written == {f"reference/{page}": PAGES[page] for page in GENERATED}


def test_the_first_page_leads_to_all_others() -> None:
    assert [page for page in GENERATED if f"]({page})" not in PAGES["README.md"]] == []


@pytest.mark.parametrize(
    ("module", "name", "problem"),
    [
        ("qorzen_obs.core.control", "Control", "Control has Admission of qorzen_obs.core.admission"),
        ("qorzen_obs", "TaskManager", "TaskManager has HistoryParts of qorzen_obs.core.recording"),
    ],
)
def test_a_signature_with_something_that_is_not_public_is_refused(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str, problem: str
) -> None:
    monkeypatch.syspath_prepend(DOCS)
    api_names, api_pages = importlib.import_module("api_names"), importlib.import_module("api_pages")
    page = api_names.Page("task-manager.md", "A page", "Of a test.", (api_names.Entry(module, name),))
    monkeypatch.setitem(api_pages.PAGE_OF, name, page.file)
    with pytest.raises(api_pages.NotPublicError, match=re.escape(problem)):
        api_pages.page_text(page)
