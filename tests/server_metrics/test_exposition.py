"""Metrics that must not be recorded: hostile, impossible and ambiguous texts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.server_metrics.engines import ENGINES
from llamatelemetry.server_metrics.exposition import read_figures
from llamatelemetry.server_metrics.vocabulary import FIGURES
from tests.server_metrics.engine_texts import TEXTS, read, text_of

NAMES = frozenset(figure.name for figure in FIGURES)

VLLM = """\
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{engine="0",model_name="m"}} 5
{}
"""
TTFT = "vllm:time_to_first_token_seconds"
LABELS = '{engine="0",model_name="m"}'


def counters(*lines: str) -> dict[str, float]:
    """Return what is read from these lines, besides 5 generated tokens."""
    (values,) = read(VLLM.format("\n".join(lines))).values()
    found = values.counters | values.gauges
    assert found.pop("generated_tokens") == 5
    return found


@pytest.mark.parametrize(
    "value",
    ["NaN", "+Inf", "-Inf", "-1", "18446744073709551615", "1e300", "True", '"7"', "0x7", "1_0", ""],
)
@pytest.mark.parametrize("name", ["prompt_tokens_total", "num_requests_running"])
def test_value_that_is_not_a_count_is_not_recorded(name: str, value: str) -> None:
    assert counters(f"vllm:{name}{LABELS} {value}") == {}


def test_sum_with_an_invalid_part_is_not_recorded() -> None:
    name = "sglang:prompt_tokens_total"
    text = f'{name}{{is_streaming="true"}} 5\n{name}{{is_streaming="false"}} -2\n'
    assert read(text) == {}


@pytest.mark.parametrize(
    "lines",
    [
        ["# TYPE vllm:prompt_tokens_total gauge", f"vllm:prompt_tokens_total{LABELS} 7"],
        ["# TYPE vllm:num_requests_running counter", f"vllm:num_requests_running{LABELS} 7"],
        [f"# TYPE {TTFT} summary", f"{TTFT}_sum{LABELS} 7", f"{TTFT}_count{LABELS} 7"],
        # Another unit has another name.
        [
            f"vllm:time_to_first_token_ms_sum{LABELS} 7",
            f"vllm:time_to_first_token_ms_count{LABELS} 1",
        ],
        # A percentage instead of a fraction.
        [f"vllm:kv_cache_usage_perc{LABELS} 57"],
        # The same series twice.
        [f"vllm:prompt_tokens_total{LABELS} 7", f"vllm:prompt_tokens_total{LABELS} 8"],
        # Fractions of two series that have the same replica.
        [
            'vllm:kv_cache_usage_perc{engine="0",model_name="m",tier="a"} 0.5',
            'vllm:kv_cache_usage_perc{engine="0",model_name="m",tier="b"} 0.1',
        ],
        ['vllm:prompt_tokens_total{engine="0",engine="1",model_name="m"} 7'],
        ['vllm:prompt_tokens_total{engine="0",model_name="m" 7'],
        ['vllm:prompt_tokens_total{engine="0",model_name="' + "m" * 300 + '"} 7'],
        ["vllm:prompt_tokens_total"],
        [f"{TTFT}_sum{LABELS} 7", f"{TTFT}_count{LABELS} NaN", f"{TTFT}_bucket{LABELS} 7"],
        [
            f'vllm:request_success_total{{engine="0",finished_reason="{n}",model_name="m"}} 1'
            for n in range(300)
        ],
    ],
    ids=[
        "counter declared as gauge",
        "gauge declared as counter",
        "histogram declared as summary",
        "other unit",
        "percentage",
        "series twice",
        "two fractions",
        "label twice",
        "labels without end",
        "long label",
        "no value",
        "sum without count",
        "too many finish reasons",
    ],
)
def test_uncertain_figure_is_not_recorded(lines: list[str]) -> None:
    assert counters(*lines) == {}


@pytest.mark.parametrize(
    "buckets",
    [
        {"1": 3, "2": 2, "+Inf": 4},
        {"1": 3, "2": 4},
        {"1": 3, "+Inf": 5},
        {"x": 3, "+Inf": 5},
        {str(n): 4 for n in range(300)} | {"+Inf": 4},
    ],
    ids=["decreasing", "no last bucket", "other count", "no number", "too many"],
)
def test_histogram_with_impossible_buckets_has_only_sum_and_count(
    buckets: dict[str, float],
) -> None:
    lines = [
        f'{TTFT}_bucket{{engine="0",le="{le}",model_name="m"}} {n}' for le, n in buckets.items()
    ]
    found = counters(f"{TTFT}_sum{LABELS} 7", f"{TTFT}_count{LABELS} 4", *lines)
    assert found == {"time_to_first_token": 7, "time_to_first_token.count": 4}


def test_last_line_without_line_feed_is_incomplete() -> None:
    text = VLLM.format("") + f"vllm:prompt_tokens_total{LABELS} 12"
    (values,) = read(text).values()
    assert values.counters == {"generated_tokens": 5}


def test_declarations_of_openmetrics_are_understood() -> None:
    lines = ["# TYPE vllm:prompt_tokens counter", f"vllm:prompt_tokens_total{LABELS} 7 # {{}} 1 2"]
    assert counters(*lines) == {"prompt_tokens": 7}


def test_prompt_tokens_of_llama_cpp_need_its_cached_tokens() -> None:
    # Builds without this counter do not report how many tokens the prompts had.
    lines = text_of("llama_cpp").split("\n")
    text = "\n".join(line for line in lines if "prompt_tokens_cached" not in line)
    (values,) = read(text).values()
    assert not {"prompt_tokens", "cached_tokens", "prefix_cache_hits"} & values.counters.keys()
    assert values.counters["generated_tokens"] == 118


@given(st.text(), st.floats(), st.sampled_from(["le", "model_name", "engine", "finished_reason"]))
def test_any_label_value_is_read_or_left_out(label: str, value: float, name: str) -> None:
    escaped = label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    text = f'vllm:generation_tokens_total{{{name}="{escaped}"}} {value}\n'
    for values in read(text).values():
        for found in (values.counters | values.gauges).values():
            assert math.isclose(found, value)
            assert found >= 0


_LINES = st.one_of(
    st.text(alphabet='vllm:_{}=",\\ 1e-+.NaInf#TYPEcounterle\t', max_size=80),
    st.sampled_from(
        [line for path in sorted(TEXTS.iterdir()) for line in path.read_text().split("\n")]
    ),
)


@given(st.lists(_LINES, max_size=30))
def test_any_text_gives_only_valid_values(lines: list[str]) -> None:
    text = "\n".join(lines) + "\n"
    for engine in ENGINES:
        for values in read_figures(engine, text).values():
            for key, value in (values.counters | values.gauges).items():
                assert key.partition("=")[0] in NAMES
                assert math.isfinite(value)
                assert value >= 0
            assert values.gauges.get("kv_cache_usage", 0) <= 1
