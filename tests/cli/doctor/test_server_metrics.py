"""The check of the servers whose metrics are scraped."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from llamatelemetry.cli.doctor.diagnose import scrape_jobs
from llamatelemetry.cli.doctor.machine import scrape_checks
from llamatelemetry.config import LlamaTelemetryConfig
from tests.support.loopback_server import ReceivedRequest, ScriptedResponse, loopback

TEXTS = Path(__file__).parents[2] / "support" / "engine_metrics"


def respond(body: bytes, asked: ReceivedRequest) -> ScriptedResponse:
    return ScriptedResponse(body=body) if asked.path == "/v1/metrics" else ScriptedResponse(404)


@pytest.mark.parametrize(
    ("engine", "detail"),
    [
        ("vllm", "vLLM: 28 of 31 metrics"),
        ("sglang", "SGLang: 24 of 31 metrics"),
        ("tensorrt_llm", "TensorRT-LLM: 24 of 31 metrics"),
        ("lmdeploy", "LMDeploy: 29 of 31 metrics"),
        ("tgi", "Text Generation Inference: 12 of 31 metrics"),
        ("triton", "Triton Inference Server with TensorRT-LLM: 11 of 31 metrics"),
        ("dynamo", "Dynamo: 14 of 31 metrics"),
        ("nim", "NVIDIA NIM 1.x: 11 of 31 metrics"),
        ("llama_cpp", "llama.cpp: 11 of 31 metrics"),
    ],
)
def test_scrape_check_names_the_engine(engine: str, detail: str) -> None:
    with loopback(partial(respond, (TEXTS / f"{engine}.txt").read_bytes())) as server:
        (check,) = scrape_checks(f"{server.url}/v1/metrics")
    assert (check.status, check.detail) == ("ok", detail)


def test_scrape_check_warns_when_no_metric_is_known() -> None:
    with loopback(partial(respond, (TEXTS / "llama_swap.txt").read_bytes())) as server:
        (check,) = scrape_checks(f"{server.url}/v1/metrics")
    assert (check.status, check.detail) == ("warn", "llama-swap: 0 of 31 metrics")
    assert check.remedy is not None
    assert "engine's metrics" in check.remedy


def test_scrape_check_recognizes_a_real_llama_server(llama_server) -> None:
    (check,) = scrape_checks(f"{llama_server.origin}/metrics")
    assert (check.status, check.detail) == ("ok", "llama.cpp: 11 of 31 metrics")


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/metrics", "cannot be scraped: /metrics: HTTP 404"),
        ("/v1/metrics", "cannot be scraped: /metrics has no metrics of a known engine"),
    ],
)
def test_scrape_check_fails_for_other_urls(path: str, detail: str) -> None:
    with loopback(partial(respond, b"<html>")) as server:
        (check,) = scrape_checks(f"{server.url}{path}")
    assert check.status == "fail"
    assert check.detail.startswith(detail)
    assert check.remedy is not None
    assert "LLAMATELEMETRY_SERVER_METRICS_URLS" in check.remedy


def test_doctor_checks_the_servers_of_both_options() -> None:
    config = LlamaTelemetryConfig(
        server_metrics_urls=("http://user:secret@a/metrics", "http://b/metrics"),
        llamacpp_metrics_url=("http://b/metrics", "http://c/metrics"),
    )
    titles = [(job.section, job.title) for job in scrape_jobs(config)]
    assert titles == [
        ("Server metrics", "http://***@a/metrics"),
        ("Server metrics", "http://b/metrics"),
        ("Server metrics", "http://c/metrics"),
    ]
