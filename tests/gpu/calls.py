"""Calls to a llama.cpp server that runs on the GPU of the test NVML library."""

from __future__ import annotations

import time

from opentelemetry.trace import SpanKind

from tests.gpu.conftest import Tracing
from tests.support import nvml

SERVER_PID = 4711
LLAMA_SERVER = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "llama_cpp",
    "server.address": "127.0.0.1",
    "server.port": 8080,
}
ORIGIN = "http://127.0.0.1:8080"
LONG_ENOUGH_S = 0.6
"""Three times ten counter updates of 20 ms, for a busy machine."""


def pids_of(origin: str) -> set[int]:
    return {SERVER_PID} if origin == ORIGIN else set()


def with_server(**changes) -> dict:
    return nvml.one_gpu(processes=[{"pid": SERVER_PID, "memory": 5 * nvml.GIB}], **changes)


def call(tracing: Tracing, attributes, scope="test", seconds=LONG_ENOUGH_S, **options):
    options = {"kind": SpanKind.CLIENT, **options}
    span = tracing.tracer(scope).start_span("call", attributes=attributes, **options)
    time.sleep(seconds)
    span.set_attribute("gen_ai.usage.output_tokens", 100)
    span.end()
    return tracing.attributes("call")
