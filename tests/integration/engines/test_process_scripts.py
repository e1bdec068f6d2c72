"""A program's own script: its functions and classes in worker processes, with the guard that multiprocessing wants and
without it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.program import environment, write_files

PATIENCE_SECONDS = 60.0  #: of a script, on a busy machine
GUARDED = '\nif __name__ == "__main__":\n    asyncio.run(main())\n'
BARE = "\nasyncio.run(main())\n"
both = pytest.mark.parametrize("start", [GUARDED, BARE], ids=["guarded", "bare"])

HEAD = """
import asyncio
from qorzen_obs import open_task_manager, task
process = task(engine="process")
"""


def lines_of(folder: Path, script: str, *arguments: str, module: str = "") -> list[str]:
    """Run a script to its end, warnings being errors; return what it printed."""
    write_files(folder, {"script.py": script})
    ended = subprocess.run(
        [sys.executable, "-W", "error", *(["-m", module] if module else ["script.py"]), *arguments],
        cwd=folder,
        env=environment({"QORZEN_TELEMETRY__LOG_LEVEL": "off", "PYTHONPATH": str(Path(__file__).parents[3])}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.stderr == ""
    return ended.stdout.splitlines()


@both
def test_a_result_never_writes_a_class_of_the_script(tmp_path: Path, start: str) -> None:
    script = """
class Counted:
    runs = 0
    cache = {}
    registry = []

    def __init_subclass__(cls):
        Counted.registry.append(cls)

class Special(Counted):
    pass

@process
def work():
    Counted.runs += 1
    return Special(), Counted()

async def main():
    async with open_task_manager() as tasks:
        for round in range(2):
            Counted.runs, Counted.cache = 40, {"kept": 1}
            special, counted = await tasks.run(work)
            print(type(special) is Special, type(counted) is Counted, Counted.runs, Counted.cache)
        print(Counted.registry == [Special])
"""
    assert lines_of(tmp_path, HEAD + script + start) == ["True True 40 {'kept': 1}"] * 2 + ["True"]


@both
def test_what_a_class_of_the_script_is_makes_no_difference_to_its_results(tmp_path: Path, start: str) -> None:
    script = """
import abc, collections, dataclasses, enum, typing

@dataclasses.dataclass(slots=True)
class Slotted:
    value: int = 1

@dataclasses.dataclass(slots=True, frozen=True)
class Frozen:
    value: int = 1

class Slots:
    __slots__ = ("value", "__hidden")

    def __init__(self):
        self.value, self.__hidden = 1, 2

    def __eq__(self, other):
        return (self.value, self.__hidden) == (other.value, other.__hidden)

class Colour(enum.Enum):
    RED = 1

class Named(typing.NamedTuple):
    value: int = 1

Pair = collections.namedtuple("Pair", "left right")

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

@dataclasses.dataclass
class Square(Shape):
    side: int = 2

    def area(self):
        return super().__init__() or self.side ** 2

class Outer:
    @dataclasses.dataclass
    class Inner:
        value: int = 1

@process
def work(*given):
    return Slotted(), Frozen(), Slots(), Colour.RED, Named(), Pair(1, 2), Square(), Outer.Inner()

async def main():
    async with open_task_manager() as tasks:
        want = Slotted(), Frozen(), Slots(), Colour.RED, Named(), Pair(1, 2), Square(), Outer.Inner()
        for given in ((), want):
            got = await tasks.run(work, *given)
            print(got == want, [type(each) for each in got] == [type(each) for each in want])
        print(got[3] is Colour.RED, got[6].area())
"""
    assert lines_of(tmp_path, HEAD + script + start) == ["True True"] * 2 + ["True 4"]


@both
def test_an_exception_of_the_script_arrives_as_itself_with_its_message(tmp_path: Path, start: str) -> None:
    script = """
class Missing(Exception):
    def __init__(self, key):
        super().__init__(f"no such key: {key}")
        self.key = key

@process
def work():
    raise Missing("a")

async def main():
    async with open_task_manager() as tasks:
        try:
            await tasks.run(work)
        except Missing as error:
            print(error, error.key)
        info = await tasks.wait_for_task(await tasks.submit_task(work))
        print(info.error_type, "|", info.error, "|", info.traceback.splitlines()[-1])
"""
    assert lines_of(tmp_path, HEAD + script + start) == [
        "no such key: a a",
        "__main__.Missing | no such key: a | Missing: no such key: a",
    ]


@both
def test_tracers_meters_and_loggers_of_the_script_are_made_anew_and_their_spans_arrive(
    tmp_path: Path, start: str
) -> None:
    script = """
import logging
import structlog
from opentelemetry import metrics, trace
tracer = trace.get_tracer("user", "1.0")
meter = metrics.get_meter("user")
log = structlog.get_logger("mine", part="script")
plain_log = logging.getLogger("plain")
structlog.configure(cache_logger_on_first_use=True, processors=[lambda *_: ""])

@process
def work():
    with tracer.start_as_current_span("inside"):
        log.info("from the worker")
        bound.info("too")
        plain_log.warning("and here")
        meter.create_counter("counted").add(1)

