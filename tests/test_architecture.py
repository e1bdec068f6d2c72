"""The shape of the source: imports point downwards, and what the formatter and the linter do not see.

It reads source text and imports nothing, so an import under TYPE_CHECKING or inside a function counts too.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from io import StringIO
from itertools import pairwise
from pathlib import Path
from tokenize import COMMENT, OP, TokenInfo, generate_tokens
from typing import Final, TypeGuard

import pytest

PACKAGE = "qorzen_obs"
ROOT = Path(__file__).parents[1] / PACKAGE

# From the bottom up. A part imports only from lower lines, a package also from within itself. One module of a package
# may stand lower than the rest of it.
LEVELS = [
    ["errors"],
    ["clock", "code_cache", "endpoint", "foreign", "monitoring", "small_file"],
    ["footprint", "in_thread", "otel_variables", "tasks"],
    ["engines.traits"],
    ["settings"],
    ["counts"],
    ["stacks"],
    ["current"],
    ["ledger"],
    ["retry"],
    ["arguments", "definition"],
    ["callables", "definition_limit"],
    ["options", "registry", "health"],
    ["record"],
    ["scheduling", "engines", "telemetry", "history"],
    ["core"],
    ["durable"],
    ["server"],
    ["app"],
    ["host", "client", "standing", "hosts"],
    ["testing", "demo", "serve"],
    ["pytest_plugin"],
    [PACKAGE],  # qorzen_obs/__init__.py, the public names
    ["cli"],
    ["__main__"],
]
LEVEL_OF = {part: level for level, parts in enumerate(LEVELS) for part in parts}

NEVER_IN_SCHEDULING = {"asyncio", "threading", "time", "logging", "structlog", "opentelemetry"}
SDK = "opentelemetry.sdk"
MAY_USE_THE_SDK = {
    f"{PACKAGE}.telemetry.setup",  # the only wiring
    f"{PACKAGE}.telemetry.span_pipeline",  # hands SDK spans to the sampler and to exporters
    f"{PACKAGE}.telemetry.sampling",  # samples SDK spans
    f"{PACKAGE}.telemetry.span_store",  # holds finished SDK spans
    f"{PACKAGE}.telemetry.traces",  # sums them up
    f"{PACKAGE}.telemetry.otlp_json",  # writes them out
    f"{PACKAGE}.telemetry.log_export",  # makes its log records
    f"{PACKAGE}.telemetry.metric_export",  # makes what its exporters take
    f"{PACKAGE}.telemetry.metric_points",  # of metric families
    f"{PACKAGE}.telemetry.span_redaction",  # makes them again without secrets
    f"{PACKAGE}.telemetry.task_span",  # makes them of attempts, where somebody wants to see one
    f"{PACKAGE}.telemetry.remote_spans",  # makes them of what worker processes send, and records there
}

MAX_CORE_LINES: Final = 450

MODULES = {
    ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)): path
    for path in sorted(ROOT.rglob("*.py"))
}

SOURCES = sorted(
    str(path.relative_to(ROOT.parent))
    for folder in (PACKAGE, "tests", "docs", "dashboards", "examples")
    for path in (ROOT.parent / folder).rglob("*.py")
)


def part_of(module: str) -> str:
    """The part below qorzen_obs that a dotted name belongs to; a name that is none of them is the root's own."""
    names = module.split(".")[1:]
    return next((part for part in (".".join(names[:2]), *names[:1]) if part in LEVEL_OF), PACKAGE)


@lru_cache(maxsize=1)
def nodes_of(source: str) -> list[ast.AST]:
    """Every node of a source, as `ast.walk` gives them. Kept for the next check of the same source."""
    return list(ast.walk(ast.parse(source)))


