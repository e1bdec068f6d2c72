"""What the source says of a public name: its signature as written, its docstring, its fields with their `#:` comments.

It reads text and imports nothing of the package, so the answer is the same on each Python.
"""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

_SIGNATURE_WIDTH: Final = 96
_TYPE_VARIABLES: Final = frozenset({"ParamSpec", "TypeVar", "TypeVarTuple"})
_ENUMS: Final = frozenset({"Enum", "IntEnum"})
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Field:
    """An attribute of a class, a member of an enum, or a module's name that is neither a class nor a function."""

    name: str
    kind: str  #: its type as written; empty where there is none
    value: str  #: its default or value as written; empty where there is none
    doc: str
    uses: frozenset[tuple[str, str]] = frozenset()  #: module and name of what stands in its type


@dataclass(frozen=True, slots=True)
class Callable:
    """A function, a method or a property."""

    name: str
    code: str  #: its signatures, as a stub file has them
    doc: str
    returns: str  #: the type of what it returns, as written
    is_property: bool
    uses: frozenset[tuple[str, str]]  #: module and name of what stands in its annotations


@dataclass(frozen=True, slots=True)
class Class:
    """A class with what it takes over from bases that are not public."""

    name: str
    code: str  #: its header, and its constructor where it is public
    doc: str
    bases: list[str]
    fields: list[Field]
    methods: list[Callable]
    is_enum: bool
    uses: frozenset[tuple[str, str]]  #: of the constructor


@dataclass(frozen=True, slots=True)
class Module:
    """One module of the package."""

    name: str
    lines: list[bytes]  #: as the columns of the tree count, in UTF-8
    tree: ast.Module
    defined: dict[str, ast.stmt]  #: by name
    imported: dict[str, tuple[str, str]]  #: by name: its name and module in the package
    comments: dict[int, str]  #: of the lines with a `#:` comment
    alone: frozenset[int]  #: those of these lines with nothing else


class NotFoundError(Exception):
    """The package has no such name."""


@functools.cache
def module(name: str) -> Module:
    """Return a module by its dotted name."""
    path = ROOT.joinpath(*name.split("."))
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.string.startswith("#:"):
            row, column = token.start
            comments[row] = token.string.removeprefix("#:").partition("  # ")[0].strip()
            if not token.line[:column].strip():
                alone.add(row)
    tree = ast.parse(text)
    defined: dict[str, ast.stmt] = {}
    for node in tree.body:
        for one in _names_of(node):
            defined.setdefault(one, node)
    return Module(
        name,
        lines=text.encode().splitlines(),
        tree=tree,
        defined=defined,
        imported=dict(_imported(tree)),
        comments=comments,
        alone=frozenset(alone),
    )


def _imported(tree: ast.Module) -> Iterator[tuple[str, tuple[str, str]]]:
    """Return what a module imports from the package, those under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("qorzen_obs"):
            yield from ((alias.asname or alias.name, (alias.name, node.module)) for alias in node.names)


@functools.cache
def home(name: str, qualified: str) -> tuple[Module, ast.stmt]:
    """Return where a module's name is defined, following imports within the package.

    Raises:
        NotFoundError: it is not defined in the package.
    """
    within = module(qualified)
    if name in within.defined:
        return within, within.defined[name]
    if name in within.imported:
        return home(*within.imported[name])
    raise NotFoundError(f"{qualified} has no {name}")


def defined_in(qualified: str) -> list[str]:
    """Return the public classes and functions that a module defines, in the order of the source."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node.name for node in module(qualified).tree.body if isinstance(node, kinds)]
    return [name for name in dict.fromkeys(found) if not name.startswith("_")]


def exported_by(qualified: str) -> list[str]:
    """Return a module's `__all__`."""
    node = home("__all__", qualified)[1]
    assert isinstance(node, ast.Assign | ast.AnnAssign)
    assert node.value is not None
    names: list[str] = ast.literal_eval(node.value)
    return names


def read_field(within: Module, node: ast.stmt) -> Field:
    """Return an attribute or a name of a module, with its type, its value and its comment."""
    (name,) = _names_of(node)
    kind, value = "", ""
    if isinstance(node, ast.AnnAssign):
        kind = _written(within, node.annotation)
    assert isinstance(node, ast.Assign | ast.AnnAssign)
    if node.value is not None:
        value = _value(within, node.value)
    return Field(
        name,
        "" if kind in ("Final", "TypeAlias") else kind,
        value,
        _comment(within, node),
        _uses(within, kind),
    )


def read_function(within: Module, name: str, *, internal: Iterable[str] = ()) -> Callable:
    """Return a function of a module; its annotations are looked at but for those of `internal` parameters."""
    return _callable(within, _defs(within.tree.body)[name], is_method=False, internal=internal)


