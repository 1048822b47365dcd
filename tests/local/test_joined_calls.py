"""One call is counted once, however many programs and layers have recorded it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.local.calls import calls_from_spans, summarize
from llamatelemetry.local.joined_calls import first_end_without_engine_span, join_calls
from llamatelemetry.local.recording import read_recorded
from llamatelemetry.local.records import SpanRecord
from llamatelemetry.local.report.columns import columns
from llamatelemetry.local.store import Store
from llamatelemetry.local.summary_table import summary_table
from tests.support.example_records import call, otlp_json, span, vllm


def server(number: int, parent: int | None, trace: int = 1, **attributes: Any) -> SpanRecord:
    """Return the SERVER span of a model server that follows the conventions."""
    return replace(call(number, parent, trace, **attributes), kind=2, scope="server")


def totals(*spans: SpanRecord) -> tuple[int, int, int | None, int | None]:
    """Return calls, errors, input and output tokens of the summary."""
    (row,) = summarize(spans).rows
    assert summarize(reversed(spans)).rows == [row]
    return row.calls, row.errors, row.input_tokens, row.output_tokens


def failed(of: SpanRecord) -> SpanRecord:
    attributes = {**of.attributes, "error.type": "500"}
    for name in ("input_tokens", "output_tokens"):
        attributes.pop(f"gen_ai.usage.{name}", None)
    return replace(of, status=2, attributes=attributes)


@pytest.mark.parametrize(
    "spans",
    [
        pytest.param([call(1), vllm(parent=1)], id="engine"),
        pytest.param(
            [span(5), call(1, 5), span(2, 1, kind=3), vllm(parent=2)],
            id="engine, below the span of an HTTP client",
        ),
        pytest.param([call(1), server(2, 1)], id="server"),
        pytest.param(
            [call(1), server(2, 1, **{"gen_ai.usage.output_tokens": 6})],
            id="server that counts other tokens",
        ),
        pytest.param([call(1), span(2, 1, kind=2), call(3, 2), vllm(parent=3)], id="proxy"),
        pytest.param([call(1), server(2, 1), call(3, 2), vllm(parent=3)], id="recorded proxy"),
        pytest.param(
            [
                call(1, **{"gen_ai.response.id": "chatcmpl-a1b2"}),
                call(
                    3, 1, **{"gen_ai.response.id": "chatcmpl-a1b2", "gen_ai.usage.input_tokens": 9}
                ),
                vllm(parent=77, trace=2),
            ],
            id="recorded proxy that counts other tokens",
        ),
        pytest.param([call(1), call(1)], id="exported twice"),
        pytest.param([call(1), vllm(parent=77)], id="engine, below a span that is missing"),
        pytest.param(
            [call(1, **{"gen_ai.response.id": "chatcmpl-a1b2"}), vllm(parent=77, trace=2)],
            id="engine, in another trace",
        ),
        pytest.param(
            [
                call(1, **{"gen_ai.response.id": "cmpl-a1b2"}),
                *(vllm(n, 77, 3 + n, request_id=f"cmpl-a1b2-{n}") for n in (0, 1)),
            ],
            id="engine, two prompts in other traces",
        ),
        pytest.param([call(1), server(2, 77)], id="server, below a span that is missing"),
    ],
)
def test_call_is_counted_once(spans: list[SpanRecord]) -> None:
    assert totals(*spans) == (1, 0, 10, 5)


@pytest.mark.parametrize(
    "spans",
    [
        pytest.param([call(1), call(2, trace=2)], id="of two traces"),
        pytest.param([span(5), call(1, 5), call(2, 5)], id="beside one another"),
        pytest.param([call(1), server(2, None, trace=2)], id="one without a client"),
        pytest.param(
            [replace(each, scope="opentelemetry-otlp") for each in (call(1), call(2))],
            id="of programs with the scope of an engine",
        ),
        pytest.param(
            [call(1, **{"gen_ai.response.id": "mine"}), call(2, **{"gen_ai.response.id": "mine"})],
            id="with an identifier that the client chose",
        ),
    ],
)
def test_other_calls_are_counted(spans: list[SpanRecord]) -> None:
    assert totals(*spans) == (2, 0, 20, 10)


def test_calls_of_an_agent_behind_a_model_interface_are_counted() -> None:
    inner = {"gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 2}
    spans = [call(1), server(2, 1), call(3, 2, **inner), call(4, 2, **inner)]
    assert totals(*spans) == (3, 0, 16, 9)
    embeddings = call(3, 2, **{"gen_ai.operation.name": "embeddings"})
    assert len(calls_from_spans([call(1), server(2, 1), embeddings])) == 2


def test_error_is_counted_once_through_a_proxy() -> None:
    spans = [failed(call(1)), server(2, 1), failed(call(3, 2))]
    assert totals(*spans) == (1, 1, 10, 5)
    assert summarize(spans).errors == {"500": 1}


def test_lower_layers_fill_in_what_the_client_does_not_know() -> None:
    known = {
        "gen_ai.prefill_ms": 20.0,
        "llamatelemetry.queue_duration": 0.01,
        "llamatelemetry.gpu.energy": 3.0,
        "gen_ai.ttft_ms": 1.0,
    }
    (found,) = calls_from_spans([call(1), server(2, 1, **known)])
    assert (found.queue_ms, found.prefill_ms, found.energy_j) == (10.0, 20.0, 3.0)
    assert found.ttft_ms == 12.5  # of the client


def test_span_with_unknown_parent_is_no_call_if_it_may_belong_to_one_of_several() -> None:
    # Its client may have recorded it, and be one of two concurrent calls.
    spans = [call(1), call(2), vllm(parent=77)]
    assert totals(*spans) == (2, 0, 20, 10)
    assert all(not joined.requests for joined in join_calls(spans))


def test_spans_whose_parents_form_a_circle_are_read() -> None:
    circle = [span(2, 3), span(3, 2), vllm(parent=2)]
    assert [each.duration_ms for each in calls_from_spans(circle)] == [50.0]
    assert len(calls_from_spans([call(1, 1), call(2, 3), call(3, 2)])) == 2
    # A server without known parent, around which only a call is open that is below it.
    around = [server(1, 77), replace(call(2, 1), start_ns=server(1, 77).start_ns)]
    assert len(calls_from_spans(around)) == 1


numbers = st.integers(1, 6)
any_span = st.builds(
    lambda make, number, parent, trace: make(number, parent, trace),
    st.sampled_from([call, server, vllm, span]),
    numbers,
    st.none() | numbers,
    st.integers(1, 2),
)


@given(st.lists(any_span, max_size=12))
def test_each_span_belongs_to_one_call_at_most(spans: list[SpanRecord]) -> None:
    first = {(each.trace_id, each.span_id): each for each in reversed(spans)}
    found = [each for joined in join_calls(spans) for each in joined.spans]
    assert len({id(each) for each in found}) == len(found)
    calls = [each for each in first.values() if "gen_ai.operation.name" in each.attributes]
    assert all(any(each is one for one in found) for each in calls)


def test_request_without_client_has_duration_and_error_of_its_span() -> None:
    first = replace(vllm(), status=2)
    second = replace(first, span_id=f"{2:016x}", end_ns=first.end_ns + 7_000_000)
    (found,) = calls_from_spans([first, second])
    assert found.duration_ms == 57
    assert (found.error, found.operation, found.output_tokens) == ("error", "chat", 10)


def test_database_and_forwarded_lines_count_each_span_once(tmp_path: Path) -> None:
    spans = [call(1), vllm(parent=1), call(3, trace=2)]
    with Store(tmp_path / "run.db") as store:
        store.write(spans)
        store.write(spans)
    assert totals(*read_recorded(tmp_path / "run.db").spans) == (2, 0, 20, 10)
    # A collector that repeats a request, and the program's own file beside the collector's.
    for name in ("program", "collector"):
        lines = [f"{otlp_json(each)}\n" for each in (spans, spans[:1])]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    assert totals(*read_recorded(tmp_path).spans) == (2, 0, 20, 10)


def test_page_shows_one_call_for_several_spans() -> None:
    spans = [call(1), vllm(parent=1), vllm(8, 77, trace=2)]
    rows = columns(spans)["spans"]
    assert rows["role"] == [1, 8, 1]
    # Input and output tokens.
    assert [cells and cells[2:5:2] for cells in rows["call"]] == [[10, 5], None, [20, 5]]
    table = summary_table(summarize(spans))["rows"]
    assert sorted(row[:7] for row in table) == [
        ["chat", "m", 1, 0, "10", "5", "10"],
        ["chat", "\N{EN DASH}", 1, 0, "20", "5", "10"],
    ]


def test_first_call_without_the_span_of_its_engine_is_found() -> None:
    by_vllm = {"gen_ai.provider.name": "vllm"}
    with_span = [call(1, **by_vllm), vllm(9, parent=1)]
    others = [call(2, trace=2), failed(call(3, trace=3, **by_vllm))]
    assert first_end_without_engine_span([*with_span, *others]) is None
    lacking = [call(5, trace=5, **by_vllm), call(4, trace=4, **by_vllm)]
    assert first_end_without_engine_span([*with_span, *others, *lacking]) == lacking[1].end_ns