def imports(module: str, source: str) -> Iterator[str]:
    """Each name that the source imports, absolute and dotted: `from a import b` gives `a.b`."""
    for node in nodes_of(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*module.split(".")[: -node.level]] if node.level else []
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def violations(module: str, source: str) -> list[str]:
    """What is wrong with a module's imports, a sentence each. A package is named `package.__init__`."""
    top, name = module.split(".")[1], part_of(module)
    if name == PACKAGE and top != "__init__":
        return [f"{module}: put {top!r} on its level in LEVELS, tests/test_architecture.py"]
    found = []
    for imported in imports(module, source):
        top = imported.partition(".")[0]
        if top == PACKAGE:
            other = part_of(imported)
            if other != name and LEVEL_OF[other] >= LEVEL_OF[name]:
                found.append(f"{module} imports {imported}: {name} must not know {other}")
        elif name == "scheduling" and top in NEVER_IN_SCHEDULING:
            found.append(f"{module} imports {imported}: scheduling is pure")
        elif f"{imported}.".startswith(f"{SDK}.") and module not in MAY_USE_THE_SDK:
            found.append(f"{module} imports {imported}: only telemetry/setup.py wires the SDK")
    return found


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("tasks", "from qorzen_obs.options import task", "tasks must not know options"),
        ("tasks", "import qorzen_obs.core.task_manager", "tasks must not know core"),
        ("tasks", "from qorzen_obs import core", "tasks must not know core"),
        ("tasks", "from . import core", "tasks must not know core"),
        ("engines.base", "from qorzen_obs.telemetry.names import X", "engines must not know telemetry"),
        ("engines.processes.worker", "from ...history import base", "engines must not know history"),
        ("engines.traits", "from .base import Engine", "engines.traits must not know engines"),
        ("ledger", "from qorzen_obs.engines.base import Engine", "ledger must not know engines"),
        ("engines.__init__", "from ..scheduling import queue", "engines must not know scheduling"),
        ("core.runner", "from qorzen_obs import TaskManager", "core must not know qorzen_obs"),
        ("core.runner", "def late():\n    from qorzen_obs.app import run", "core must not know app"),
        ("testing", "import qorzen_obs.demo", "testing must not know demo"),
        ("__init__", "from qorzen_obs.cli import main", "qorzen_obs must not know cli"),
        ("server.app", "if TYPE_CHECKING:\n    from qorzen_obs.app import App", "server must not know app"),
        ("scheduling.queue", "import time", "scheduling is pure"),
        ("scheduling.queue", "from opentelemetry.trace import Span", "scheduling is pure"),
        ("core.runner", "from opentelemetry import sdk", "only telemetry/setup.py wires the SDK"),
        ("telemetry.metrics", "import opentelemetry.sdk.trace", "only telemetry/setup.py wires the SDK"),
        ("surprise", "", "put 'surprise' on its level"),
    ],
)
def test_a_wrong_import_is_caught(module: str, source: str, fault: str) -> None:
    (message,) = violations(f"{PACKAGE}.{module}", source)
    assert fault in message


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tasks", "from enum import Enum\nfrom qorzen_obs.errors import QorzenError"),
        ("ledger", "from qorzen_obs.engines.traits import LOOP\nfrom .engines import traits"),
        ("engines.base", "from .traits import EngineTraits"),
        ("scheduling.scheduler", "import heapq\nfrom .queue import Queue\nfrom ..tasks import TaskInfo"),
        ("telemetry.setup", "from opentelemetry.sdk.trace import TracerProvider"),
        ("telemetry.metrics", "from opentelemetry import trace"),
        ("core.__init__", "from . import runner\nfrom ..telemetry import names"),
        ("__init__", "from qorzen_obs.app import open_task_manager\nfrom qorzen_obs.tasks import TaskInfo"),
        ("cli", "from qorzen_obs import TaskManager, __version__\nfrom qorzen_obs.demo import run"),
        ("__main__", "from qorzen_obs.cli import main"),
    ],
)
def test_a_right_import_passes(module: str, source: str) -> None:
    assert violations(f"{PACKAGE}.{module}", source) == []


# What may know one engine from another: the engines, and what makes them.
MAY_KNOW_ENGINES = {f"{PACKAGE}.engines", f"{PACKAGE}.core.concurrency_manager"}
NOT_ONE_ENGINE = {"ENGINES", "EngineTraits", "Place", "by_kind", "runs_in_process"}  # of engines.traits
AN_ENGINE = re.compile(r"\b(engine|engine\.kind|engine\.value|traits\.kind)$")  # what stands for one


def classes(source: str) -> Iterator[ast.ClassDef]:
    return (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))


ENGINE_CLASSES = {
    found.name
    for module, path in MODULES.items()
    if module.startswith(f"{PACKAGE}.engines.")
    for found in classes(path.read_text("utf-8"))
    if found.name.endswith("Engine") and "Protocol" not in map(ast.unparse, found.bases)
}
ENGINE_KINDS = {
    ast.literal_eval(member.value)
    for found in classes((ROOT / "tasks.py").read_text("utf-8"))
    if found.name == "EngineKind"
    for member in found.body
    if isinstance(member, ast.Assign) and isinstance(member.value, ast.Constant)
}


