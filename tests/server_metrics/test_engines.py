"""Recognition of each engine, and the exact values of all its figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llamatelemetry.server_metrics.engines import ENGINES
from llamatelemetry.server_metrics.exposition import Values, find_engine
from llamatelemetry.server_metrics.vocabulary import DURATIONS, FIGURES
from tests.server_metrics.engine_texts import read, text_of

ROOT = Path(__file__).parents[2]
NAMES = frozenset(figure.name for figure in FIGURES)


def model(name: str | None, replica: str = "") -> tuple[str | None, str]:
    """Return the key of the values of one model and replica."""
    return name, replica


def duration(name: str, total: float, count: float, **buckets: float) -> dict[str, float]:
    """Return the counters of a duration. Names of buckets have `_` for `.`; the last is `+Inf`."""
    bounds = {f"{name}.bucket={le[2:].replace('_', '.')}": n for le, n in buckets.items()}
    return {name: total, f"{name}.count": count, **bounds, f"{name}.bucket=+Inf": count}


LLAMA_CPP = {
    model(None): Values(
        {
            "prompt_tokens": 1666,
            "cached_tokens": 1280,
            "prefix_cache_hits": 1280,
            "generated_tokens": 118,
            "drafts": 10,
            "drafted_tokens": 30,
            "accepted_tokens": 17,
            "prefill_time": 1.25,
            "decode_time": 2.5,
        },
        {"requests_running": 2, "requests_waiting": 1},
    )
}
VLLM_DRAFTING = {
    model("tiny", "0"): Values(
        {
            "generated_tokens": 360,
            "drafts": 97,
            "drafted_tokens": 280,
            "accepted_tokens": 156,
            "time_between_tokens": 0.5798494720002054,
            "time_between_tokens.count": 210,
        }
    )
}
_SGLANG = "meta-llama/Llama-3.1-8B-Instruct"
SGLANG = {
    model(_SGLANG): Values(
        {
            "requests_finished": 12,
            "prompt_tokens": 1500,
            "cached_tokens": 464,
            "prefix_cache_hits": 464,
            "generated_tokens": 756,
            **duration("time_to_first_token", 3.0, 12, le0_1=4, le0_4=11),
            **duration("time_between_tokens", 7.44, 744, le0_002=0),
            **duration("request_time", 12.5, 12, le0_4=1),
        }
    ),
    model(_SGLANG, "0"): Values(
        {
            "preemptions": 4,
            **duration("queue_time", 1.5, 9, le0_0=0, le0_1=6),
            **duration("prefill_time", 0.75, 9, le0_1=8),
        },
        {"requests_running": 3, "requests_waiting": 2, "kv_cache_usage": 0.28},
    ),
    model(_SGLANG, "1"): Values(
        duration("queue_time", 0.25, 3, le0_0=0, le0_1=2),
        {"requests_running": 5, "requests_waiting": 4, "kv_cache_usage": 0.5},
    ),
}
TENSORRT_LLM = {
    model("llama-3"): Values(
        {
            "requests_finished=stop": 7,
            "requests_finished=length": 2,
            "prompt_tokens": 900,
            "cached_tokens": 128,
            "generated_tokens": 450,
            "drafted_tokens": 120,
            "accepted_tokens": 80,
            **duration("time_to_first_token", 0.9, 9, le0_1=5),
            **duration("queue_time", 0.25, 9, le0_3=9),
            **duration("prefill_time", 0.65, 9, le0_1=7),
            **duration("decode_time", 8.5, 8, le0_3=0),
            **duration("request_time", 9.5, 9, le0_3=1),
        },
        {"requests_running": 2, "requests_waiting": 1, "kv_cache_usage": 0.36},
    )
}
_LMDEPLOY_DURATIONS = {
    "time_to_first_token": 0.5,
    "time_between_tokens": 0.75,
    "queue_time": 0.05,
    "prefill_time": 0.4,
    "decode_time": 1.5,
    "request_time": 2.0,
}
LMDEPLOY = {
    model("internlm3-8b", "0"): Values(
        {
            "requests_finished=stop": 3,
            "prompt_tokens": 100,
            "cached_tokens": 32,
            "prefix_cache_hits": 32,
            "generated_tokens": 40,
            "drafts": 20,
            "drafted_tokens": 60,
            "accepted_tokens": 33,
            **{
                key: value
                for name, total in _LMDEPLOY_DURATIONS.items()
                for key, value in duration(name, total, 3, le0_5=2).items()
            },
        },
        {"requests_running": 1, "requests_waiting": 0, "kv_cache_usage": 0.125},
    ),
    model("internlm3-8b", "1"): Values(
        {
            "requests_finished=stop": 4,
            "requests_finished=length": 1,
            "prompt_tokens": 200,
            "cached_tokens": 0,
            "prefix_cache_hits": 0,
            "generated_tokens": 60,
            **{
                key: value
                for name in _LMDEPLOY_DURATIONS
                for key, value in duration(name, 1.0, 5, le0_5=5).items()
            },
        },
        {"requests_running": 2, "requests_waiting": 3, "kv_cache_usage": 0.75},
    ),
}
TGI = {
    model(None): Values(
        {
            "requests_finished": 11,
            "prompt_tokens": 1540,
            "generated_tokens": 620,
            "accepted_tokens": 90,
            **duration("queue_time", 0.1875, 11, le0_00015=5),
            **duration("request_time", 16.5, 11, le0_00015=5),
        },
        {"requests_running": 4, "requests_waiting": 2},
    )
}
TRITON = {
    model("ensemble"): Values(
        {
            "requests_finished": 8,
            "queue_time": pytest.approx(0.000125),
            "queue_time.count": 8,
            "request_time": pytest.approx(4.25),
            "request_time.count": 8,
        }
    ),
    model("tensorrt_llm"): Values(
        {
            "requests_finished": 8,
            "queue_time": pytest.approx(0.5),
            "queue_time.count": 8,
            "request_time": pytest.approx(4.0),
            "request_time.count": 8,
            # In seconds, bounds included.
            **duration("time_to_first_token", 1.5, 8, le0_1=2, le0_5=7, le2=8, le5=8),
        },
        {"requests_running": 2, "requests_waiting": 3, "kv_cache_usage": 0.4875},
    ),
}
DYNAMO = {
    model("qwen/qwen3-0.6b"): Values(
        {
            "requests_finished": 23,
            "prompt_tokens": 5060,
            "cached_tokens": 1024,
            "generated_tokens": 1850,
            **duration("time_to_first_token", 4.5, 23, le1=9),
            **duration("time_between_tokens", 36.5, 1827, le1=9),
            **duration("request_time", 41.25, 25, le1=9),
        },
        {"requests_running": 5},
    )
}
NIM = {
    model("meta/llama-3.1-8b-instruct"): Values(
        {
            "prompt_tokens": 220,
            "generated_tokens": 96,
            **duration("time_to_first_token", 0.375, 4, le0_5=3),
            **duration("request_time", 2.25, 4, le0_5=3),
        },
        {"requests_running": 1, "requests_waiting": 0, "kv_cache_usage": 0.015625},
    )
}
EXPECTED = {
    "llama_cpp": ("llama_cpp", LLAMA_CPP),
    "vllm_drafting": ("vllm", VLLM_DRAFTING),
    "sglang": ("sglang", SGLANG),
    "tensorrt_llm": ("tensorrt_llm", TENSORRT_LLM),
    "lmdeploy": ("lmdeploy", LMDEPLOY),
    "tgi": ("tgi", TGI),
    "triton": ("triton", TRITON),
    "dynamo": ("dynamo", DYNAMO),
    "nim": ("nim", NIM),
    "llama_swap": ("llama_swap", {}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_engine_is_recognized_and_all_its_figures_are_read(name: str) -> None:
    engine = find_engine(text_of(name))
    provider, figures = EXPECTED[name]
    assert engine is not None
    assert engine.provider == provider
    assert read(text_of(name)) == figures


def test_every_engine_has_a_text() -> None:
    assert {provider for provider, _ in EXPECTED.values()} == {e.provider for e in ENGINES}


@pytest.mark.parametrize(
    ("name", "counters"),
    [
        (
            "vllm",
            {
                "requests_finished=stop": 0,
                "requests_finished=length": 19,
                "requests_finished=abort": 0,
                "requests_finished=error": 0,
                "requests_finished=repetition": 0,
                "prefix_cache_queries": 1666,
                "prefix_cache_hits": 1280,
                "prompt_tokens": 1666,
                "cached_tokens": 1280,
                "generated_tokens": 118,
                "preemptions": 0,
                "time_to_first_token": 0.16598725318908691,
                # One request was aborted by its client after its first token.
                "time_to_first_token.count": 20,
                "time_between_tokens": 0.2237210610010152,
                "time_between_tokens.count": 98,
                "queue_time": 0.0002822619999278686,
                "queue_time.count": 19,
                "prefill_time": 0.09700531600174145,
                "prefill_time.count": 19,
                "decode_time": 0.21740697100085526,
                "decode_time.count": 19,
                "request_time": 0.375164270401001,
                "request_time.count": 19,
            },
        ),
        (
            "vllm_preempted",
            {
                "requests_finished=stop": 0,
                "requests_finished=length": 3,
                "requests_finished=abort": 0,
                "requests_finished=error": 0,
                "requests_finished=repetition": 0,
                "prefix_cache_queries": 423,
                "prefix_cache_hits": 0,
                "prompt_tokens": 423,
                "cached_tokens": 0,
                "generated_tokens": 1020,
                "preemptions": 2,
                "time_to_first_token": 0.9504570960998535,
                "time_to_first_token.count": 3,
                "time_between_tokens": 3.2461814690004758,
                "time_between_tokens.count": 1017,
                "queue_time": 0.8336737740009994,
                "queue_time.count": 3,
                "prefill_time": 0.0315264639993984,
                "prefill_time.count": 3,
                "decode_time": 3.2461814690004758,
                "decode_time.count": 3,
                "request_time": 4.1959991455078125,
                "request_time.count": 3,
            },
        ),
    ],
)
def test_figures_of_real_vllm_equal_its_metrics(name: str, counters: dict[str, float]) -> None:
    ((group, values),) = read(text_of(name)).items()
    assert group == model("tiny", "0")
    buckets = {key: value for key, value in values.counters.items() if ".bucket" in key}
    assert {k: v for k, v in values.counters.items() if k not in buckets} == counters
    for each in DURATIONS:
        assert buckets[f"{each}.bucket=+Inf"] == counters[f"{each}.count"]
    assert buckets["time_to_first_token.bucket=0.01" if name == "vllm" else "queue_time.bucket=0.5"]
    assert values.gauges == {"requests_running": 0, "requests_waiting": 0, "kv_cache_usage": 0}


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.provider)
def test_each_figure_of_an_engine_is_either_known_or_unknown(engine) -> None:
    assert engine.sources.keys() <= NAMES
    assert engine.unknown.keys() <= NAMES | {""}
    assert not engine.sources.keys() & engine.unknown.keys()


def test_docs_list_the_metrics_of_every_engine() -> None:
    command = [sys.executable, ROOT / "scripts" / "server_metrics_reference.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout
    page = (ROOT / "docs/observe/server-metrics.md").read_text()
    assert all(f"### {engine.title}\n" in page for engine in ENGINES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html><body>vllm:generation_tokens_total 7</body></html>\n",
        '{"iter": 0, "num_requests_running": 1}\n',
        # The names of NIM are not enough: old vLLM and TensorRT-LLM versions had them, too.
        text_of("nim").replace("num_request_max", "num_request_limit"),
        # A router in front of vLLM uses its prefix for metrics of its own.
        'vllm:num_requests_running{server="http://a"} 1\nvllm:current_qps{server="http://a"} 2\n',
        "# HELP vllm:generation_tokens_total Help text.\n",
    ],
    ids=["empty", "HTML", "JSON", "NIM without its proof", "router of vLLM", "help text"],
)
def test_other_texts_are_not_taken_for_an_engine(text: str) -> None:
    assert find_engine(text) is None


@pytest.mark.parametrize("name", ["sglang", "tensorrt_llm"])
def test_engine_without_requests_is_recognized_by_its_declarations(name: str) -> None:
    # These engines have no series before their first request.
    lines = text_of(name).split("\n")
    text = "".join(f"{line}\n" for line in lines if line.startswith("#"))
    engine = find_engine(text)
    assert engine is not None
    assert engine.provider == name
    assert read(text) == {}


def test_names_of_nim_are_not_taken_for_vllm() -> None:
    engine = find_engine(text_of("nim"))
    assert engine is not None
    assert (engine.provider, engine.prefix) == ("nim", "")


def test_worker_of_dynamo_is_its_engine() -> None:
    text = "dynamo_component_requests_total 3\n" + text_of("vllm")
    engine = find_engine(text)
    assert engine is not None
    assert engine.provider == "vllm"


def test_engines_differ_in_their_proofs() -> None:
    for engine in ENGINES:
        others = [e for e in ENGINES if e is not engine]
        names = [engine.proof or f"{engine.prefix}x"]
        assert not [e for e in others for name in names if e.is_proved_by(name)]
