"""The pages of docs/guide: their blocks of code, and a program that runs those of one page as a reader would.

    python -m tests.services.guide docs/guide/retries.md

A block whose first line names a file is that file. The other blocks of Python run one after the other, where `tasks`
is an open task manager and `await` stands at the top.
"""

import ast
import asyncio
import inspect
import re
import sys
from pathlib import Path
from typing import Final, NamedTuple

from qorzen_obs import open_task_manager
from tests.services.program import ROOT

GUIDE: Final = ROOT / "docs" / "guide"
#: The pages that show whole programs, commands and what they print; the tests of these programs run them.
PROGRAMS: Final = {"command-line", "observing", "quickstart", "serving", "testing"}
#: The pages whose code this runs.
PAGES: Final = sorted(page for page in GUIDE.glob("*.md") if page.stem not in PROGRAMS)

_FENCED = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMES_ITSELF = re.compile(r"# (\S+\.\w+)\n")


class Block(NamedTuple):
    """One block of a page."""

    language: str
    text: str
    line: int  #: of the page, where the text begins

    @property
    def file(self) -> str | None:
        """The file that it stands for."""
        named = _NAMES_ITSELF.match(self.text)
        return named[1] if named else None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(found["language"], found["text"], text.count("\n", 0, found.start("text")) + 1)
        for found in _FENCED.finditer(text)
    ]


def files_of(page: Path) -> dict[str, str | bytes]:
    """The files that blocks of a page stand for."""
    return {block.file: block.text for block in blocks_of(page) if block.file is not None}


async def run_code_of(page: Path) -> None:
    """Run the code of a page; the files that it imports are in the working directory."""
    sys.path.insert(0, str(Path.cwd()))
    async with open_task_manager() as tasks:
        names = {"__name__": page.stem, "tasks": tasks}
        for block in blocks_of(page):
            if block.language == "python" and block.file is None:
                source = "\n" * (block.line - 1) + block.text  # a traceback has the lines of the page
                flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                code = compile(source, str(page), "exec", flags, dont_inherit=True)
                running = eval(code, names)
                if inspect.isawaitable(running):
                    await running


if __name__ == "__main__":
    asyncio.run(run_code_of(Path(sys.argv[1])))