def engines_told_apart(module: str, source: str) -> list[str]:
    """Where a module asks which engine it is, instead of asking the engine's traits, a sentence each."""
    if any(f"{module}.".startswith(f"{known}.") for known in MAY_KNOW_ENGINES):
        return []
    found = []
    made = {node.func for node in nodes_of(source) if isinstance(node, ast.Call)}
    for node in nodes_of(source):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in ENGINE_CLASSES and node not in made:
                found.append(f"line {node.lineno} asks for the class {name}")
            case ast.Attribute(value=ast.Name(id="EngineKind")) if module != f"{PACKAGE}.tasks":
                found.append(f"line {node.lineno} names {ast.unparse(node)}")
            case ast.ImportFrom(module=origin) if origin and origin.endswith("engines.traits"):
                one = {alias.name for alias in node.names} - NOT_ONE_ENGINE
                found += [f"line {node.lineno} imports the traits of {name}" for name in sorted(one)]
            case ast.Dict() if len(kinds_among(node.keys)) > 1:
                found.append(f"line {node.lineno} has a table by engine")
            case ast.Compare() if AN_ENGINE.search(ast.unparse(node.left)):
                compared = [each for other in node.comparators for each in getattr(other, "elts", [other])]
                found += [f"line {node.lineno} compares with {kind!r}" for kind in kinds_among(compared)]
    return found


def kinds_among(nodes: Iterable[ast.expr | None]) -> list[str]:
    """The kinds of engines that stand there as text."""
    values = (node.value for node in nodes if isinstance(node, ast.Constant))
    return [value for value in values if isinstance(value, str) and value in ENGINE_KINDS]


def test_the_engines_are_found_that_nobody_may_tell_apart() -> None:
    own = {"LoopEngine", "ThreadEngine", "ProcessEngine", "MainEngine", "ExternalEngine"}
    assert own == ENGINE_CLASSES
    assert {"loop", "io", "thread", "process", "main", "external"} == ENGINE_KINDS


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("isinstance(engine, ProcessEngine)", "asks for the class ProcessEngine"),
        ("isinstance(engine, (main.MainEngine, int))", "asks for the class MainEngine"),
        ("type(engine) is LoopEngine", "asks for the class LoopEngine"),
        ("match engine:\n    case ThreadEngine():\n        pass", "asks for the class ThreadEngine"),
        ("SLOTS = {EngineKind.IO: 4}", "names EngineKind.IO"),
        ("record.engine is EngineKind.LOOP", "names EngineKind.LOOP"),
        ("from qorzen_obs.engines.traits import ENGINES, PROCESS", "imports the traits of PROCESS"),
        ("WORDS = {'io': 'on a thread', 'process': 'in a process'}", "has a table by engine"),
        ("task.engine == 'process'", "compares with 'process'"),
        ("'s' if engine.kind in ('io', 'other') else ''", "compares with 'io'"),
    ],
)
def test_an_engine_that_is_told_apart_is_caught(source: str, fault: str) -> None:
    (message,) = engines_told_apart(f"{PACKAGE}.core.runner", source)
    assert fault in message


@pytest.mark.parametrize(
    "source",
    [
        "engines = [LoopEngine(loop), external.ExternalEngine(loop, run)]",
        "isinstance(engine, KillingEngine)",
        "from qorzen_obs.engines.traits import ENGINES, EngineTraits",
        "def task(engine: EngineKind | str) -> None: ...",
        "record.engine.place is Place.THREAD",
        "PHASES = {'loop': 1, 'await': 2}",
        "category == 'io'",
        "worker.kind == 'process'",
    ],
)
def test_who_asks_for_traits_passes(source: str) -> None:
    assert engines_told_apart(f"{PACKAGE}.core.runner", source) == []


def docstrings_below(source: str) -> list[str]:
    """The names that are documented by a string below them. One way is enough: `#:` above or behind."""
    found = []
    for node in nodes_of(source):
        statements = getattr(node, "body", None)
        for one, following in pairwise(statements if isinstance(statements, list) else []):
            if isinstance(one, ast.Assign | ast.AnnAssign) and isinstance(following, ast.Expr):
                value = following.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found.append(ast.unparse(one).partition(" ")[0])
    return found


def test_a_docstring_below_a_constant_is_caught() -> None:
    assert docstrings_below('LIMIT = 3\n"""At most."""') == ["LIMIT"]


LINE_LENGTH: Final = 110  # as in pyproject.toml


