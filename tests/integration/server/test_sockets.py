"""The ops plane on a socket in the file system, instead of a port."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner, Result

from qorzen_obs.cli import cli
from qorzen_obs.errors import ManagerInitializationError
from qorzen_obs.settings import ServerSettings
from tests.services import program
from tests.services.ops_plane import TOKEN, SaidManager, get_json, managing, serving


def at(path: Path, token: str | None = None) -> ServerSettings:
    return ServerSettings(host=f"unix:{path}", token=token)


async def ask(*arguments: str, **variables: str) -> Result:
    return await asyncio.to_thread(CliRunner(env=variables).invoke, cli, arguments)


async def test_its_owner_alone_may_use_it_and_needs_no_token(tmp_path: Path) -> None:
    path = tmp_path / "ops.sock"
    async with serving(SaidManager(), settings=at(path)) as plane:
        assert (plane.url, plane.port) == (f"unix:{path}", 0)
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        connector = aiohttp.UnixConnector(str(path))
        async with aiohttp.ClientSession(connector=connector) as session:
            assert (await get_json(session, "http://localhost/status"))["state"] == "ready"
            headers = {"Content-Type": "application/json"}
            pause = "http://localhost/api/categories/io/pause"
            async with session.post(pause, data=b"{}", headers=headers) as response:
                assert response.status == 503, "past the guard; there is no loop to ask"
            async with session.get("http://evil.example/status") as response:
                assert response.status == 421
    assert not path.exists()


async def test_a_token_that_is_set_is_asked_for_there_too(tmp_path: Path) -> None:
    path = tmp_path / "ops.sock"
    async with serving(SaidManager(), settings=at(path, token=TOKEN)) as plane:
        without = await ask("health", "--url", plane.url)
        with_token = await ask("health", "--url", plane.url, QORZEN_SERVER__TOKEN=TOKEN)
    assert (without.exit_code, with_token.exit_code) == (1, 0)


@pytest.mark.parametrize("by", ["--url", "QORZEN_URL", "QORZEN_SERVER__HOST"])
async def test_the_commands_ask_at_the_socket_whatever_proxy_there_is(tmp_path: Path, by: str) -> None:
    async with managing() as (manager, _), serving(manager, settings=at(tmp_path / "ops.sock")) as plane:
        task_id = await manager.submit_task(asyncio.sleep, 60, name="long")
        options = ["--url", plane.url] if by == "--url" else []
        variables = {"http_proxy": "http://127.0.0.1:9"} | ({} if options else {by: plane.url})
        listed = await ask("tasks", "--json", *options, **variables)
        cancelled = await ask("cancel", task_id, *options, **variables)
        await manager.wait_for_task(task_id)
    assert [task["name"] for task in json.loads(listed.stdout)["items"]] == ["long"]
    assert cancelled.exit_code == 0


async def test_a_socket_where_nobody_listens_is_status_1(tmp_path: Path) -> None:
    done = await ask("health", "--url", f"unix:{tmp_path}/ops.sock")
    assert done.exit_code == 1
    assert f"unix:{tmp_path}/ops.sock does not answer" in done.stderr


async def test_what_a_dead_process_has_left_makes_way_and_nothing_else_does(tmp_path: Path) -> None:
    left, taken, file = tmp_path / "left.sock", tmp_path / "taken.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    file.write_text("kept")
    async with serving(SaidManager(), settings=at(left)), serving(SaidManager(), settings=at(taken)):
        for path in (taken, file):
            with pytest.raises(ManagerInitializationError, match=r"is in use already; set server\.host"):
                async with serving(SaidManager(), settings=at(path)):
                    pass
        assert taken.is_socket()
    assert file.read_text() == "kept"


@pytest.mark.parametrize("path", ["nowhere/ops.sock", "x" * 200])
async def test_a_path_that_cannot_be_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(ManagerInitializationError, match="cannot be made"):
        async with serving(SaidManager(), settings=at(tmp_path / path)):
            pass


async def test_a_socket_that_another_has_put_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ops.sock"
    async with serving(SaidManager(), settings=at(path)):
        path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(path))
    assert path.is_socket()
    other.close()


def test_the_demo_reads_its_own_figures_there(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "good.py").write_text("x = 1\n")
    host = f"unix:{tmp_path}/ops.sock"
    done = program.run("demo", "--once", "--path", tmp_path / "tree", "--host", host)
    assert done.returncode == 0, done.stderr
    assert f"socket   {tmp_path}/ops.sock" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
