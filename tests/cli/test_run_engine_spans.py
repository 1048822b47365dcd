"""`llamatelemetry run --port` beside an engine that exports its own spans, in batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from llamatelemetry.local.calls import calls_from_spans
from llamatelemetry.local.recording import read_recorded
from tests.support.example_records import otlp_json
from tests.support.http_server import http_server
from tests.support.run_commands import RUN
from tests.support.vllm_replies import recorded, spans_of_reply

PROGRAM = """
import os
import openai
openai.OpenAI().chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}])
print(os.getpid(), flush=True)
"""


class Engine:
    """A server with the recorded response of a vLLM that sends no `metrics`."""

    def __init__(self) -> None:
        self.traceparents: list[str] = []
        self.port = 0

    def send_span(self, receiver: str) -> None:
        """Send vLLM's recorded span of the response, below the span that the client has sent."""
        _, trace_id, span_id, _ = self.traceparents[0].split("-")
        (own,) = spans_of_reply("chat_plain")
        body = otlp_json([replace(own, trace_id=trace_id, parent_span_id=span_id)])
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{receiver}/v1/traces", body.encode(), headers)
        urllib.request.urlopen(request, timeout=30).close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    reply = {**recorded("chat_plain")["body"], "metrics": None}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            engine.traceparents += self.headers.get_all("traceparent", [])
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http_server(Handler) as engine.port:
        yield engine


def wait_for_exit(pid: int) -> None:
    with suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            time.sleep(0.02)


def test_run_waits_for_spans_that_the_engine_sends_after_the_program_has_exited(
    tmp_path: Path, engine: Engine
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*RUN, "--port", str(port), "--output", "run.db", "--no-report"]
    environment = {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{engine.port}/v1",
        "OPENAI_API_KEY": "none",
        "COLUMNS": "150",
    }
    with subprocess.Popen(
        [*command, "--", sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout is not None
        wait_for_exit(int(process.stdout.readline()))
        time.sleep(1)
        engine.send_span(f"http://127.0.0.1:{port}")
        printed = process.communicate(timeout=60)[1]
    assert len(engine.traceparents) == 1
    (call,) = calls_from_spans(read_recorded(tmp_path / "run.db").spans)
    assert (call.input_tokens, call.output_tokens) == (137, 12)
    assert call.prefill_ms == pytest.approx(22.911042)
    row = next(line.split() for line in printed.splitlines() if line.startswith("chat"))
    assert row[2:6] == ["1", "0", "137", "12"]
    assert "TTFT" in printed
