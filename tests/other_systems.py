"""What another system lacks of Linux, as typeshed's stubs have it, and a program that runs as if it were there.

The stubs say for each name of the standard library on which systems it exists, so nothing here is guessed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import mypy

STUBS: Final = Path(mypy.__file__).parent / "typeshed" / "stdlib"

#: Names by module that Linux has and another system does not; None: it has no such module.
Missing = Mapping[str, list[str] | None]

#: Run with the name of the system, then the names in JSON, then a program: it imports the whole package twice, before
#: and after it takes away what the system lacks, so that only the package's own imports see that. Then `failed` has
#: what each module raised, and the program runs.
LACKING: Final = """
import importlib, json, pkgutil, sys
import qorzen_obs

def import_all():
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"

modules = [m.name for m in pkgutil.walk_packages(qorzen_obs.__path__, "qorzen_obs.") if not m.name.endswith("__main__")]
failed = {}
import_all()
assert failed == {}
for name in [name for name in sys.modules if name.partition(".")[0] == "qorzen_obs"]:
    del sys.modules[name]
for name, lacking in json.loads(sys.argv[2]).items():
    if lacking is None:
        sys.modules[name] = None
    elif name in sys.modules:
        for each in lacking:
            vars(sys.modules[name]).pop(each, None)
sys.platform = sys.argv[1]
import_all()
exec(sys.argv[3])
"""


def missing_on(platform: str) -> Missing:
    """What `sys.platform` lacks that Linux has, private modules left out."""
    found: dict[str, list[str] | None] = {}
    for file in [*STUBS.glob("*.pyi"), STUBS / "os" / "__init__.pyi"]:
        name = file.parent.name if file.stem == "__init__" else file.stem
        if name.startswith("_") or name == "posix":
            continue
        body = ast.parse(file.read_text("utf-8")).body
        here, there = ({n for n in names(body, each) if n[0] != "_"} for each in ("linux", platform))
        if here - there:
            found[name] = sorted(here - there) if there else None
    return found


def names(body: Iterable[ast.stmt], platform: str) -> Iterator[str]:
    """The public names that a stub defines for a system."""
    for node in body:
        match node:
            case ast.If():
                yield from names(node.body if holds(node.test, platform) else node.orelse, platform)
            case ast.FunctionDef() | ast.ClassDef():
                yield node.name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign():
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.ImportFrom(module=str(origin)):
                for alias in node.names:
                    source = STUBS / f"{origin}.pyi"
                    if alias.name == "*" and source.exists():
                        yield from names(ast.parse(source.read_text("utf-8")).body, platform)
                    elif alias.asname:
                        yield alias.asname


def holds(test: ast.expr, platform: str) -> bool:
    """Whether a condition of a stub holds on a system, with this Python."""
    match test:
        case ast.BoolOp(op=ast.And()):
            return all(holds(part, platform) for part in test.values)
        case ast.BoolOp(op=ast.Or()):
            return any(holds(part, platform) for part in test.values)
        case ast.UnaryOp(op=ast.Not()):
            return not holds(test.operand, platform)
        case ast.Compare(
            left=ast.Attribute(attr="platform"), ops=[op], comparators=[ast.Constant(value=other)]
        ):
            return (platform == other) == isinstance(op, ast.Eq)
        case ast.Compare(left=ast.Attribute(attr="version_info"), ops=[op], comparators=[version]):
            reached = sys.version_info >= tuple(ast.literal_eval(version))
            return reached == isinstance(op, ast.GtE)
    return False  # such as TYPE_CHECKING
