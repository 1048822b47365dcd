"""A real llama.cpp server, which all tests of a process share."""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from llamatelemetry.llama.embedded import find_demo_model
from llamatelemetry.llama.embedded.options import EmbeddedOptions, embedded_command
from llamatelemetry.llama.server.log import ServerLog
from llamatelemetry.llama.server.process import ServerProcess
from tests.support.components import require
from tests.support.waiting import wait_for

MODEL_ALIAS = "SmolLM2-135M-Instruct"
SLOTS = 2


@dataclass(frozen=True)
class LlamaServer:
    """A running server. `origin` has no path; `url` is the base URL for OpenAI clients."""

    origin: str
    pid: int
    model: str = MODEL_ALIAS

    @property
    def url(self) -> str:
        return f"{self.origin}/v1"

    def metrics(self) -> dict[str, float]:
        """Return the samples of `/metrics` by name, without the prefix `llamacpp:`."""
        with urllib.request.urlopen(f"{self.origin}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        samples = (line.split() for line in lines if not line.startswith("#"))
        return {name.removeprefix("llamacpp:"): float(value) for name, value in samples}


@contextmanager
def embedded_server(**options: Any) -> Iterator[LlamaServer]:
    """Run a server that, unlike that of a `ServerManager`, is unknown to the instrumentation."""
    arguments = EmbeddedOptions(model_path=find_demo_model(), **options).arguments()
    log = ServerLog()
    environment = {**os.environ, "OTEL_SDK_DISABLED": "true"}
    process = ServerProcess([*embedded_command(), *arguments], environment, log)

    def announcement() -> re.Match[str] | None:
        text = "\n".join(log.lines())
        assert not process.has_ended, text
        # llama.cpp logs to the same pipe from another thread, perhaps half a line before this one.
        return re.search(r'\{"url": "(.+)", "pid": (\d+)\}', text)

    try:
        wait_for(announcement, timeout_s=60)
        ready = announcement()
        assert ready
        yield LlamaServer(ready[1], int(ready[2]))
    finally:
        process.end(10)


@pytest.fixture(scope="session")
def llama_server() -> Iterator[LlamaServer]:
    """Run one server for all tests: two slots of 1024 tokens, one thread, embeddings, `/metrics`."""
    require("xllamacpp")
    options = {"parallel": SLOTS, "embeddings": True, "metrics": True, "slots": True}
    with embedded_server(alias=MODEL_ALIAS, **options) as server:
        yield server
