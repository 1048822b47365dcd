"""The figures of each engine in its own format, and what proves the engine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from llamatelemetry.genai import (
    EngineTimings,
    may_prove_engine,
    provider_from_headers,
    provider_from_models,
)
from llamatelemetry.genai.engines import read_engine, read_engine_headers
from llamatelemetry.genai.engines.proofs import provider_from_fingerprint
from tests.genai.engines.formats import FORMATS, INEXACT, QUEUED, VLLM
from tests.support.engine_formats import OLLAMA_DONE, SGLANG_META
from tests.support.engine_responses import CACHED, PERF_METRICS


@pytest.mark.parametrize("name", FORMATS)
def test_format_is_read(name: str) -> None:
    fields, usage, expected = FORMATS[name]
    assert read_engine(fields, usage).timings == expected


@pytest.mark.parametrize("name", FORMATS)
def test_format_proves_its_engine_except_that_of_vllm(name: str) -> None:
    fields, usage, expected = FORMATS[name]
    assert read_engine(fields, usage).provider == expected.provider


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "vllm"])
@pytest.mark.parametrize("indent", [None, 2])
def test_search_in_bytes_finds_each_format_that_proves_its_engine(
    name: str, indent: int | None
) -> None:
    fields, usage, _ = FORMATS[name]
    body = json.dumps({**fields, "usage": usage}, indent=indent)
    assert may_prove_engine(body.encode())
    assert not may_prove_engine(json.dumps({"content": body}).encode())


@pytest.mark.parametrize("fingerprint", ["vllm-0.32.0", "fp_ollama", "b6789-1a2b", "0.32.0-0.31"])
def test_search_in_bytes_finds_fingerprints(fingerprint: str) -> None:
    assert may_prove_engine(json.dumps({"system_fingerprint": fingerprint}).encode())
    assert not may_prove_engine(b'{"system_fingerprint":"fp_44709d6fcb","timings":null}')


def test_search_in_bytes_of_vectors_looks_at_both_ends() -> None:
    vectors = {"data": [0.5] * 5000, "timings": {}}
    assert may_prove_engine(json.dumps(vectors).encode(), is_bulk_wanted=False)
    hidden = {"data": [0.5] * 5000, "timings": {}, "rest": [0.5] * 5000}
    assert may_prove_engine(json.dumps(hidden).encode())
    assert not may_prove_engine(json.dumps(hidden).encode(), is_bulk_wanted=False)


@pytest.mark.parametrize(
    ("fields", "provider"),
    [
        ({"embeddings": [[0.1]], "load_duration": 1000, "total_duration": 2000}, "ollama"),
        ({"embeddings": [[0.1]], "load_duration": 0, "total_duration": 0}, None),
        ({"embeddings": [[0.1]], "total_duration": 2000}, None),
        ({"load_duration": 1000, "total_duration": 2000}, None),
    ],
)
def test_load_time_of_embeddings_proves_ollama(
    fields: dict[str, Any], provider: str | None
) -> None:
    assert read_engine(fields, None) == (provider, None)


# A field with the right name and another meaning, or without the rest of its format.
OTHERS: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "metrics of another server": ({"metrics": {"time_to_first_token_ms": 5.0}}, CACHED),
    "metrics as a list": ({"metrics": [1, 2]}, CACHED),
    "meta_info of another server": ({"meta_info": {"queue_time": 0.5}}, CACHED),
    "stats of another server": ({"stats": {"generation_time": 1.0}}, CACHED),
    "done of another server": ({"done": True, "eval_duration": 5}, CACHED),
    "imitated Ollama with zeros": ({**OLLAMA_DONE, "load_duration": 0, "eval_duration": 0}, {}),
    "unfinished Ollama": ({**OLLAMA_DONE, "done": False}, {}),
    "usage with a queue only": ({}, {**CACHED, "queue_time": 0.5}),
    "nvext without timing": ({"nvext": {"worker_id": 1}}, CACHED),
    "perf_metrics of another server": ({"perf_metrics": {"kv_cache_metrics": {}}}, CACHED),
    "llama.cpp without counts": ({"timings": {"prompt_ms": 1, "predicted_ms": 2}}, CACHED),
}


@pytest.mark.parametrize("name", OTHERS)
def test_field_with_another_meaning_is_not_read(name: str) -> None:
    assert read_engine(*OTHERS[name]) == (None, None)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 1e300, "250", True, None, [], {}])
@pytest.mark.parametrize(
    ("field", "figure"),
    [
        ("time_to_first_token_ms", "prefill_ms"),
        ("generation_time_ms", "decode_ms"),
        ("queue_time_ms", "queue_ms"),
    ],
)
def test_impossible_figure_is_absent_and_the_others_are_read(
    field: str, figure: str, value: Any
) -> None:
    timings = read_engine({"metrics": {**VLLM, field: value}}, CACHED).timings
    assert timings is not None
    found = {name: getattr(timings, name) for name in QUEUED}
    assert found == {**QUEUED, figure: None}


def test_clock_that_runs_backwards_gives_no_figure() -> None:
    meta = {**SGLANG_META, "prefill_finished_time": 999.0}
    timings = read_engine({"meta_info": meta}, {}).timings
    assert timings is not None
    assert (timings.prefill_ms, timings.decode_ms) == (None, 2250.0)


def test_more_cached_than_prompt_tokens_are_unknown() -> None:
    usage = {**CACHED, "prompt_tokens_details": {"cached_tokens": 21}}
    timings = read_engine({"metrics": VLLM}, usage).timings
    assert timings is not None
    assert (timings.prompt_tokens, timings.cached_tokens) == (None, None)


def test_prompt_that_is_cached_as_a_whole_has_no_evaluated_tokens() -> None:
    timings = read_engine({"meta_info": {**SGLANG_META, "cached_tokens": 20}}, {}).timings
    assert timings is not None
    assert (timings.prompt_tokens, timings.cached_tokens) == (0, 20)


def test_zero_cached_tokens_of_vllm_responses_are_unknown() -> None:
    usage = {"input_tokens": 20, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 0}}
    timings = read_engine({"metrics": VLLM}, usage).timings
    assert timings is not None
    assert (timings.prompt_tokens, timings.cached_tokens) == (None, None)


@pytest.mark.parametrize(
    ("fingerprint", "provider"),
    [
        ("vllm-0.32.0-6057df73", "vllm"),
        ("fp_ollama", "ollama"),
        ("b6789-1a2b3c4d", "llama_cpp"),
        ("0.32.0-0.31.1-macOS-26.1-arm64-arm-64bit-applegpu_g15s", "mlx_lm"),
        ("fp_44709d6fcb", None),
        ("vllm", None),
        ("my-vllm-0.32.0", None),
        ("b", None),
        ("3.3.6-native", None),
        ("fp_ollama_2", None),
    ],
)
def test_fingerprint_proves_its_engine(fingerprint: str, provider: str | None) -> None:
    assert provider_from_fingerprint(fingerprint) == provider


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ({"owned_by": "vllm", "max_model_len": 512}, "vllm"),
        ({"owned_by": "vllm"}, None),
        ({"owned_by": "sglang"}, "sglang"),
        ({"owned_by": "tensorrt_llm"}, "tensorrt_llm"),
        ({"owned_by": "llamacpp"}, "llama_cpp"),
        ({"owned_by": "Triton Inference Server"}, "triton"),
        ({"owned_by": "library"}, None),
        ({"owned_by": "organization-owner"}, None),
        ({"owned_by": ["vllm"]}, None),
        ({}, None),
    ],
)
def test_owner_of_model_proves_its_engine(model: dict[str, Any], provider: str | None) -> None:
    assert provider_from_models({"data": [model]}) == provider


TGI = {
    "x-queue-time": "500",
    "x-validation-time": "1",
    "x-inference-time": "1250",
    "x-time-per-token": "250",
    "x-generated-tokens": "5",
    "x-compute-time": "1.7",
}
TEI = {
    "x-queue-time": "500",
    "x-tokenization-time": "1",
    "x-inference-time": "20",
    "x-compute-tokens": "20",
    "x-compute-type": "cpu",
}


@pytest.mark.parametrize(
    ("headers", "provider", "timings"),
    [
        (TGI, "tgi", EngineTimings(queue_ms=500.0)),
        (TEI, "tei", EngineTimings(queue_ms=500.0)),
        ({name: TGI[name] for name in TGI if name != "x-queue-time"}, "tgi", None),
        ({**TGI, "x-queue-time": "-3"}, "tgi", None),
        ({**TGI, "x-queue-time": "soon"}, "tgi", None),
        ({**TGI, "x-queue-time": "nan"}, "tgi", None),
        (
            {f"fireworks-{name}": text for name, text in PERF_METRICS.items()},
            "fireworks",
            EngineTimings(
                prompt_tokens=12,
                cached_tokens=8,
                **QUEUED,
                first_token_ms=800.0,
                provider="fireworks",
                **INEXACT,
            ),
        ),
        ({"server": "llama.cpp"}, "llama_cpp", None),
        ({"server": "ConcedoLlamaForKoboldServer"}, "koboldcpp", None),
    ],
)
def test_headers_prove_their_engine_and_have_its_figures(
    headers: dict[str, str], provider: str, timings: EngineTimings | None
) -> None:
    httpx = pytest.importorskip("httpx")
    for each in (headers, httpx.Headers(headers)):
        assert provider_from_headers(each) == provider
        assert read_engine_headers(each, provider) == timings


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"server": "uvicorn", "x-queue-time": "500"},
        {"openai-processing-ms": "81"},
        {"x-compute-type": "cpu", "x-compute-characters": "5"},
        {"x-tokenization-time": "0.5", "x-queue-time": "0.1", "x-inference-time": "3.2"},
    ],
)
def test_other_headers_prove_nothing(headers: dict[str, str]) -> None:
    httpx = pytest.importorskip("httpx")
    assert provider_from_headers(headers) is None
    assert provider_from_headers(httpx.Headers(headers)) is None
