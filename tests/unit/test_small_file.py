"""Small files that settings and options name: whatever a path leads to, the answer is its text or one clear refusal."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from qorzen_obs import small_file
from qorzen_obs.cli.options import WrongUse, make_client
from qorzen_obs.client import Client, ClientError
from qorzen_obs.errors import SettingsError
from qorzen_obs.settings import load_settings
from qorzen_obs.small_file import UnusableFileError, read_small_file

LIMIT = 100


def test_a_file_of_text_is_read_with_its_mode_and_without_a_mark_of_its_byte_order(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\xef\xbb\xbfgr\xc3\xbcn\n")
    file.chmod(0o640)
    text, mode = read_small_file(file, LIMIT)
    assert (text, mode & 0o777) == ("grün\n", 0o640)
    file.write_bytes(b"x" * LIMIT)
    assert len(read_small_file(file, LIMIT).text) == LIMIT


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"x" * (LIMIT + 1), "is longer than 100 bytes"),
        (b"\xff\xfet\x00", "is not UTF-8 text"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_no_small_text_is_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnusableFileError, match=problem):
        read_small_file(file, LIMIT)


@pytest.mark.parametrize(
    ("path", "problem"), [("/dev/zero", "is a device"), ("/", "is a directory"), ("a\0b", "null")]
)
def test_a_path_that_leads_to_no_file_is_refused(path: str, problem: str) -> None:
    with pytest.raises(UnusableFileError, match=problem):
        read_small_file(Path(path), LIMIT)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_pipe_that_somebody_writes_to_is_read_where_pipes_are_allowed(pipe: Path) -> None:
    writer = threading.Thread(target=pipe.write_text, args=("text",))  # opening it waits for its reader
    writer.start()
    assert read_small_file(pipe, LIMIT, pipes=True).text == "text"
    writer.join()


def test_a_pipe_that_nobody_writes_to_is_refused_after_a_while(
    pipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_file, "PIPE_SECONDS", 0.01)
    with pytest.raises(UnusableFileError, match="is a pipe; it must be a regular file"):
        read_small_file(pipe, LIMIT)
    with pytest.raises(UnusableFileError, match=r"nobody wrote to and closed within 0\.01 s"):
        read_small_file(pipe, LIMIT, pipes=True)
    with pytest.raises(SettingsError, match="nobody wrote to"):
        load_settings(pipe)
    with pytest.raises(WrongUse, match="nobody wrote to"):
        make_client("http://127.0.0.1:1", pipe)


@pytest.mark.parametrize(
    "content", [b"\xff", b"x" * 2_000_000, b"a = " + b"[" * 100_000], ids=["bytes", "huge", "deep"]
)
def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "qorzen.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"--config.*qorzen\.toml"):
        load_settings(file)


def test_a_token_that_no_header_can_carry_is_refused_by_that_name() -> None:
    with pytest.raises(ClientError, match="a character that no header can carry"):
        Client("http://127.0.0.1:1", "many\ncharacters").status()
    with pytest.raises(ClientError, match="Connection refused"):
        Client("http://127.0.0.1:1", "пароль").status()