async def main():
    global bound
    async with open_task_manager() as tasks:
        bound = log.bind(more=1)
        bound.info("in the service")
        with tracer.start_as_current_span("before"):
            meter.create_counter("before").add(1)
        task_id = await tasks.submit_task(work)
        info = await tasks.wait_for_task(task_id)
        print(info.error)
        while not tasks.looks.traces.trace(info.trace_id):
            await asyncio.sleep(0.01)
        spans = {span.name: span for span in tasks.looks.traces.trace(info.trace_id)}
        print(sorted(spans))
bound = log.bind(more=1)
"""
    out = [line for line in lines_of(tmp_path, HEAD + script + start) if line]
    assert out == ["None", "['inside', 'run work']"]


@both
def test_the_script_s_own_classes_can_be_pickled_inside_of_a_task(tmp_path: Path, start: str) -> None:
    script = """
import pickle
from concurrent.futures import ProcessPoolExecutor
import multiprocessing

class Mine:
    def __init__(self, value):
        self.value = value

def double(mine):
    return Mine(mine.value * 2)

@process
def work():
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(double, Mine(21)).result().value, pickle.dumps(Mine(1))

async def main():
    async with open_task_manager() as tasks:
        for round in range(2):
            doubled, pickled = await tasks.run(work)
            print(doubled, type(pickle.loads(pickled)) is Mine)
"""
    assert lines_of(tmp_path, HEAD + script + start) == ["42 True"] * 2


def test_a_pool_that_starts_fresh_processes_works_inside_of_a_task(tmp_path: Path) -> None:
    script = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing

def double(value):
    return value * 2

@process
def work():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(double, 21).result()

async def main():
    async with open_task_manager() as tasks:
        print(await tasks.run(work))
"""
    assert lines_of(tmp_path, HEAD + script + GUARDED) == ["42"]


def test_a_variable_of_a_bare_script_that_cannot_travel_is_named(tmp_path: Path) -> None:
    script = """
import threading
guard = threading.Lock()

class Helper:
    def help(self):
        with guard:
            return 1

def helper():
    return Helper().help()

@process
def work():
    return helper()

async def main():
    async with open_task_manager() as tasks:
        print((await tasks.wait_for_task(await tasks.submit_task(work))).error)
"""
    (line,) = lines_of(tmp_path, HEAD + script + BARE)
    assert line.startswith(
        "the variable 'guard' that Helper.help uses cannot be sent to a worker process: TypeError"
    )
    script = script.replace("print((", "print('ok' if not (").replace(".error)", ".error else 'no')")
    assert lines_of(tmp_path, HEAD + script + GUARDED) == ["ok"], "made anew"


def test_what_exists_only_behind_the_guard_travels_by_value(tmp_path: Path) -> None:
    script = """
import contextlib

def outside():
    return config["value"]

def caller():
    return outside()

class Uses:
    def value(self):
        return outside()

def by_class(kind):
    return kind().value()

@contextlib.contextmanager
def managed():
    yield outside()

def by_wrapper():
    with managed() as value:
        return value

async def main(inside):
    async with open_task_manager() as tasks:
        print(await tasks.run(inside), await tasks.run(process(caller)), await tasks.run(process(by_class), Uses))
        print(await tasks.run(process(by_wrapper)))

if __name__ == "__main__":
    config = {"value": 42}

    @process
    def inside():
        return config["value"], outside()

    asyncio.run(main(inside))
"""
    assert lines_of(tmp_path, HEAD + script) == ["(42, 42) 42 42", "42"]


def test_a_worker_has_the_arguments_of_the_program(tmp_path: Path) -> None:
    script = """
import sys
if sys.argv[1:] != ["one", "two"]:
    raise SystemExit("usage")

@process
def work():
    return sys.argv[1:]

async def main():
    async with open_task_manager() as tasks:
        print(await tasks.run(work))
"""
    assert lines_of(tmp_path, HEAD + script + GUARDED, "one", "two") == ["['one', 'two']"]


def test_a_script_that_cannot_be_run_again_says_so(tmp_path: Path) -> None:
    script = """
import sys
if __name__ != "__main__":
    raise RuntimeError("only once")

@process
def work():
    return 1

async def main():
    async with open_task_manager() as tasks:
        for round in range(2):
            print((await tasks.wait_for_task(await tasks.submit_task(work))).error)
"""
    for line in lines_of(tmp_path, HEAD + script + GUARDED):
        assert "script.py with another __name__ than '__main__'" in line
        assert "that raised RuntimeError: only once" in line


def test_a_script_whose_guard_does_not_hold_the_start_fails_and_does_not_multiply(tmp_path: Path) -> None:
    script = """
@process
def work():
    return 1

async def main():
    async with open_task_manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(work))
        print(info.error)
        raise SystemExit(0 if info.error is None else 1)

asyncio.run(main())
if __name__ == "__main__":
    pass
"""
    lines = lines_of(tmp_path, HEAD + script)
    assert "SystemExit: 1" in lines[-1]


def test_a_module_that_is_run_by_its_name_is_run_again_with_its_package(tmp_path: Path) -> None:
    module = """
from .other import VALUE

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

class Mine:
    value = VALUE

@process
def work():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(Mine).result()

async def main():
    async with open_task_manager() as tasks:
        made = await tasks.run(work)
        print(type(made) is Mine, made.value)
"""
    write_files(
        tmp_path,
        {
            "package/__init__.py": "",
            "package/other.py": "VALUE = 7",
            "package/runs.py": HEAD + module + GUARDED,
        },
    )
    assert lines_of(tmp_path, "", module="package.runs") == ["True 7"]
