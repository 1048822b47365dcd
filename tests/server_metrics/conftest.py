"""Fixtures of the server metrics tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.server_metrics.scripted import Scripted, ScriptedModel
from tests.support.llama_programs import program
from tests.support.loopback_server import loopback

__all__ = ["program"]


@pytest.fixture
def serve() -> Iterator[Callable[..., Scripted]]:
    open_servers = []

    def start(*models: ScriptedModel, router: bool = False) -> Scripted:
        server = Scripted(*models, router=router)
        context = loopback(server.respond)
        server.loopback = context.__enter__()
        open_servers.append(context)
        return server

    yield start
    for context in open_servers:
        context.__exit__(None, None, None)
