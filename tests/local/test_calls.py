"""Summary of the calls of a recording."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamatelemetry.local.calls import Quantiles, calls_from_spans, summarize
from llamatelemetry.local.records import MetricPoint
from tests.support.recorded_calls import chat, span


def load(value: float) -> MetricPoint:
    return MetricPoint("hw.gpu.utilization", "1", "gauge", False, False, {}, 0, 0, value=value)


def test_quantiles_interpolate_linearly_and_omit_p95_of_few_values() -> None:
    assert Quantiles.of([]) is None
    assert Quantiles.of([None]) is None
    assert Quantiles.of([3.0]) == Quantiles(3.0, None)
    assert Quantiles.of([1.0, None, 4.0]) == Quantiles(2.5, None)
    assert Quantiles.of([float(n) for n in range(19)]) == Quantiles(9.0, None)
    # numpy's default interpolation returns the same values.
    assert Quantiles.of([float(n) for n in range(1, 22)]) == Quantiles(11.0, 20.0)


def test_duration_of_a_call_that_ends_before_its_start_is_unknown() -> None:
    whole = chat(1)
    without_end = replace(chat(2), start_ns=1, end_ns=0)
    assert calls_from_spans([without_end])[0].duration_ms is None
    [row] = summarize([whole, without_end]).rows
    assert (row.calls, row.duration_ms) == (2, Quantiles(whole.duration_ms, None))


def test_summarize_groups_calls_by_operation_and_model() -> None:
    summary = summarize(
        [
            *(chat(number, llamatelemetry__gpu__energy=1.5) for number in range(1, 22)),
            span(
                5,
                status=2,
                gen_ai__operation__name="chat",
                gen_ai__request__model="m",
                error__type="timeout",
            ),
            span(1, kind=1, gen_ai__operation__name="text_completion", gen_ai__request__model="hf"),
            span(9, kind=1, gen_ai__operation__name="invoke_workflow"),
            span(9, gen_ai__operation__name="invoke_agent"),
            span(9, kind=1),
        ],
        [load(0.5), load(0.7)],
    )
    row, other = summary.rows
    assert (row.operation, row.model, row.calls, row.errors) == ("chat", "m", 22, 1)
    assert (row.input_tokens, row.output_tokens) == (210, sum(range(1, 22)))
    assert row.ttft_ms == Quantiles(11.0, 20.0)
    assert row.duration_ms == Quantiles(11.0, 20.0)  # without failed calls
    assert row.tokens_per_s == Quantiles(500.0, 500.0)
    assert row.energy_j == pytest.approx(31.5)
    assert row.queue_ms is None
    assert (other.operation, other.input_tokens, other.energy_j) == ("text_completion", None, None)
    assert summary.errors == {"timeout": 1}
    assert (summary.calls, summary.spans, summary.processes) == (23, 26, 2)
    assert summary.gpu_utilization == pytest.approx(0.6)
