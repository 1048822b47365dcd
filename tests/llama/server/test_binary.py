"""Finding the llama.cpp server to start."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llamatelemetry.llama import (
    ServerNotFoundError,
)
from tests.support.fake_llama_server import NEW, make_server

pytestmark = pytest.mark.needs("ps")


def test_find_binary_prefers_argument_to_variable_to_path(manager, tmp_path: Path, monkeypatch):
    directories = [tmp_path / name for name in ("argument", "variable", "path")]
    programs = []
    for directory in directories:
        directory.mkdir()
        programs.append(make_server(directory, NEW))
    record = tmp_path / "record"

    def started(binary: object) -> str:
        record.unlink(missing_ok=True)
        manager(binary=binary, env={"FAKE_RECORD": str(record)}).start().stop()
        return json.loads(record.read_text())["argv"][0].removesuffix(".py")

    monkeypatch.setenv("PATH", f"{directories[2]}:{os.environ['PATH']}")
    assert started(None) == str(programs[2])
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(directories[1]))
    assert started(None) == str(programs[1])
    assert started(str(programs[0])) == str(programs[0])


def test_find_binary_raises_when_named_program_is_missing(manager, tmp_path, monkeypatch):
    with pytest.raises(ServerNotFoundError, match="binary: program not found: '/no/such'"):
        manager(binary="/no/such").start()
    plain = tmp_path / "plain"
    plain.touch()
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(plain))
    with pytest.raises(ServerNotFoundError, match=r"LLAMA_SERVER_PATH: .* is not executable"):
        manager(binary=None).start()


def test_find_binary_names_install_command_when_no_server_is_installed(
    manager, monkeypatch, tmp_path
):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ServerNotFoundError, match=r"pip install xllamacpp==") as raised:
        manager(binary=None).start()
    assert "LLAMA_SERVER_PATH" in str(raised.value)
