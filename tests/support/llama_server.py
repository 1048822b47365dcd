"""A real llama.cpp server, which all tests of a process share."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from llamatelemetry.llama.embedded import EmbeddedOptions, EmbeddedServer, find_demo_model
from tests.support.components import require

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
        """Return the values of `/metrics` by name, without the prefix `llamacpp:`."""
        with urllib.request.urlopen(f"{self.origin}/metrics", timeout=30) as response:
            lines = response.read().decode().splitlines()
        samples = (line.split() for line in lines if not line.startswith("#"))
        return {name.removeprefix("llamacpp:"): float(value) for name, value in samples}


@pytest.fixture(scope="session")
def llama_server() -> Iterator[LlamaServer]:
    """Start a server with two slots of 1024 tokens and one thread, with embeddings and `/metrics`."""
    require("xllamacpp")
    options = EmbeddedOptions(
        model_path=find_demo_model(),
        alias=MODEL_ALIAS,
        parallel=SLOTS,
        embeddings=True,
        metrics=True,
        slots=True,
    )
    with EmbeddedServer(options) as server:
        yield LlamaServer(server.url, server.pid)
