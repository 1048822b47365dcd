"""A llama-server program, or its replacement with the real argument parser."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.children import write_program
from tests.support.components import note_stand_in, require, unavailable
from tests.support.probes import llama_server_program


@pytest.fixture(scope="session")
def program() -> Path:
    """Return the llama-server program, for tests of its router and its log."""
    require("llama-server")
    return llama_server_program()


@pytest.fixture(scope="session")
def real_cli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a program with the argument parser of llama-server and the server of xllamacpp."""
    require("xllamacpp")
    path = tmp_path_factory.mktemp("real") / "llama-server"
    write_program(path, Path(__file__).with_name("real_cli.py").read_text(encoding="utf-8"))
    if subprocess.run([path, "--help"], capture_output=True).returncode == 77:
        pytest.fail("real_cli.py does not support the memory layout of this xllamacpp")
    return path


@pytest.fixture
def any_program(request: pytest.FixtureRequest) -> Path:
    """Return the llama-server program, or `real_cli` if it cannot be used."""
    if unavailable("llama-server"):
        note_stand_in(request.node, "llama-server", "xllamacpp")
        return request.getfixturevalue("real_cli")
    return request.getfixturevalue("program")