def broken_by_comment(source: str) -> list[str]:
    """The brackets that the formatter opened only to make room for a comment at the end of a line.

    Without the comment what they hold fits on one line. Brackets that end with a comma are open because of that.
    """
    rows: dict[int, list[TokenInfo]] = {}
    comments, opened, pairs = set[int](), list[TokenInfo](), list[tuple[int, int]]()
    for token in generate_tokens(StringIO(source).readline):
        row = token.start[0]
        if token.type == COMMENT:
            comments.add(row)
        elif token.string.strip():
            rows.setdefault(row, []).append(token)
        if token.type == OP and token.string in "([{":
            opened.append(token)
        elif token.type == OP and token.string in ")]}":
            pairs.append((opened.pop().start[0], row))
    found = []
    for first, last in pairs:
        within = range(first, last + 1)
        if first == last or comments.isdisjoint(within) or any(row not in rows for row in within):
            continue
        line = rows[first][0].line[: rows[first][-1].end[1]]
        for row in within[1:]:
            tokens = rows[row]
            gap = "" if line[-1] in "([{" or tokens[0].string in ")]}" else " "
            line += gap + tokens[0].line[tokens[0].start[1] : tokens[-1].end[1]]
        if len(line) <= LINE_LENGTH and not re.search(r",[)\]}]", line):
            found.append(f"{first}: {line.strip()}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "token: str | None = (\n    None  #: for control\n)",
        "stack = text(\n    block.culprit\n)  # here, not on the loop",
        "def f():\n    if has(\n        'a'\n    ):  # two\n        pass",
        "all = [\n    *{\n        1\n    },  # of the first\n    2,\n]",
    ],
)
def test_a_line_broken_for_its_comment_is_caught(source: str) -> None:
    assert len(broken_by_comment(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "#: For control.\ntoken: str | None = None",
        "all = [\n    1,  # the first\n    2,\n]",
        "all = [\n    # the first\n    1\n]",
        "text = (\n    'a'\n    'b'\n)",
        f"text = (\n    {'a' * 60}\n    + {'b' * 60}  # more\n)",
    ],
)
def test_a_line_broken_for_another_reason_passes(source: str) -> None:
    assert broken_by_comment(source) == []


def starred_literals(source: str) -> list[str]:
    """The literals that are unpacked into another one, as `[*("a", "b"), "c"]`: one list has a line for each item."""
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in nodes_of(source)
        if isinstance(node, ast.Starred) and isinstance(node.value, ast.Tuple | ast.List | ast.Set)
    ]


def test_an_unpacked_literal_is_caught() -> None:
    assert len(starred_literals("all = [*('a', 'b'), *others, 'c']")) == 1


MOST_POSITIONAL: Final = 6


def long_calls(source: str) -> list[str]:
    """The calls with more positional arguments than a reader can tell apart."""
    return [
        f"{node.lineno}: {ast.unparse(node.func)}"
        for node in nodes_of(source)
        if isinstance(node, ast.Call)
        and sum(not isinstance(argument, ast.Starred) for argument in node.args) > MOST_POSITIONAL
    ]


def test_a_call_with_too_many_positional_arguments_is_caught() -> None:
    assert long_calls("f(1, 2, 3, 4, 5, 6, 7)\nf(1, 2, 3, 4, 5, 6, *rest, g=7)") == ["1: f"]


