"""Benchmarks of engines other than llama.cpp: what they report of each request is in its record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import openai
import pytest

from llamatelemetry.bench import BenchmarkProfile, BenchmarkResults, BenchmarkRunner
from tests.support import payloads
from tests.support.engine_responses import RESPONSES
from tests.support.http_server import http_server
from tests.support.recorder import Recorder

RECORDED = Path(__file__).parents[2] / "support" / "engine_replies" / "vllm"
ENGINE_METRICS = {"queue", "prefill", "decode", "engine_tpot", "prefill_rate", "decode_rate"}


def reply(name: str) -> dict[str, Any]:
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


def stream_of(name: str) -> bytes:
    """Return a recorded stream."""
    return "".join(f"{line}\n\n" for _, line in reply(name)["events"] if line).encode()


@contextmanager
def server(models: Any, stream: bytes) -> Iterator[str]:
    """Run a server that lists these models and replies with this stream."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(json.dumps(models).encode(), "application/json")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._reply(stream, "text/event-stream")

        def _reply(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http_server(Handler) as port:
        yield f"http://127.0.0.1:{port}/v1"


def measure(url: str, client_class: Any = openai.OpenAI) -> BenchmarkResults:
    client = client_class(base_url=url, api_key="none")
    runner = BenchmarkRunner(client, BenchmarkProfile.QUICK, max_tokens=6, progress=False)
    return runner.run("tiny", ["hello"])


def values(results: BenchmarkResults, name: str) -> Sequence[Any]:
    return [getattr(record, name) for record in results.requests]


@pytest.mark.parametrize("client_class", [openai.OpenAI, openai.AsyncOpenAI])
def test_records_have_the_figures_of_vllm(
    recorded: Recorder, client_class: Any, tmp_path: Path
) -> None:
    stream = stream_of("chat_stream_usage")
    with server(reply("get_v1_models")["body"], stream) as url:
        results = measure(url, client_class)
    last = json.loads(stream.split(b"data: ")[-2])
    figures, usage = last["metrics"], last["usage"]
    count = len(results.requests)
    for name, figure in (
        ("queue_s", "queue_time_ms"),
        ("prefill_s", "time_to_first_token_ms"),
        ("decode_s", "generation_time_ms"),
        ("engine_tpot_s", "mean_itl_ms"),
    ):
        assert values(results, name) == pytest.approx([figures[figure] / 1000] * count), name
    assert values(results, "queue_source") == ["engine"] * count
    assert values(results, "prefilled_tokens") == [9] * count
    assert values(results, "decoded_tokens") == [usage["completion_tokens"]] * count
    assert None not in values(results, "remainder_s")
    assert set(results.figures) >= ENGINE_METRICS
    assert results.fingerprint["server"] == "vllm"
    calls = recorded.calls()
    providers = {(span.attributes or {})["gen_ai.provider.name"] for span in calls}
    assert providers == {"vllm"}

    results.save(tmp_path / "results.json")
    loaded = BenchmarkResults.load(tmp_path / "results.json")
    assert values(loaded, "queue_source") == values(results, "queue_source")
    # A file has times in nanoseconds.
    assert values(loaded, "engine_tpot_s") == pytest.approx(
        values(results, "engine_tpot_s"), abs=1e-9
    )
    results.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "--enable-per-request-metrics" not in results.summary()
    for title in ("Queue (ms)", "Prefill (ms)", "Decode (ms)", "Engine TPOT (ms)"):
        assert title in results.summary()
        assert title in page
    compared = results.compare(loaded, metrics=["queue", "prefill", "decode", "engine_tpot"])
    assert [metric.ratio.value for metric in compared.metrics] == pytest.approx([1.0] * 4, rel=1e-3)


def test_records_have_no_figures_of_vllm_without_its_flag() -> None:
    with server(reply("get_v1_models")["body"], stream_of("default_chat_stream_usage")) as url:
        results = measure(url)
    assert not set(results.figures) & ENGINE_METRICS
    assert values(results, "queue_source") == [None] * len(results.requests)
    assert (
        "vLLM reports queue, prefill, decode, TTFT, TPOT with --enable-per-request-metrics"
        in results.summary()
    )


def test_decode_that_may_not_start_at_the_first_token_gives_no_time_per_token() -> None:
    response = RESPONSES["Groq", "/v1/chat/completions"].stream("/v1/chat/completions")
    with server({"data": [{"id": "m", "owned_by": "Meta"}]}, response.read()) as url:
        results = measure(url)
    assert set(results.figures) & ENGINE_METRICS == {"queue", "prefill", "decode", "prefill_rate"}
    assert values(results, "decode_s") == [1.0] * len(results.requests)


@pytest.mark.parametrize(
    ("owner", "kind"),
    [("sglang", "sglang"), ("lmdeploy", "lmdeploy"), ("llama-swap", None), ("openai", None)],
)
def test_engine_is_part_of_the_conditions_of_a_benchmark(owner: str, kind: str | None) -> None:
    stream = payloads.sse(payloads.chat_chunks(usage=payloads.USAGE))
    with server({"data": [{"id": "m", "owned_by": owner}]}, stream) as url:
        assert measure(url).fingerprint.get("server") == kind
