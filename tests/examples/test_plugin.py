"""`examples/plugin`: a distribution of its own that instruments the real ollama client."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llamatelemetry import genai
from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import flush_pending
from tests.support.http_server import http_server
from tests.support.recorder import Recorder

if TYPE_CHECKING:
    import ollama
else:
    ollama = pytest.importorskip(
        "ollama", reason="needs ollama: pip install --group example-plugin"
    )

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "examples" / "plugin"
IMPORTS = (ast.Import, ast.ImportFrom)
DONE = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 905_000_000,
    "load_duration": 5_000_000,
    "prompt_eval_count": 11,
    "prompt_eval_duration": 300_000_000,
    "eval_count": 4,
    "eval_duration": 600_000_000,
}


def chunk(text: str, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"model": "llama3.2", "created_at": "2026-01-01T00:00:00Z", "message": message} | more


class Ollama(BaseHTTPRequestHandler):
    """Responds to `/api/chat` in Ollama's format."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body["model"] != "llama3.2":
            self.send_response(404)
            chunks = [{"error": "model not found"}]
        else:
            self.send_response(200)
            chunks = [chunk("Hi", done=False), chunk("!", **DONE)]
            chunks = chunks if body["stream"] else [chunk("Hi!", **DONE)]
        self.end_headers()
        self.wfile.write(b"".join(json.dumps(each).encode() + b"\n" for each in chunks))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(params=["no_content"])
def recorder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.syspath_prepend(str(PLUGIN / "src"))
    from ollama_telemetry import OllamaInstrumentor

    recorder = Recorder()
    instrumentor = OllamaInstrumentor()
    config = LlamaTelemetryConfig(capture_content=request.param)
    instrumentor.instrument(**recorder.providers, config=config, skip_dep_check=True)
    yield recorder
    instrumentor.uninstrument()
    for name in [name for name in sys.modules if name.startswith("ollama_telemetry")]:
        del sys.modules[name]


@pytest.fixture
def client() -> Iterator[ollama.Client]:
    with http_server(Ollama) as port:
        yield ollama.Client(f"http://127.0.0.1:{port}")


MESSAGES = [{"role": "user", "content": "Say hi."}]


@pytest.mark.parametrize("stream", [False, True])
def test_plugin_records_a_chat_with_tokens_and_engine_timings(
    recorder: Recorder, client: ollama.Client, stream: bool
) -> None:
    result = client.chat("llama3.2", MESSAGES, stream=stream, options={"temperature": 0.5})
    texts = [each.message.content for each in (result if stream else [result])]
    assert "".join(texts) == "Hi!"
    span = recorder.call()
    assert span.name == "chat llama3.2"
    assert span.attributes["gen_ai.provider.name"] == "ollama"
    assert span.attributes["gen_ai.request.temperature"] == 0.5
    assert span.attributes["gen_ai.usage.input_tokens"] == 11
    assert span.attributes["gen_ai.usage.output_tokens"] == 4
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert span.attributes["gen_ai.prefill_ms"] == 300
    assert span.attributes["gen_ai.decode_ms"] == 600
    assert recorder.tokens("input") == 11


@pytest.mark.parametrize("recorder", ["span_only"], indirect=True)
@pytest.mark.parametrize(
    ("read", "text", "reason"),
    [(None, "Hi!", "stop"), (2, "Hi!", "stop"), (1, "Hi", "unknown")],
)
def test_plugin_records_the_text_that_the_application_received(
    recorder: Recorder, client: ollama.Client, read: int | None, text: str, reason: str
) -> None:
    result = client.chat("llama3.2", MESSAGES, stream=read is not None)
    if read is not None:
        list(islice(result, read))
    del result
    [message] = json.loads(recorder.call().attributes["gen_ai.output.messages"])
    assert message["parts"] == [{"type": "text", "content": text}]
    assert message["finish_reason"] == reason


def test_plugin_records_an_error_and_passes_it_on(
    recorder: Recorder, client: ollama.Client
) -> None:
    with pytest.raises(ollama.ResponseError, match="model not found"):
        client.chat("unknown", MESSAGES)
    assert recorder.call().attributes["error.type"] == "404"


def test_plugin_ends_the_span_of_an_abandoned_stream(
    recorder: Recorder, client: ollama.Client
) -> None:
    next(client.chat("llama3.2", MESSAGES, stream=True))
    assert flush_pending(10)
    assert "gen_ai.usage.output_tokens" not in recorder.call().attributes


def test_plugin_builds_as_a_distribution_that_opentelemetry_finds(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="needs hatchling: pip install --group build")
    environment = {**os.environ, "PIP_NO_INPUT": "1"}
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--target", str(tmp_path), str(PLUGIN)),
        ],
        check=True,
        env=environment,
    )
    [found] = importlib.metadata.distributions(path=[str(tmp_path)])
    [point] = found.entry_points.select(group="opentelemetry_instrumentor")
    assert (point.name, point.value) == ("ollama_telemetry", "ollama_telemetry:OllamaInstrumentor")


def test_plugin_passes_its_own_tests() -> None:
    path = os.pathsep.join([str(PLUGIN / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    result = subprocess.run(
        command, cwd=PLUGIN, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE
    )
    assert result.returncode == 0, result.stdout.decode()


def test_plugin_imports_only_the_plugin_interface() -> None:
    tree = ast.parse((PLUGIN / "src" / "ollama_telemetry" / "__init__.py").read_text())
    imported = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, IMPORTS)}
    assert {each for each in imported if "llamatelemetry" in each} == {
        "from llamatelemetry import genai"
    }


def test_documentation_shows_every_file_of_plugin() -> None:
    page = (ROOT / "docs/contribute/writing-a-plugin.md").read_text()
    files = ("pyproject.toml", "src/ollama_telemetry/__init__.py", "tests/test_ollama_telemetry.py")
    for name in files:
        assert (PLUGIN / name).read_text().strip() in page


def test_documentation_lists_every_name_of_plugin_interface() -> None:
    page = (ROOT / "docs/contribute/writing-a-plugin.md").read_text()
    interface = page.partition("## Plugin interface")[2]
    assert [name for name in genai.__all__ if f"`{name}`" not in interface] == []