def read_class(
    within: Module,
    node: ast.ClassDef,
    *,
    without: Iterable[str] = (),
    internal: Iterable[str] = (),
    public: frozenset[str],
) -> Class:
    """Return a class without the members in `without`; bases that are not `public` give theirs to it.

    Annotations are looked at but for those of `internal` parameters.
    """
    bases, keywords, family = _bases(within, node, public)
    fields: dict[str, Field] = {}
    methods: dict[str, Callable] = {}
    for home_of, one in reversed(family):
        fields |= {found.name: found for found in _fields(home_of, one)}
        methods |= {
            method: _callable(home_of, parts, is_method=True, internal=internal)
            for method, parts in _defs(one.body).items()
            if _is_shown(method, parts)
        }
    constructor = methods.pop("__init__", None)
    for name in without:
        if name != "__init__" and fields.pop(name, None) is None and methods.pop(name, None) is None:
            raise NotFoundError(f"{node.name} has no {name} to leave out")
    header = "".join(
        f"@{_written(within, decorator)}\n"
        for decorator in node.decorator_list
        if not _written(within, decorator).startswith("total_ordering")
    )
    header += f"class {node.name}({', '.join([*bases, *keywords])}):".replace("():", ":")
    taken: frozenset[tuple[str, str]] = frozenset()
    if constructor is not None and "__init__" not in without:
        header += "\n" + "\n".join(f"    {line}" for line in constructor.code.splitlines())
        taken = constructor.uses
    else:
        header += " ..."
    return Class(
        node.name,
        header,
        ast.get_docstring(node) or "",
        bases,
        [one for one in fields.values() if one.name not in without],
        list(methods.values()),
        is_enum=bool(_ENUMS & set(bases)),
        uses=taken,
    )


def _names_of(node: ast.stmt) -> set[str]:
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return {name}
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return {name}
    return set()


def is_type_variable(node: ast.stmt) -> bool:
    """Whether a name stands for any type."""
    match node:
        case ast.Assign(value=ast.Call(func=ast.Name(id=maker))):
            return maker in _TYPE_VARIABLES
    return False


def uses_of(within: Module, node: ast.expr) -> frozenset[tuple[str, str]]:
    """Return the names in an annotation, each with the module where it stands."""
    return frozenset((within.name, one.id) for one in ast.walk(node) if isinstance(one, ast.Name))


def _uses(within: Module, annotation: str) -> frozenset[tuple[str, str]]:
    return uses_of(within, ast.parse(annotation, mode="eval").body) if annotation else frozenset()


def _bases(
    within: Module, node: ast.ClassDef, public: frozenset[str]
) -> tuple[list[str], list[str], list[tuple[Module, ast.ClassDef]]]:
    """Return the bases that are shown, the keywords, and the class with its bases that are not shown."""
    bases: list[str] = []
    keywords = [f"{one.arg}={_written(within, one.value)}" for one in node.keywords]
    family = [(within, node)]
    for base in node.bases:
        text = _written(within, base)
        try:
            found = None if text in public else home(text, within.name)
        except NotFoundError:
            found = None
        if found is not None and isinstance(found[1], ast.ClassDef):
            inner, _, more = _bases(found[0], found[1], public)
            bases += [one for one in inner if one not in bases]
            family += more
        elif text not in bases:
            bases.append(text)
    return bases, keywords, family


def _defs(body: Iterable[ast.stmt]) -> dict[str, list[Function]]:
    """Return the functions by their names, each with its overloads before it."""
    found: dict[str, list[Function]] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.setdefault(node.name, []).append(node)
    return found


def _is_shown(name: str, parts: list[Function]) -> bool:
    if name == "__init__":
        return True
    is_special = name.startswith("__") and name.endswith("__")
    return ast.get_docstring(parts[-1]) is not None if is_special else not name.startswith("_")


def _fields(within: Module, node: ast.ClassDef) -> Iterator[Field]:
    for one in node.body:
        names = _names_of(one) if isinstance(one, ast.Assign | ast.AnnAssign) else set()
        if names and not next(iter(names)).startswith("_"):
            yield read_field(within, one)
    for constructor in _defs(node.body).get("__init__", []):
        kinds = {
            argument.arg: _written(within, argument.annotation)
            for argument in [*constructor.args.args, *constructor.args.kwonlyargs]
            if argument.annotation is not None
        }
        for one in constructor.body:
            match one:
                case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)], value=value):
                    kind = _kind_of(value, kinds)
                case ast.AnnAssign(target=ast.Attribute(value=ast.Name(id="self"), attr=name)):
                    kind = _written(within, one.annotation)
                case _:
                    continue
            if not name.startswith("_"):
                yield Field(name, kind, "", _comment(within, one), _uses(within, kind))


