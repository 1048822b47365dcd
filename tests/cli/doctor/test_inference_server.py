"""`llamatelemetry doctor --server`: the engine, what it reports, and its metrics."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.cli.doctor.check import Check
from llamatelemetry.cli.doctor.inference_server import server_checks
from llamatelemetry.genai.engines.catalog import ENGINE_BY_PROVIDER
from tests.cli.receivers import http_receiver
from tests.support.llama_server import LlamaServer

RECORDED = Path(__file__).parents[2] / "support" / "engine_replies" / "vllm"
LLAMA = {"Server": "llama.cpp"}
PROPS = {
    "default_generation_settings": {"n_ctx": 4096},
    "total_slots": 2,
    "model_alias": "",
    "model_path": "/models/secret-place/tiny.gguf",
    "endpoint_metrics": False,
    "build_info": "b11549",
}


def check(**answers: Any) -> list[Check]:
    """Check a server that has only the given paths, and `/health`."""
    known = answers.pop("bodies", {})
    answers["bodies"] = {
        path: body if isinstance(body, str) else json.dumps(body) for path, body in known.items()
    }
    by_path = dict.fromkeys((*known, "/health"), 200) | answers.pop("by_path", {})
    with http_receiver(status=404, by_path=by_path, **answers) as receiver:
        return server_checks(f"{receiver.url}/v1/", 2)


def lines(checks: list[Check]) -> list[tuple[str, str]]:
    return [(each.status, each.detail) for each in checks]


def models(owner: str, **more: Any) -> dict[str, Any]:
    return {"data": [{"id": "m", "owned_by": owner, **more}]}


LLAMA_REPORT = (
    "info",
    (
        "/v1/chat/completions, /v1/completions, /v1/responses, /completion report queue, prefill,"
        " decode, TTFT, TPOT, cached tokens; draft tokens with a draft model | streams: the same"
    ),
)


def test_llama_cpp_is_summarized() -> None:
    checks = check(bodies={"/health": {"status": "ok"}, "/props": PROPS}, headers=LLAMA)
    assert lines(checks) == [
        ("ok", "healthy (ok)"),
        ("ok", "llama.cpp, proved by the headers of /health"),
        ("ok", "model tiny.gguf, build b11549, context per slot 4096, slots 2"),
        LLAMA_REPORT,
        ("warn", "/metrics is not available (501)"),
    ]
    assert checks[-1].remedy == "Start the server with --metrics"


def test_real_llama_server_is_recognized(llama_server: LlamaServer) -> None:
    health, engine, props, report, metrics = lines(server_checks(llama_server.url, 5))
    assert health == ("ok", "healthy (ok)")
    assert engine == ("ok", "llama.cpp, proved by the headers of /health")
    assert props[0] == "ok"
    assert "slots 2" in props[1]
    assert report == LLAMA_REPORT
    assert metrics == ("ok", "/metrics is reachable")


def test_vllm_is_recognized_and_its_flags_are_named() -> None:
    body = json.loads((RECORDED / "get_v1_models.json").read_text(encoding="utf-8"))["body"]
    checks = check(
        bodies={
            "/health": "",
            "/v1/models": body,
            "/version": {"version": "0.32.0"},
            "/metrics": "vllm:num_requests_running 0.0",
        }
    )
    assert lines(checks) == [
        ("ok", "healthy (200)"),
        ("ok", "vLLM 0.32.0, proved by owned_by in /v1/models"),
        (
            "info",
            (
                "/v1/chat/completions, /v1/completions report queue, prefill, decode, TTFT, TPOT"
                " with --enable-per-request-metrics; cached tokens with"
                " --enable-prompt-tokens-details; draft tokens with --enable-per-request-metrics"
                " and --per-request-spec-decode-metrics summary | streams: the same with"
                " stream_options.include_usage"
            ),
        ),
        (
            "info",
            (
                "/v1/responses report queue, prefill, decode, TTFT, TPOT with"
                " --enable-per-request-metrics; cached tokens with --enable-prompt-tokens-details |"
                " streams: the same | unknown: draft tokens: reported by chat and text completions"
                " only"
            ),
        ),
        ("ok", "/metrics is reachable"),
    ]


# Replies of other servers to GET requests, after their sources, and the line that names the engine.
ENGINES: dict[str, tuple[dict[str, Any], str]] = {
    "sglang": (
        {"/v1/models": models("sglang")},
        "SGLang, proved by owned_by in /v1/models",
    ),
    "tensorrt_llm": (
        {"/v1/models": models("tensorrt_llm"), "/version": {"version": "1.2.0"}},
        "TensorRT-LLM 1.2.0, proved by owned_by in /v1/models",
    ),
    "tgi": (
        {
            "/v1/models": models("HuggingFaceTB/SmolLM2-135M-Instruct"),
            "/info": {"max_best_of": 2, "max_stop_sequences": 4, "version": "3.3.6"},
        },
        "Text Generation Inference 3.3.6, proved by the fields of /info",
    ),
    "tei": (
        {"/info": {"tokenization_workers": 2, "max_batch_tokens": 16384, "version": "1.9.0"}},
        "Text Embeddings Inference 1.9.0, proved by the fields of /info",
    ),
    "ollama": (
        {
            "/": "Ollama is running",
            "/v1/models": models("library"),
            "/api/version": {"version": "0.34.0"},
        },
        "Ollama 0.34.0, proved by the text of / and /api/version",
    ),
    "lemonade": (
        {
            "/": "Ollama is running",
            "/v1/models": models("lemonade"),
            "/api/version": {"version": "0.1"},
        },
        "Lemonade, proved by owned_by in /v1/models",
    ),
    "koboldcpp": (
        {"/v1/models": models("koboldcpp")},
        "KoboldCpp, proved by owned_by in /v1/models",
    ),
    "aphrodite": (
        {"/v1/models": models("aphrodite")},
        "Aphrodite, proved by owned_by in /v1/models",
    ),
    "lmdeploy": ({"/v1/models": models("lmdeploy")}, "LMDeploy, proved by owned_by in /v1/models"),
    "triton": (
        {"/v1/models": models("Triton Inference Server")},
        "Triton Inference Server, proved by owned_by in /v1/models",
    ),
}


@pytest.mark.parametrize("provider", ENGINES)
def test_engine_is_named_by_its_proof_with_what_it_reports(provider: str) -> None:
    replies, expected = ENGINES[provider]
    health, named, *reports, metrics = check(bodies=replies)
    assert (health.status, named.status, named.detail) == ("ok", "ok", expected)
    assert [each.status for each in reports] == ["info"] * len(ENGINE_BY_PROVIDER[provider].routes)
    path = ENGINE_BY_PROVIDER[provider].metrics
    if path is None:
        assert metrics.status == "info"
        assert metrics.detail.startswith("no Prometheus metrics here")
    else:
        assert (metrics.status, metrics.detail) == ("warn", f"{path} is not available (404)")


@pytest.mark.parametrize(
    "replies",
    [
        {"/v1/models": models("organization-owner")},
        {"/v1/models": models("vllm")},  # every model of vLLM has max_model_len
        {"/": "Ollama is running"},  # without /api/version
        {"/info": {"version": "3.3.6"}},
        {"/v1/models": "garbage", "/info": "[" * 100_000},
    ],
)
def test_unproved_engine_is_not_named(replies: dict[str, Any]) -> None:
    health, unknown = check(bodies=replies)
    assert health.status == "ok"
    assert unknown.status == "warn"
    assert unknown.detail.startswith("responds, but no reply proves its engine (tried /health: 200")
    assert "/v1/models: " in unknown.detail
    assert "/info: " in unknown.detail
    assert unknown.remedy


def test_proxy_is_named() -> None:
    _, proxy = check(bodies={"/v1/models": models("llama-swap")})
    assert (proxy.status, proxy.remedy) == ("ok", "Run doctor with the URL of that engine")
    assert proxy.detail.startswith("llama-swap, a proxy")


def test_loading_server_is_a_warning() -> None:
    assert lines(check(by_path={"/health": 503})) == [("warn", "the model is still loading")]


def test_server_without_any_known_path_fails() -> None:
    [only] = check(by_path={"/health": 404})
    assert (only.status, only.remedy) == (
        "fail",
        "Set --server to the base URL of the inference server",
    )
    assert only.detail.startswith("not an inference server (tried /health: 404, /v1/models: 404")


def test_server_without_health_path_is_recognized() -> None:
    named, *_ = check(
        by_path={"/health": 404},
        bodies={"/": "Ollama is running", "/api/version": {"version": "0.34.0"}},
    )
    assert named.detail.startswith("Ollama 0.34.0")


def test_missing_api_key_is_named() -> None:
    paths = ("/health", "/v1/models", "/info", "/")
    [only] = check(by_path=dict.fromkeys(paths, 401))
    assert only.status == "fail"
    assert only.remedy == "doctor sends no API key: run it against the server without one"
    props, *_, metrics = check(
        by_path={"/props": 401, "/metrics": 401, "/health": 404}, headers=LLAMA
    )[1:]
    assert (props.status, props.detail) == ("info", "/props requires the server's API key")
    assert (metrics.status, metrics.detail) == ("info", "/metrics requires the server's API key")


@pytest.mark.parametrize("props", ["garbage", "", [], {"model_path": 5}])
def test_unreadable_properties_are_empty(props: Any) -> None:
    checks = check(bodies={"/props": props}, headers=LLAMA)
    assert ("ok", "/props is empty") in lines(checks)


def test_proxy_of_the_environment_is_bypassed_for_a_loopback_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert lines(check(headers=LLAMA))[0] == ("ok", "healthy (200)")


def test_unreachable_server_fails() -> None:
    [only] = server_checks("http://127.0.0.1:1", 1)
    assert (only.status, only.remedy) == ("fail", "Start the server there, or correct the URL")


def test_paths_that_do_not_reply_do_not_end_the_check() -> None:
    """A server that replies once, and then accepts connections without a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reply_once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\nServer: llama.cpp\r\n\r\n{}")

        thread = threading.Thread(target=reply_once)
        thread.start()
        checks = server_checks(f"http://127.0.0.1:{listener.getsockname()[1]}", 0.2)
        thread.join()
    assert lines(checks) == [
        ("ok", "healthy (200)"),
        ("ok", "llama.cpp, proved by the headers of /health"),
        ("warn", "/props: no reply"),
        LLAMA_REPORT,
        ("warn", "/metrics is not available (no reply)"),
    ]


def test_credentials_are_masked_and_sent_to_the_server_only() -> None:
    with http_receiver(headers=LLAMA) as receiver:
        url = receiver.url.replace("//", "//user:swordfish@")
        checks = server_checks(f"{url}/v1?api_key=swordfish", 2)
    assert checks[0].status == "ok"
    assert "swordfish" not in repr(checks)
    assert {headers["authorization"] for _, headers, _ in receiver.requests} == {
        "Basic dXNlcjpzd29yZGZpc2g="
    }
