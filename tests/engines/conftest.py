"""One vLLM server for all tests of this directory, with its own spans sent to a receiver."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.otlp_receiver import Received, http_receiver
from tests.support.vllm_server import VllmServer, vllm_server

SLOTS = 4


@pytest.fixture(scope="session")
def receiver() -> Iterator[Received]:
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def server(receiver: Received) -> Iterator[VllmServer]:
    flags = ("--enable-per-request-metrics", "--max-num-seqs", str(SLOTS))
    with vllm_server(*flags, traces_url=f"{receiver.url}/v1/traces") as server:
        yield server
