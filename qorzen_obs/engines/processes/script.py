"""The program's own script, `__main__`, as worker processes have it.

A worker runs the script's source again under the name `__mp_main__`, as multiprocessing does, when it first needs
something from it. So classes and functions of the script travel by name, like those of any module. This requires a
script with an `if __name__ == "__main__":`. The contents of any other `__main__` travel by value, and so does what
exists only inside that block (docs/decisions/0040). Knows nothing of pickling.
"""

from __future__ import annotations

import ast
import dis
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from qorzen_obs import foreign
from qorzen_obs.engines.processes.far_script import FAR_MAIN, MAIN, Script, ScriptModule

# for the present `__main__`, which may be replaced
_scripts: dict[int, tuple[ModuleType, Script | None]] = {}


def find_script() -> Script | None:
    """Return this program's script, None if a worker must not or cannot run it. Reads its file once."""
    main = sys.modules.get(MAIN)
    if main is None:
        return None
    found = _scripts.get(id(main))
    if found is None or found[0] is not main:
        _scripts.clear()
        found = _scripts[id(main)] = main, _read(main)
    return found[1]


def by_name(value: object) -> str | None:
    """Return the name under which a worker finds this class or function of the script; None if it cannot."""
    main = sys.modules.get(MAIN)
    name = foreign.name_of(value)
    if main is None or foreign.attribute(value, "__module__") != MAIN:
        return None
    script = find_script()
    if script is None or name.partition(".")[0] not in script.names or _found(main, name) is not value:
        return None
    return None if _needs_the_block(value, main, script) else name


def _found(main: ModuleType, qualname: str) -> object:
    value: Any = main
    for name in qualname.split("."):
        value = vars(value).get(name) if foreign.is_a(value, (ModuleType, type)) else None
    return value


def _needs_the_block(value: object, main: ModuleType, script: Script) -> bool:
    """Return whether code of the script can reach a name that only its block binds and no worker has."""
    names = vars(main)
    absent = {name for name in names if name not in script.names and not name.startswith("__")}
    waiting, seen = [value] if absent else [], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if foreign.is_a(one, type):
            waiting += _functions_of(one)
        elif type(one) is FunctionType:
            waiting += _closure_of(one)
            for name in _global_names(one.__code__) if one.__globals__ is names else ():
                if name in absent:
                    return True
                waiting.append(names.get(name))
    return False


def _functions_of(kind: type) -> Iterator[object]:
    for value in vars(kind).values():
        if type(value) is property:
            yield from (value.fget, value.fset, value.fdel)
        else:
            yield value.__func__ if type(value) in (staticmethod, classmethod) else value


def _closure_of(function: FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # it is empty
            yield cell.cell_contents


def _global_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _read(main: ModuleType) -> Script | None:
    if isinstance(main, ScriptModule):  # this is a worker itself
        return main.qorzen_script
    path, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    try:
        source = Path(path).absolute().read_bytes()  # type: ignore[arg-type]  # None is one of the errors
        tree, guarded = _without_block(ast.parse(source))
        if not guarded:
            return None
        code = compile(tree, path, "exec", dont_inherit=True)  # type: ignore[arg-type]  # as above
    except (OSError, TypeError, ValueError, SyntaxError, RecursionError):
        return None
    sys.modules.setdefault(FAR_MAIN, main)  # as multiprocessing does: what workers send back names it
    stored = {op.argval for op in dis.get_instructions(code) if op.opname in {"STORE_NAME", "STORE_GLOBAL"}}
    return Script(
        source,
        str(Path(path).absolute()),  # type: ignore[arg-type]  # as above
        getattr(main, "__package__", None),
        getattr(spec, "name", None),
        list(sys.argv),
        frozenset(stored),
    )


def _without_block(tree: ast.Module) -> tuple[ast.Module, bool]:
    """Empty the blocks that run only in the program; return whether there were any."""
    guarded = False

    class Emptied(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST:  # ast's name
            nonlocal guarded
            if _asks_for_main(node.test):
                guarded = True
                node = ast.If(node.test, [ast.Pass()], node.orelse)
            return self.generic_visit(node)

        def visit_FunctionDef(self, node: ast.AST) -> ast.AST:  # as above
            return node  # binds no name of the module

        visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = visit_FunctionDef  # noqa: N815  # as above

    return ast.fix_missing_locations(Emptied().visit(tree)), guarded


def _asks_for_main(test: ast.expr) -> bool:
    return any(
        isinstance(part, ast.Compare)
        and isinstance(part.ops[0], ast.Eq)
        and {"__name__", MAIN} == {_word(part.left), _word(part.comparators[0])}
        for part in ast.walk(test)
    )


def _word(part: ast.expr) -> object:
    return part.id if isinstance(part, ast.Name) else part.value if isinstance(part, ast.Constant) else None