def uses_of_the_default_pool(source: str) -> list[str]:
    """Where asyncio's own pool is used, whose threads the program may hold for as long as it likes."""
    found = []
    for node in nodes_of(source):
        name = getattr(node, "attr", None) or getattr(node, "id", None)
        if name in {"to_thread", "getaddrinfo", "getnameinfo"}:
            found.append(f"{getattr(node, 'lineno', '')}: {name}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("run_in_executor"):
            pool = node.args[0] if node.args else None
            if pool is None or (isinstance(pool, ast.Constant) and pool.value is None):
                found.append(f"{node.lineno}: run_in_executor")
    return found


@pytest.mark.parametrize(
    "use",
    [
        "await asyncio.to_thread(f)",
        "from asyncio import to_thread\nto_thread(f)",
        "call = to_thread",
        "loop.run_in_executor(None, f)",
        "asyncio.get_running_loop().run_in_executor(None, f)",
        "await loop.getaddrinfo(host, 80)",
    ],
)
def test_a_use_of_the_default_pool_is_caught(use: str) -> None:
    assert len(uses_of_the_default_pool(use)) == 1
    assert uses_of_the_default_pool("loop.run_in_executor(self._pool, f)\nrun_in_thread(f)") == []


def looks_at_errors(source: str) -> list[str]:
    """Where a handler of every exception looks at what it has caught, which is a user's, and not by foreign.py."""
    found = []
    for handler in nodes_of(source):
        if not isinstance(handler, ast.ExceptHandler) or handler.type is None:
            continue
        caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        if {"Exception", "BaseException"} & {ast.unparse(kind) for kind in caught}:
            found += [
                f"{node.lineno}: {ast.unparse(node)}"
                for node in ast.walk(handler)
                if looks_at(node, handler.name)
            ]
    return found


def looks_at(node: ast.AST, name: str | None) -> TypeGuard[ast.expr]:
    """Whether an expression shows the object of this name, asks for its class, or takes an attribute of it."""
    match node:
        case ast.FormattedValue(value=looked_at) | ast.Attribute(value=looked_at):
            return ast.unparse(looked_at) == name
        case ast.Call(
            func=ast.Name(id="str" | "repr" | "isinstance" | "getattr" | "hasattr"), args=[looked_at, *_]
        ):
            return ast.unparse(looked_at) == name
    return False


@pytest.mark.parametrize(
    "look", ["str(e)", "f'{e}'", "f'{e!r}'", "isinstance(e, OSError)", "e.args", "getattr(e, 'x')"]
)
@pytest.mark.parametrize("kinds", ["Exception", "BaseException", "(Exception, SystemExit)"])
def test_a_look_at_any_exception_is_caught(look: str, kinds: str) -> None:
    assert len(looks_at_errors(f"try: f()\nexcept {kinds} as e: g({look})")) == 1
    assert looks_at_errors(f"try: f()\nexcept OSError as e: g({look})") == []
    assert looks_at_errors(f"try: f()\nexcept {kinds} as e: g(foreign.text(e), e)") == []


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules that lead back to the first of them by imports of any kind, those for types and in functions too."""
    modules = {module.removesuffix(".__init__"): module for module in sources}
    leads_to: dict[str, set[str]] = {module: set() for module in sources}
    for module, source in sources.items():
        for name in imports(module, source):
            # `from a import b` gives `a.b`: the module of that name, or something in the module `a`.
            found = modules.get(name) or modules.get(name.rpartition(".")[0])
            if found not in (None, module):
                leads_to[module].add(found)
    try:
        TopologicalSorter(leads_to).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other() -> None:
    assert circle({module: path.read_text("utf-8") for module, path in MODULES.items()}) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("from p.b import B", "from p.a import A"),
        ("from p import b", "if TYPE_CHECKING:\n    from p.a import A"),
        ("import p.b", "def late():\n    from .a import A"),
        ("from p.c import C", "from p.a import A"),
    ],
)
def test_a_circle_is_caught(one: str, other: str) -> None:
    found = circle({"p.__init__": "", "p.a": one, "p.b": other, "p.c": "from p import b"})
    assert {"p.a", "p.b"} <= set(found)


def test_imports_in_one_direction_are_no_circle() -> None:
    assert circle({"p.__init__": "from p.a import A", "p.a": "from p.b import B", "p.b": "import os"}) == []


def test_no_module_of_the_core_is_too_long() -> None:
    lengths = {
        module: len(path.read_text("utf-8").splitlines())
        for module, path in MODULES.items()
        if module.startswith(f"{PACKAGE}.core.")
    }
    assert {module: length for module, length in lengths.items() if length > MAX_CORE_LINES} == {}


#: What is held of each module of the package, by what to do where it is not.
OF_MODULES: Final[Mapping[str, Callable[[str, str], list[str]]]] = {
    "imports point downwards": violations,
    "only the engines and what makes them tell one engine from another; ask its traits": engines_told_apart,
    "no call passes so many positional arguments; name them": lambda _, source: long_calls(source),
    "nothing uses the default pool of asyncio; see in_thread.py": (
        lambda _, source: uses_of_the_default_pool(source)
    ),
    "only foreign.py looks at what a handler of every exception has caught": (
        lambda _, source: looks_at_errors(source)
    ),
}
#: What is held of every source, the tests' included.
OF_SOURCES: Final[Mapping[str, Callable[[str], list[str]]]] = {
    "a constant or field is documented by `#:`": docstrings_below,
    "a comment that breaks its line stands above it": broken_by_comment,
    "no literal is unpacked to keep it on a line": starred_literals,
}


@pytest.mark.parametrize("path", SOURCES)
def test_a_source_keeps_the_rules_of_the_house(path: str) -> None:
    source = (ROOT.parent / path).read_text("utf-8")
    broken = {rule: check(source) for rule, check in OF_SOURCES.items()}
    if path.startswith(f"{PACKAGE}/"):
        module = path.removesuffix(".py").replace("/", ".")
        broken |= {rule: check(module, source) for rule, check in OF_MODULES.items()}
    assert {rule: places for rule, places in broken.items() if places} == {}
