"""Whether the kernel has killed for want of memory is read from either version of cgroups."""

from pathlib import Path

import pytest

from qorzen_obs.engines.processes.guardian import oom_kills
from qorzen_obs.engines.processes.keepers import Death
from qorzen_obs.engines.processes.supervisor import describe
from qorzen_obs.engines.processes.worker import EXIT_NO_MEMORY


def put(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def kills_of(root: Path) -> int:
    return oom_kills(7, proc=str(root / "proc"), cgroups=str(root / "cgroup"))


def test_version_2(tmp_path: Path) -> None:
    put(tmp_path, "proc/7/cgroup", "0::/app.slice/web\n")
    put(tmp_path, "cgroup/app.slice/web/memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\n")
    assert kills_of(tmp_path) == 3


def test_version_1(tmp_path: Path) -> None:
    put(tmp_path, "proc/7/cgroup", "5:cpu,cpuacct:/\n4:memory:/box\n0::/\n")
    put(tmp_path, "cgroup/memory/box/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    assert kills_of(tmp_path) == 4


def test_the_root_of_a_container(tmp_path: Path) -> None:
    put(tmp_path, "proc/7/cgroup", "0::/\n")
    put(tmp_path, "cgroup/memory.events", "oom_kill 1\n")
    assert kills_of(tmp_path) == 1


@pytest.mark.parametrize("cgroup", ["", "0::/\n", "4:memory:/gone\n"])
def test_where_nothing_is_known_it_is_zero(tmp_path: Path, cgroup: str) -> None:
    put(tmp_path, "proc/7/cgroup", cgroup)
    assert kills_of(tmp_path) == 0


@pytest.mark.parametrize(
    ("death", "reason"),
    [
        (Death(9), "its process was killed by SIGKILL"),
        (Death(11 | 0x80), "its process was killed by SIGSEGV"),
        (Death(2 << 8), "its process ended with exit code 2 before the task did"),
        (Death(EXIT_NO_MEMORY << 8), "its process ran out of memory"),
        (Death(9, 1), "its process was killed because its memory cgroup is out of memory"),
        (Death(None), "its process was killed together with its guardian"),
    ],
)
def test_a_death_is_put_into_words(death: Death, reason: str) -> None:
    assert describe(death) == reason
