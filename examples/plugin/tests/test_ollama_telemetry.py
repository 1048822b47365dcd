"""Tests of the plugin with the real ollama client and a loopback server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import ollama
import pytest
from ollama_telemetry import OllamaInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

LAST = {"done": True, "done_reason": "stop", "prompt_eval_count": 11, "eval_count": 2}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        chunks = [("Hi", {}), ("!", LAST)] if body["stream"] else [("Hi!", LAST)]
        self.send_response(200)
        self.end_headers()
        for text, more in chunks:
            message = {"role": "assistant", "content": text}
            line = json.dumps({"model": "llama3.2", "message": message, **more})
            self.wfile.write(line.encode() + b"\n")


@pytest.fixture
def client():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield ollama.Client(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


@pytest.fixture
def exporter():
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    OllamaInstrumentor().instrument(tracer_provider=provider)
    yield exporter
    OllamaInstrumentor().uninstrument()


@pytest.mark.parametrize("stream", [False, True])
def test_chat_is_recorded_as_one_span(client, exporter, stream):
    messages = [{"role": "user", "content": "Say hi."}]
    result = client.chat("llama3.2", messages, stream=stream)
    chunks = list(result) if stream else [result]
    assert "".join(chunk.message.content for chunk in chunks) == "Hi!"
    [span] = exporter.get_finished_spans()
    assert span.name == "chat llama3.2"
    assert span.attributes["gen_ai.usage.input_tokens"] == 11
    assert span.attributes["gen_ai.usage.output_tokens"] == 2
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
