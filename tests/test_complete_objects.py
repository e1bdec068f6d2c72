"""Every object is complete when its constructor returns, and nobody patches it from outside afterwards.

Like test_architecture.py, this reads source text and imports nothing.
"""

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import pytest

from tests.test_architecture import MODULES, PACKAGE

#: Attributes that a method other than the constructor assigns first, by module and class, and why they may.
LATE: Final[Mapping[str, str]] = {
    "core.far_logging.ForwardingHandler.lock": "the constructor of logging.Handler calls createLock",
}

#: Records that others than their class write, by the name they go by: in every module, or in one.
RECORDS: Final[Mapping[str, str]] = {
    "attempt": "Attempt: its engine, the runner and the instrument of spans each own some fields",
    "meter": "Meter: the engine that runs the attempt measures into it",
    "record": "TaskRecord: the lifecycle moves it on, and waiting and the instrument own a field each",
    "runtime": "Runtime: what holds for one manager right now; its start, its stop and its settings replace it",
    "cli.top.drawing.view": "View: what a person has chosen; drawing decides how far it scrolls",
    "cli.top.screen.view": "View, as above",
    "core.control.again": "TaskRecord: a rerun that is not accepted yet",
    "core.health_checks.run": "_Run: one run of a check",
    "core.idempotency.use": "_Use: one use of a key",
    "definition_limit.limit": "DefinitionLimit: shared by all tasks of a definition, of which the last decides",
    "core.waiting.wait": "Wait: what one caller waits for",
    "demo.workload.source": "Source: a file on its way through the tasks",
    "demo.workload.tally": "Tally: what a survey has found so far",
    "engines.loop.run": "_Run: an attempt on its way through the engine",
    "engines.processes.engine.job": "Job: a call on its way through the engine",
    "engines.threads.job": "_Job: a call on its way through the engine",
    "scheduling.limits.own": "DefinitionLimit: counted together with the other limits",
    "scheduling.scheduler.group": "_Group: where a queue stands among the others",
    "scheduling.scheduler.task": "Schedulable: has a field for the scheduler alone",
    "server.health_history.check": "_Check: the past of one check",
    "telemetry.loop_monitor.block": "Block: the monitor writes it under its lock",
    "telemetry.span_store.trace": "_Trace: the store writes it under its lock",
    "telemetry.task_lines.ring": "_Ring: the lines of one task",
    "telemetry.trace_buffer.trace": "_Trace: an undecided trace",
}

#: Objects with attributes that are settings: they work with the first value, and with each later one.
SETTINGS: Final[Mapping[str, str]] = {
    "core.admission.waiting": "Waiting: how many places a batch keeps while it waits for more",
    "core.batch.announcer": "Announcer: whether it holds events back, within one step of the loop",
    "core.batch.scheduler": "Scheduler: whether it holds tasks back, within one step of the loop",
    "core.control.scheduler": "Scheduler: which categories are paused",
    "core.live_settings.history": "MemoryHistory: how much it keeps",
    "core.live_settings.limits": "Limits: how many may run",
    "core.live_settings.scheduler": "Scheduler: how fast tasks age",
}

#: Objects of other libraries, which have no better way.
FOREIGN: Final[Mapping[str, str]] = {
    "engines.base.task": "asyncio: a Task that is never to be destroyed must not say so",
    "cli.top.drawing.line": "rich: attributes of a Text say how it wraps",
    "engines.processes.far_imports.loader": "importlib: has no hook that runs after a module was loaded",
    "engines.loop.stands_for": "asyncio: who waits for a future notes that in it",
    "engines.processes.worker.current_process()": "multiprocessing: a process is given its key after it was made",
    "telemetry.log_taps.Logger": "logging: has no hook for all records that leaves its handlers alone",
    "server.app.writer": "aiohttp: counts an interim response as a part of the final one",
    "telemetry.span_redaction.bounded": "OpenTelemetry: a collection carries the count of what was dropped",
}

#: Not yet complete when their constructor returns.
KNOWN: Final[Mapping[str, str]] = {
    "core.life.limits": "Limits: the slots of the engines are known once the manager starts",
}