def _kind_of(value: ast.expr, kinds: dict[str, str]) -> str:
    """Return the type of what a constructor assigns."""
    match value:
        case ast.Name(id=name) if name in kinds:
            return kinds[name]
        case ast.Call(func=ast.Name(id=name)):
            return name
        case ast.Constant(value=constant):
            return type(constant).__name__
    return ""


def _callable(within: Module, parts: list[Function], *, is_method: bool, internal: Iterable[str]) -> Callable:
    """Return a function: its overloads where it has some, else itself."""
    last = parts[-1]
    shown = parts[:-1] or parts
    found: set[tuple[str, str]] = set()
    for one in shown:
        for annotation in _annotations(one, internal):
            found |= uses_of(within, annotation)
    return Callable(
        last.name,
        "\n".join(_signature(within, one, is_method=is_method) for one in shown),
        ast.get_docstring(last) or "",
        "" if last.returns is None else _written(within, last.returns),
        any(_written(within, one) == "property" for one in last.decorator_list),
        frozenset(found),
    )


def _annotations(node: Function, internal: Iterable[str]) -> Iterator[ast.expr]:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    yield from (one.annotation for one in every if one.annotation is not None and one.arg not in internal)
    if node.returns is not None:
        yield node.returns


def _signature(within: Module, node: Function, *, is_method: bool) -> str:
    """Return a signature as a stub file has it, on one line where it fits."""
    decorators = "".join(
        f"@{text}\n" for one in node.decorator_list if (text := _written(within, one)) != "overload"
    )
    parameters = _parameters(within, node)
    if is_method and parameters and parameters[0] in ("self", "cls"):
        del parameters[0]
        if parameters and parameters[0] == "/":
            del parameters[0]
    returns = "" if node.returns is None else f" -> {_written(within, node.returns)}"
    head = f"{'async ' if isinstance(node, ast.AsyncFunctionDef) else ''}def {node.name}("
    line = f"{head}{', '.join(parameters)}){returns}: ..."
    if len(line) > _SIGNATURE_WIDTH - (4 if node.name == "__init__" else 0):
        line = "\n".join([head, *(f"    {parameter}," for parameter in parameters), f"){returns}: ..."])
    return decorators + line


def _parameters(within: Module, node: Function) -> list[str]:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    shown = [_parameter(within, *pair) for pair in zip(positional, defaults, strict=True)]
    if arguments.posonlyargs:
        shown.insert(len(arguments.posonlyargs), "/")
    if arguments.vararg is not None:
        shown.append("*" + _parameter(within, arguments.vararg, None))
    elif arguments.kwonlyargs:
        shown.append("*")
    shown += [
        _parameter(within, *pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    if arguments.kwarg is not None:
        shown.append("**" + _parameter(within, arguments.kwarg, None))
    return shown


def _parameter(within: Module, argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg
    if argument.annotation is not None:
        text += f": {_written(within, argument.annotation)}"
    if default is not None:
        text += f"{' = ' if argument.annotation is not None else '='}{_value(within, default)}"
    return text


def _written(within: Module, node: ast.expr) -> str:
    """Return an expression as the source has it, on one line."""
    if node.lineno != node.end_lineno:
        return ast.unparse(node)
    return within.lines[node.lineno - 1][node.col_offset : node.end_col_offset].decode()


def _value(within: Module, node: ast.expr) -> str:
    """Return a default or a value as written; a constant of the package by its value, where that is short."""
    if isinstance(node, ast.Call) and _written(within, node.func).endswith("field"):
        for keyword in node.keywords:
            if keyword.arg == "default_factory":
                return f"{_written(within, keyword.value)}()".replace("dict()", "{}")
    if isinstance(node, ast.Name):
        try:
            other, found = home(node.id, within.name)
        except NotFoundError:
            return node.id
        match found:
            case ast.Assign(value=ast.Constant() as value) | ast.AnnAssign(value=ast.Constant() as value):
                return _written(other, value)
            case ast.AnnAssign(value=ast.Call(args=[], keywords=[]) as value):
                return _written(other, value)
    return _written(within, node)


def _comment(within: Module, node: ast.stmt) -> str:
    """Return the `#:` comment above an assignment, or the one at its end."""
    assert node.end_lineno is not None
    above: list[str] = []
    line = node.lineno - 1
    while line in within.alone:
        above.insert(0, within.comments[line])
        line -= 1
    if above:
        return " ".join(above)
    return within.comments.get(node.end_lineno, "") if node.end_lineno not in within.alone else ""
