"""Summary of the calls of a recording, and its table."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from llamatelemetry.cli._tables import print_summary
from llamatelemetry.local.calls import Quantiles, Summary, summarize
from llamatelemetry.local.records import MetricPoint, SpanRecord


def span(number: int, kind: int = 3, status: int = 0, **attributes: object) -> SpanRecord:
    return SpanRecord(
        trace_id="1" * 32,
        span_id=f"{number:016x}",
        parent_span_id=None,
        name="x",
        kind=kind,
        start_ns=0,
        end_ns=number * 1_000_000,
        attributes={name.replace("__", "."): value for name, value in attributes.items()},
        status=status,
        resource={"service.instance.id": str(number % 2)},
    )


def chat(number: int, **more: object) -> SpanRecord:
    return span(
        number,
        gen_ai__operation__name="chat",
        gen_ai__response__model="m",
        gen_ai__usage__input_tokens=10,
        gen_ai__usage__output_tokens=number,
        gen_ai__ttft_ms=float(number),
        gen_ai__tpot_ms=2.0,
        **more,
    )


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


def printed(summary: Summary, width: int) -> str:
    out = io.StringIO()
    print_summary(Console(file=out, width=width), summary)
    return out.getvalue()


def test_summary_table_hides_unknown_columns_and_fits_width() -> None:
    summary = summarize([chat(number) for number in range(1, 22)])
    wide = printed(summary, 120)
    assert "energy" not in wide
    assert "queue" not in wide
    assert "11 / 20" in wide
    assert "Processes: 2" in wide
    narrow = printed(summary, 60)
    assert "11 / 20" not in narrow
    assert "Model: m" in narrow
    assert all(len(line) <= 60 for line in narrow.splitlines())


def test_empty_summary_names_next_command() -> None:
    assert "llamatelemetry doctor" in printed(Summary(), 200)
    assert "received 3 other spans" in printed(Summary(spans=3), 200)