ALLOWED: Final = (RECORDS, SETTINGS, FOREIGN, KNOWN)
_CONSTRUCTORS: Final = frozenset({"__init__", "__post_init__"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


def stores(node: ast.AST) -> Iterator[ast.Attribute]:
    """Each attribute that the code gives a value, or deletes."""
    bare = {id(one.target) for one in ast.walk(node) if isinstance(one, ast.AnnAssign) and one.value is None}
    for one in ast.walk(node):
        if isinstance(one, ast.Attribute) and not isinstance(one.ctx, ast.Load) and id(one) not in bare:
            yield one


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def methods(of: ast.ClassDef) -> dict[str, Function]:
    return {one.name: one for one in of.body if isinstance(one, Function)}


def constructors(of: ast.ClassDef) -> set[str]:
    """The methods that run in the constructor: `__init__`, and what it calls on self, and so on."""
    by_name, found = methods(of), set[str]()
    ahead = by_name.keys() & _CONSTRUCTORS
    while ahead:
        found |= ahead
        calls = (one.func for name in ahead for one in ast.walk(by_name[name]) if isinstance(one, ast.Call))
        called = {one.attr for one in calls if isinstance(one, ast.Attribute) and is_self(one.value)}
        ahead = (called & by_name.keys()) - found
    return found


def declared(of: ast.ClassDef) -> Iterator[str]:
    """What the body of the class names: class attributes, fields, slots."""
    for one in of.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            yield one.target.id
        if isinstance(one, ast.Assign):
            named = [target.id for target in one.targets if isinstance(target, ast.Name)]
            yield from named
            if "__slots__" in named:
                constants = (part.value for part in ast.walk(one.value) if isinstance(part, ast.Constant))
                yield from (value for value in constants if isinstance(value, str))


def made(of: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> set[str]:
    """The attributes that an instance has when its constructor returns, those of its bases included."""
    by_name = methods(of)
    found = set(declared(of))
    found |= {one.attr for name in constructors(of) for one in stores(by_name[name]) if is_self(one.value)}
    for base in of.bases:
        name = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(name, ast.Name) and name.id in classes and name.id != of.name:
            found |= made(classes[name.id], classes)
    return found


def classes_in(tree: ast.AST) -> dict[str, ast.ClassDef]:
    return {one.name: one for one in ast.walk(tree) if isinstance(one, ast.ClassDef)}


def late(module: str, tree: ast.AST, classes: Mapping[str, ast.ClassDef]) -> Iterator[str]:
    """Each attribute of self that appears after the constructor, as `module.Class.attribute`."""
    for name, one in classes_in(tree).items():
        complete = made(one, classes)
        for method in methods(one).values():
            for store in stores(method):
                if is_self(store.value) and store.attr not in complete:
                    yield f"{module}.{name}.{store.attr}"


def holder(node: ast.AST) -> str:
    """The last name that leads to the object: `record` in `record.state`, `meter` in `self._meter.probe`."""
    text = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return text.lstrip("_") or ast.unparse(node)


def patched(module: str, tree: ast.AST) -> Iterator[str]:
    """Each object that other code gives an attribute, as `module.name`; except for Python's own attributes."""
    for one in stores(tree):
        if not is_self(one.value) and not (one.attr.startswith("__") and one.attr.endswith("__")):
            yield f"{module}.{holder(one.value)}"


def excuse(found: str, *excuses: Mapping[str, str]) -> str | None:
    """The entry that allows what was found: for all of it, or for the module or name that it is in."""
    parts = found.split(".")
    names = [".".join(parts[:end]) for end in range(len(parts), 0, -1)] + [parts[-1]]
    return next((name for name in names for known in excuses if name in known), None)


class Found(NamedTuple):
    """What all modules of the package do."""

    late: list[str]
    patched: list[str]


@pytest.fixture(scope="module")
def found() -> Found:
    trees = {
        module.removeprefix(f"{PACKAGE}."): ast.parse(path.read_text("utf-8"))
        for module, path in MODULES.items()
    }
    classes = {name: one for tree in trees.values() for name, one in classes_in(tree).items()}
    return Found(
        late=[one for module, tree in trees.items() for one in late(module, tree, classes)],
        patched=[one for module, tree in trees.items() for one in patched(module, tree)],
    )


def test_objects_have_all_attributes_when_their_constructor_returns(found: Found) -> None:
    assert [one for one in found.late if excuse(one, LATE) is None] == []


def test_other_code_writes_only_attributes_of_records_and_settings(found: Found) -> None:
    assert [one for one in found.patched if excuse(one, *ALLOWED) is None] == []


def test_each_exception_is_needed(found: Found) -> None:
    used = Counter(excuse(one, LATE) for one in found.late)
    used.update(excuse(one, *ALLOWED) for one in found.patched)
    assert {name for allowed in (LATE, *ALLOWED) for name in allowed} - used.keys() == set()


@pytest.mark.parametrize(
    ("body", "attribute"),
    [
        ("def __init__(self):\n  self.tasks: int\n def start(self):\n  self.tasks = 1", "tasks"),
        ("def start(self):\n  self.tasks = 1", "tasks"),
        ("def start(self):\n  with open('x') as self.file: pass", "file"),
        ("def start(self):\n  self.first, (self.x, _) = 1, (2, 3)\n first = 0", "x"),
        ("def __init__(self):\n  call(self._reset)\n def _reset(self):\n  self.lock = 1", "lock"),
    ],
)
def test_a_late_attribute_is_found(body: str, attribute: str) -> None:
    assert list(late("m", ast.parse(f"class C:\n {body}"), {})) == [f"m.C.{attribute}"]


@pytest.mark.parametrize(
    "source",
    [
        "class C:\n def __init__(self):\n  self._reset()\n def _reset(self):\n  self.lock = 1",
        "class C:\n x: int = 0\n def go(self):\n  self.x += 1",
        "class C:\n __slots__ = ('x', *('y', 'z'))\n def go(self):\n  self.x = self.z = 1",
        "class B:\n def __init__(self):\n  self.x = 1\nclass C(B):\n def go(self):\n  self.x = 2",
    ],
)
def test_an_attribute_that_the_constructor_makes_is_not_late(source: str) -> None:
    tree = ast.parse(source)
    assert list(late("m", tree, classes_in(tree))) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("store.undecided = sampler", "store"),
        ("self.loggers.stream.export = None", "stream"),
        ("self._ring.streams += 1", "ring"),
        ("find().busy = True", "find()"),
        ("del span._attempt", "span"),
    ],
)
def test_a_patched_object_is_found(source: str, name: str) -> None:
    assert list(patched("m", ast.parse(source))) == [f"m.{name}"]


@pytest.mark.parametrize("source", ["self.x = 1", "error.__traceback__ = None", "x[1] = 2", "x: int = 1"])
def test_other_stores_are_allowed(source: str) -> None:
    assert list(patched("m", ast.parse(source))) == []
