"""The variables of docs/operate/backends.md send what each backend's documentation asks for.

Each block of the page runs with a local receiver in the place of the backend's hosts.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from tests.support.llama_server import LlamaServer
from tests.support.otlp_receiver import Received, http_receiver
from tests.support.ports import free_port
from tests.support.waiting import wait_for

INSTRUMENT = str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")
PAGE = Path(__file__).parents[2] / "docs/operate/backends.md"
PROGRAM = """
from opentelemetry import _logs, metrics, trace
trace.get_tracer("test").start_span("span").end()
metrics.get_meter("test").create_histogram("histogram").record(1)
_logs.get_logger("test").emit(body="record")
"""
# Headers that each OTLP request has.
COMMON_HEADERS = frozenset(
    {
        *("accept", "accept-encoding", "connection", "content-encoding"),
        *("content-length", "content-type", "host", "transfer-encoding", "user-agent"),
    }
)
SIGNALS = ("traces", "metrics", "logs")


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header of HTTP's basic authentication."""
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def all_signals(headers: dict[str, str], base: str = "") -> dict[str, dict[str, str]]:
    return {f"{base}/v1/{signal}": headers for signal in SIGNALS}


# Paths and headers, as the documentation of each backend asks for them.
DOCUMENTED: dict[str, dict[str, dict[str, str]]] = {
    "Jaeger": {"/v1/traces": {}},
    "Tempo": {"/v1/traces": {"x-scope-orgid": "my-tenant"}},
    "Prometheus": {"/api/v1/otlp/v1/metrics": {}},
    "Grafana Cloud": all_signals(basic("123456", "glc_your_token"), "/otlp"),
    "Langfuse": {
        "/api/public/otel/v1/traces": {
            **basic("pk-lf-your-key", "sk-lf-your-key"),
            "x-langfuse-ingestion-version": "4",
        }
    },
    "Phoenix": {"/v1/traces": {"authorization": "Bearer your-api-key"}},
    "Logfire": all_signals({"authorization": "your-write-token"}),
    "Datadog": {
        "/v1/traces": {"dd-api-key": "your-api-key", "dd-otlp-source": "llmobs"},
        "/v1/metrics": {"dd-api-key": "your-api-key"},
    },
    "Honeycomb": all_signals({"x-honeycomb-team": "your-api-key"})
    | {
        "/v1/metrics": {
            "x-honeycomb-team": "your-api-key",
            "x-honeycomb-dataset": "my-service-metrics",
        }
    },
    "Elastic": all_signals({"authorization": "ApiKey your-api-key"}),
    "SigNoz": all_signals({"signoz-ingestion-key": "your-ingestion-key"}),
    "ClickStack": all_signals({"authorization": "your-ingestion-key"}),
    "Aspire dashboard": all_signals({}),
    "otel-tui": all_signals({}),
}
DELTA_ONLY = {"Datadog", "Elastic"}


def blocks() -> dict[str, str]:
    """Return the first block of variables below each heading of the page."""
    found: dict[str, str] = {}
    heading = ""
    tokens = MarkdownIt().parse(PAGE.read_text(encoding="utf-8"))
    for token, following in itertools.pairwise(tokens):
        if token.type == "heading_open":
            heading = following.content
        elif token.type == "fence" and "export OTEL_" in token.content:
            found.setdefault(heading, token.content)
    return found


def run_block(block: str, received: Received) -> subprocess.CompletedProcess[str]:
    """Run the program with the variables of a block, and the receiver in the place of all hosts."""
    variables = re.sub(r"https?://[^/\s\"]+", received.url, block)
    program = shlex.join([INSTRUMENT, sys.executable, "-c", PROGRAM])
    script = f"{variables}\nexport OTEL_PYTHON_DISTRO=llamatelemetry\nexec {program}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=60
    )


def histogram_temporalities(received: Received) -> set[int]:
    return {
        metric.histogram.aggregation_temporality
        for message in received.messages["metrics"]
        for resource in message.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "histogram"
    }


def test_page_has_a_block_for_each_documented_backend():
    assert list(blocks()) == list(DOCUMENTED)


@pytest.mark.parametrize("backend", DOCUMENTED)
def test_variables_send_documented_paths_and_headers(backend: str):
    with http_receiver() as received:
        done = run_block(blocks()[backend], received)
        assert done.returncode == 0, done.stderr
        arrived = {
            path: {name: text for name, text in headers.items() if name not in COMMON_HEADERS}
            for path, headers in zip(received.paths, received.headers, strict=True)
        }
        assert arrived == DOCUMENTED[backend]
        assert received.malformed == []
        if "metrics" in "".join(arrived):
            wanted = "DELTA" if backend in DELTA_ONLY else "CUMULATIVE"
            expected = AggregationTemporality.Value(f"AGGREGATION_TEMPORALITY_{wanted}")
            assert histogram_temporalities(received) == {expected}


def get_json(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)


def is_up(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=30).close()
    except urllib.error.URLError:
        return False
    return True


CALL = """
from openai import OpenAI
client = OpenAI()
question = [{"role": "user", "content": "Say hi."}]
client.chat.completions.create(model="smol", messages=question, max_tokens=4)
"""


@pytest.mark.slow
@pytest.mark.timeout(360)  # It creates its database first.
@pytest.mark.needs("xllamacpp")
def test_phoenix_shows_a_call_as_llm_span(llama_server: LlamaServer, tmp_path: Path):
    """Run a real Phoenix, which is not among the packages of the tests because it needs 1 GB."""
    phoenix = shutil.which("phoenix")
    if phoenix is None:
        pytest.skip("needs Phoenix: pip install arize-phoenix")
    url = f"http://127.0.0.1:{(port := free_port())}"
    ports = {"PHOENIX_PORT": str(port), "PHOENIX_GRPC_PORT": str(free_port())}
    folder = {"PHOENIX_WORKING_DIR": str(tmp_path), "PHOENIX_HOST": "127.0.0.1"}
    server = subprocess.Popen([phoenix, "serve"], env=os.environ | ports | folder)
    try:
        wait_for(lambda: is_up(f"{url}/healthz"), timeout_s=200)
        variables = blocks()["Phoenix"].replace("http://localhost:6006", url)
        variables += "export OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=span_only\n"
        variables += f"export OPENAI_BASE_URL={llama_server.url} OPENAI_API_KEY=none\n"
        program = shlex.join([INSTRUMENT, sys.executable, "-c", CALL])
        script = f"{variables}export OTEL_PYTHON_DISTRO=llamatelemetry\n{program}"
        subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=True, timeout=100)
        spans_url = f"{url}/v1/projects/my-project/spans?limit=100"
        wait_for(lambda: is_up(spans_url) and get_json(spans_url)["data"], timeout_s=30)
        spans = {span["name"]: span for span in get_json(spans_url)["data"]}
    finally:
        server.terminate()
        server.wait(30)
    call = spans["chat smol"]
    assert call["span_kind"] == "LLM"
    assert call["attributes"]["llm.token_count.completion"] == 4
    assert call["attributes"]["llm.input_messages.0.message.content"] == "Say hi."
    assert {"queue", "prefill", "decode"} <= spans.keys()
