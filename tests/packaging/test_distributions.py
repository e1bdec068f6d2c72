"""The sdist and the wheel: complete, tested from what they hold, and tried in environments that have nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest

from dashboards import catalogue, rules
from qorzen_obs import monitoring
from qorzen_obs.monitoring import Site
from tests.services.program import ROOT, environment
from tests.support import PATIENCE_SECONDS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOWEST = ROOT / "requirements-lowest.lock"
PINNED = re.compile(r"^([\w.-]+)==([\w.]+)", re.MULTILINE)

#: Tried with the packages of a lock and nothing of this repository: each kind of task, and what the service serves.
TRIED = """
import asyncio, importlib, os, pkgutil, sys, urllib.request
import qorzen_obs
from qorzen_obs import Settings, open_task_manager, with_options
from qorzen_obs.settings import ServerSettings

assert qorzen_obs.__file__.startswith(sys.prefix)
lacking = {}
for module in pkgutil.walk_packages(qorzen_obs.__path__, "qorzen_obs."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            lacking[module.name] = error.name
assert lacking == {"qorzen_obs.pytest_plugin": "pytest"}, lacking

def get(url, accept="*/*"):
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept})) as answer:
        return answer.read().decode()

async def main():
    async with open_task_manager(Settings(server=ServerSettings(port=0)), http=True) as tasks:
        url = tasks.ops_url.rstrip("/")
        assert await tasks.run(asyncio.sleep, 0, 1) == 1
        assert await tasks.run(int, "2") == 2
        assert await tasks.run(int, "3", category="io") == 3
        assert await tasks.run(with_options(os.getpid, engine="process")) != os.getpid()
        for accept in ("text/plain", "application/openmetrics-text"):
            metrics = await tasks.run(get, f"{url}/metrics", accept)
            assert 'qorzen_tasks{category="core",priority="normal",status="completed"}' in metrics
        assert '"/runbooks"' in await tasks.run(get, f"{url}/openapi.json")
        print(await tasks.run(get, f"{url}/runbooks"), end="")

asyncio.run(main())
"""


def command(*arguments: str | Path, cwd: Path, imports: Path | None = None) -> str:
    """What a program writes to its standard output. Of this repository it imports nothing, but from `imports`."""
    variables = environment({})
    variables.pop("PYTHONPATH", None)
    if imports is not None:
        variables["PYTHONPATH"] = str(imports)
    done = subprocess.run(
        arguments,
        cwd=cwd,
        env=variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    command(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the sdist makes."""
    folder = tmp_path_factory.mktemp("wheel")
    command(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=sdist)
    return next(folder.glob("*.whl"))


def files_below(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_the_sdist_has_all_that_git_has(sdist: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    listed = command("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    assert files_below(sdist) - {"PKG-INFO"} == {name for name in listed if (ROOT / name).exists()}


@pytest.mark.slow
def test_the_sdist_passes_tests_of_its_own(sdist: Path) -> None:
    quick = ("tests/unit/test_docs.py", "tests/unit/test_monitoring.py", "tests/unit/test_public_surface.py")
    command(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *quick, cwd=sdist, imports=sdist)


def test_the_wheel_has_the_package_and_what_the_builders_made_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    package = {f"qorzen_obs/{name}" for name in files_below(ROOT / "qorzen_obs") if "__pycache__" not in name}
    built = {*monitoring.DASHBOARDS, monitoring.RULES, monitoring.RUNBOOKS}
    assert set(catalogue.files()) == set(monitoring.DASHBOARDS)
    assert names == package | {f"qorzen_obs/dashboards/{name}" for name in built}


def metadata_of(wheel: Path) -> tuple[Message, set[str]]:
    """The metadata of a wheel, and the files of licences that it has."""
    with ZipFile(wheel) as packed:
        (name,) = (name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        licences = f"{PurePosixPath(name).parent}/licenses/"
        found = {each.removeprefix(licences) for each in packed.namelist() if each.startswith(licences)}
        return Parser().parsestr(packed.read(name).decode()), found


def test_the_wheel_has_the_licence_of_each_thing_that_it_brings_along(wheel: Path) -> None:
    metadata, found = metadata_of(wheel)
    vendored = {path.relative_to(ROOT).as_posix() for path in (ROOT / "qorzen_obs").rglob("LICENSE*")}
    assert {PurePosixPath(name).stem for name in vendored} == {
        "LICENSE-htm",
        "LICENSE-preact",
        "LICENSE-uplot",
    }
    assert found == {"LICENSE", *vendored} == set(metadata.get_all("License-File", []))
    texts = [(ROOT / name).read_text("utf-8") for name in found]
    known = {"MIT": "Permission is hereby granted, free of charge", "Apache-2.0": "Apache License\n"}
    assert set(metadata["License-Expression"].split(" AND ")) == {
        next(name for name, words in known.items() if words in text) for text in texts
    }


def test_the_classifiers_say_what_the_tests_run_on(wheel: Path) -> None:
    metadata, _ = metadata_of(wheel)
    classifiers = metadata.get_all("Classifier", [])
    versions = [name.rpartition(" ")[2] for name in classifiers if "Python :: 3." in name]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert f"$(filter-out $(mine),{' '.join(versions)})" in makefile
    assert metadata["Requires-Python"] == f">={versions[0]}"
    assert [name for name in classifiers if "Operating System" in name] == [
        "Operating System :: POSIX :: Linux"
    ]


def test_the_lowest_versions_are_the_floors() -> None:
    pinned = dict(PINNED.findall(LOWEST.read_text("utf-8")))
    asked = [
        *PROJECT["dependencies"],
        *(each for extra in PROJECT["optional-dependencies"].values() for each in extra),
    ]
    for requirement in asked:
        name, floor = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:;.*)?", requirement.replace(" ", "")).groups()  # type: ignore[union-attr]
        assert f"{pinned[name]}.0.0".startswith(f"{floor}.0"), f"{requirement}: run `make lock`"


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-lowest.lock"])
def test_an_installation_has_all_that_it_needs(wheel: Path, tmp_path: Path, lock: str) -> None:
    """Only packages of the lock are there, the newest or the lowest that pyproject.toml allows."""
    uv = (sys.executable, "-m", "uv")
    command(*uv, "venv", "--quiet", "--python", sys.executable, "env", cwd=tmp_path)
    python, program = (tmp_path / "env" / "bin" / name for name in ("python", "qorzen-obs"))
    install = (*uv, "pip", "install", "--quiet", "--python", python, "--no-deps")
    command(*install, "--require-hashes", "--requirement", ROOT / lock, cwd=tmp_path)
    command(*install, wheel, cwd=tmp_path)

    assert command(python, "-W", "error", "-c", TRIED, cwd=tmp_path) == monitoring.runbooks()
    assert command(program, "rules", "--job", "mine", cwd=tmp_path) == rules.text(Site("mine"))
    command(program, "dashboards", "--out", tmp_path / "out", cwd=tmp_path)
    assert {file.name: file.read_text("utf-8") for file in (tmp_path / "out").iterdir()} == catalogue.files()
    assert command(program, "--version", cwd=tmp_path).strip().endswith(PROJECT["version"])
    assert "499999500000" in command(python, "-W", "error", ROOT / "examples" / "embedded.py", cwd=tmp_path)
