"""The program of scripts/record_telemetry_examples.py: calls of many kinds to real engines.

    python -m scripts._telemetry_program everything|kept

`kept` makes one call, for tail sampling.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import llamatelemetry
from llamatelemetry.bench import BenchmarkProfile, BenchmarkRunner
from llamatelemetry.llama import LlamaCppClient, LlamaServerError, ServerConfig, ServerManager
from llamatelemetry.llama.embedded import find_demo_model
from llamatelemetry.nccl import NCCLGroup
from llamatelemetry.pipeline import PipelineTracer, agent

MODEL = "SmolLM2-135M-Instruct"
QUESTION = [
    {"role": "system", "content": "You answer in one word."},
    {"role": "user", "content": "What color is the sky?"},
]
OTHER_QUESTION = [QUESTION[0], {"role": "user", "content": "What color is grass?"}]
SETTINGS: dict[str, Any] = {
    "max_tokens": 16,
    "temperature": 0.2,
    "top_p": 0.9,
    "seed": 7,
    "stop": ["\n\n"],
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "search", "parameters": {"type": "object", "properties": {}}},
    }
]
METRICS = Path(__file__).parents[1] / "tests/support/engine_metrics/vllm.txt"
REPLIES = ("chat_plain", "chat_stream_usage", "responses_plain", "speculative_chat", "chat_n2")


@llamatelemetry.tool
def search(query: str) -> list[str]:
    """Find documents."""
    return [query.upper()]


@agent
def librarian(client: Any, question: str) -> str:
    """Answer questions about books."""
    messages: list[Any] = [{"role": "user", "content": f"{question} {search(question)[0]}"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=8)
    return str(answer.choices[0].message.content)


def call_server(url: str) -> None:
    """Make calls with the openai client and the client of llama.cpp."""
    from openai import NotFoundError, OpenAI

    client: Any = OpenAI(base_url=f"{url}/v1", api_key="none")
    chat = client.chat.completions.create
    chat(model=MODEL, messages=QUESTION, **SETTINGS)
    chat(
        model=MODEL,
        messages=OTHER_QUESTION,
        tools=TOOLS,
        max_tokens=8,
        extra_body={"cache_prompt": True, "id_slot": 0, "top_k": 20},
    )
    stream = chat(
        model=MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    list(stream)
    client.embeddings.create(model=MODEL, input="llamas hum", encoding_format="float")
    client.responses.create(
        model=MODEL,
        input="What color is the sky?",
        instructions="You answer in one word.",
        reasoning={"effort": "low"},
        max_output_tokens=8,
    )
    with suppress(NotFoundError):
        client.images.generate(model=MODEL, prompt="a llama")
    tracer = PipelineTracer()
    with (
        llamatelemetry.session("thread-42", user_id="ada"),
        tracer.pipeline("library"),
        tracer.stage("answer"),
    ):
        librarian(client, "What do llamas do?")
    native = LlamaCppClient(url)
    native.complete("The capital of France is", max_tokens=8)
    with suppress(LlamaServerError):
        native.complete("llama " * 3000, max_tokens=8)
    runner = BenchmarkRunner(client, BenchmarkProfile.QUICK, max_tokens=4)
    runner.run(MODEL, ["Why is the sky blue?"])


def call_models() -> None:
    """Generate with a small model of Transformers, and run a collective operation."""
    from tests.support.transformers_models import encoded, llama

    model, batch = llama(), encoded("llamas hum", "why")
    model.generate(**batch, max_new_tokens=8)
    model.generate(
        **batch, max_new_tokens=8, do_sample=True, top_k=20, top_p=0.9, repetition_penalty=1.1
    )
    model.generate(**batch, max_new_tokens=8, num_beams=2, num_return_sequences=2)
    with NCCLGroup(backend="gloo") as group:
        group.check(size_bytes=1 << 16, iterations=3, warmup=1)


def replay_vllm() -> None:
    """Receive responses that a real vLLM sent."""
    from tests.support.vllm_replies import replay

    for name in REPLIES:
        replay(name)


class RecordedMetrics(BaseHTTPRequestHandler):
    """Serves `/metrics` of a real vLLM, as recorded."""

    def do_GET(self) -> None:
        """Send the recorded text."""
        self.send_response(200)
        self.end_headers()
        if self.path == "/metrics":
            self.wfile.write(METRICS.read_bytes())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def main(argument: str) -> None:
    """Run the calls."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    vllm = ThreadingHTTPServer(("127.0.0.1", 0), RecordedMetrics)
    threading.Thread(target=vllm.serve_forever, daemon=True).start()
    llamatelemetry.init(
        "library",
        "1.0",
        environment="production",
        diagnostics=argument == "everything",
        capture_content="span_and_event",
        engine_latency_names=True,
        response_headers=["content-type"],
        slow_threshold_s=0.01 if argument == "kept" else None,
        server_metrics_urls=[
            f"http://127.0.0.1:{port}/metrics",
            f"http://127.0.0.1:{vllm.server_port}/metrics",
        ],
    )
    config = ServerConfig(
        find_demo_model(), port=port, n_ctx=2048, n_parallel=2, threads=1, embeddings=True
    )
    with ServerManager(config, binary="embedded") as server:
        if argument == "everything":
            call_server(server.url)
            call_models()
            replay_vllm()
        else:
            LlamaCppClient(server.url).complete("The capital of France is", max_tokens=8)
        time.sleep(2)  # The metrics of servers are scraped every second.
        llamatelemetry.flush(20)
    llamatelemetry.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
