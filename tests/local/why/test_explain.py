"""Recordings of every kind: other engines, services, several runs and processes, OTLP JSON lines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llamatelemetry
from llamatelemetry.local.recording import Recording
from llamatelemetry.local.records import MetricPoint, SpanRecord
from llamatelemetry.local.store import Store
from llamatelemetry.local.why import explain
from tests.support.example_records import call as recorded_call
from tests.support.example_records import vllm
from tests.support.explained_calls import (
    START_NS,
    call,
    explained,
    milliseconds,
    part,
    quiet_calls,
    target,
)

AT = 200_000.0
NO_PHASES = dict.fromkeys(
    (
        *("gen_ai.prefill_ms", "gen_ai.decode_ms", "llamatelemetry.prompt_tokens"),
        *("llamatelemetry.queue_duration", "llamatelemetry.queue_source"),
        *("llamatelemetry.server.cpu", "llamatelemetry.server.run_delay"),
        "gen_ai.usage.cache_read.input_tokens",
    )
)


def plain(span: SpanRecord) -> SpanRecord:
    """Return a call as recorded without diagnostics."""
    hidden = ("llamatelemetry.client.", "llamatelemetry.server.", "llamatelemetry.prompt.")
    kept = {key: value for key, value in span.attributes.items() if not key.startswith(hidden)}
    return replace(span, attributes=kept)


def test_recording_without_diagnostics_has_phases_and_says_how_to_get_more():
    spans = [plain(span) for span in quiet_calls()]

    explanation = explained(plain(call(99, AT, stream=500)), quiet=spans)

    found = explanation.calls[-1]
    assert milliseconds(found)["prefill_new"] == 170
    assert milliseconds(found)["unexplained"] == pytest.approx(500, abs=20)
    assert found.top_cause == "unknown"
    assert "LLAMATELEMETRY_DIAGNOSTICS=true" in explanation.notes[0]


def test_plain_response_is_divided_like_a_stream():
    options = {"gen_ai.request.stream": False, "llamatelemetry.queue_source": "remainder"}

    found = target(call(99, AT, late=200, **options))

    assert milliseconds(found) == {
        "client_before_send": 2,
        "network_before": 5,
        "prefill_new": 170,
        "decode": 100,
        "client_late": 200,
    }


def test_service_without_phases_has_only_the_parts_of_the_client():
    options = {**NO_PHASES, "gen_ai.provider.name": "openai", "server.address": "api.example"}

    found = target(call(99, AT, late=300, **options))

    assert milliseconds(found)["client_late"] == 300
    assert milliseconds(found)["unexplained"] == pytest.approx(275, abs=2)
    assert part(found, "unexplained").evidence == (
        "5 ms until the response headers; 270 ms from the response headers to the last data"
    )
    assert "reports no prefill and decode times" in found.unknown[0]


def test_stop_of_a_local_server_without_phases_is_seen():
    process = {"llamatelemetry.server.cpu": [0.1], "llamatelemetry.server.run_delay": [0.0]}
    options = {**NO_PHASES, **process, "llamatelemetry.server.stopped": [0.2]}

    found = target(call(99, AT, **options))

    assert found.top_cause == "server_stopped"
    assert milliseconds(found)["server_stopped"] == 200


def test_span_of_vllm_gives_the_phases_of_the_client_s_call():
    marks = {"gen_ai.provider.name": "vllm", "llamatelemetry.client.last_data": 0.7}
    client = replace(
        call(99, AT, late=100, **NO_PHASES, **marks),
        end_ns=START_NS + int((AT + 700) * 1e6),
    )
    engine = SpanRecord(
        trace_id=client.trace_id,
        span_id="e" * 16,
        parent_span_id=client.span_id,
        name="llm_request",
        kind=2,
        start_ns=client.start_ns + 20_000_000,
        end_ns=client.start_ns + 520_000_000,
        attributes={
            "gen_ai.request.id": "chatcmpl-1",
            "gen_ai.latency.e2e": 0.5,
            "gen_ai.latency.time_in_queue": 0.2,
            "gen_ai.latency.time_in_model_prefill": 0.1,
            "gen_ai.latency.time_in_model_decode": 0.15,
            "gen_ai.usage.prompt_tokens": 130,
            "gen_ai.usage.completion_tokens": 11,
        },
        scope="vllm.tracing.otel",
    )

    (found,) = explained(client, engine, quiet=()).calls

    assert milliseconds(found)["queue"] == 200
    assert milliseconds(found)["prefill_new"] == 100
    assert milliseconds(found)["decode"] == 150
    assert milliseconds(found)["client_late"] == 100
    assert part(found, "queue").evidence == "measured by the engine"
    assert found.top_cause == "queue"
    assert any("--enable-prompt-tokens-details" in text for text in found.unknown)


def test_queue_that_an_engine_reports_is_not_its_usual_wait():
    queued = {
        "gen_ai.provider.name": "vllm",
        "gen_ai.response.time_to_first_chunk": 0.472,
        "llamatelemetry.queue_source": "engine",
        "llamatelemetry.queue_duration": 0.29,
    }
    spans = [call(number, 10_000 * number, wait=300, **queued) for number in range(8)]

    explanation = explained(quiet=spans)

    assert explanation.servers[0].wait_ms == pytest.approx(10, abs=1)
    assert explanation.calls[0].top_cause == "queue"


def test_each_run_of_a_file_has_its_own_rates():
    slow = {"service.instance.id": "two"}
    second = [
        call(
            100 + number,
            1_000_000 + 10_000 * number,
            processed=10 + 10 * number,
            prefill=2 * (70 + 50 * number),
            resource=slow,
        )
        for number in range(10)
    ]

    rates = explain(Recording(spans=[*quiet_calls(), *second])).servers

    assert [(each.run, round(each.prefill_ms_per_token or 0)) for each in rates] == [
        (1, 5),
        (2, 10),
    ]


def test_workers_of_a_run_share_the_queue_of_a_server():
    ahead = [
        call(number, AT, output=60, resource={"service.instance.id": f"worker {number}"})
        for number in (97, 98)
    ]

    found = target(*ahead, call(99, AT + 300, wait=465))

    assert found.top_cause == "queue"


def test_time_between_the_calls_of_a_trace_is_the_application_s():
    first, second = call(1, 0), call(2, 1000)
    second = replace(second, trace_id=first.trace_id)

    explanation = explained(first, second, quiet=())

    assert explanation.application_ms == pytest.approx(1000 - first.duration_ms)
    assert explanation.totals["application"] == explanation.application_ms


def test_failed_call_is_explained_until_its_end():
    found = target(call(99, AT, **NO_PHASES, **{"error.type": "ReadTimeout"}))

    assert found.error == "ReadTimeout"
    assert "until it failed with ReadTimeout" in found.sentence


def test_engine_in_the_process_has_no_network_and_no_neighbors():
    local: dict[str, Any] = {"server.address": None, "gen_ai.provider.name": "huggingface"}

    explanation = explained(call(1, 0, **local), call(2, 10, **local), quiet=())

    assert {p.name for c in explanation.calls for p in c.parts} <= {
        *("client_before_send", "network_before", "prefill_new", "decode", "unexplained")
    }
    assert explanation.servers[0].slots is None


def test_empty_recording_has_no_calls():
    assert str(explain(Recording())) == "No LLM call recorded."


def test_calls_that_cannot_be_explained_are_counted():
    spans = [vllm(1, parent=None, trace=1), replace(recorded_call(2, trace=2), end_ns=0)]
    reason = "only their engine recorded them, or they end before their start."
    assert str(explain(Recording(spans))) == f"2 calls are not explained: {reason}"
    explanation = explain(Recording([*spans[:1], recorded_call(3, trace=3)]))
    assert len(explanation.calls) == 1
    assert explanation.notes[-1] == f"1 call is not explained: {reason}"


def test_why_reads_a_database(tmp_path: Path):
    path = tmp_path / "run.db"
    with Store(path) as store:
        store.write(quiet_calls())

    explanation = llamatelemetry.why(path)

    assert len(explanation.calls) == 10
    assert json.loads(json.dumps(explanation.to_dict()))["servers"][0]["undisturbed"] == 10


def test_why_reads_the_latest_run_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="llamatelemetry run"):
        llamatelemetry.why()
    with Store(tmp_path / "llamatelemetry-data" / "run.db") as store:
        store.write(quiet_calls(3))

    assert len(llamatelemetry.why().calls) == 3


def test_start_of_a_server_explains_the_wait_for_its_model():
    rejected = {
        "llamatelemetry.client.attempts": ["1:2:503"],
        "llamatelemetry.client.last_attempt": 0.9,
    }
    start = SpanRecord(
        trace_id="f" * 32,
        span_id="f" * 16,
        parent_span_id=None,
        name="llama_server start",
        kind=1,
        start_ns=START_NS + int((AT - 5000) * 1e6),
        end_ns=START_NS + int((AT + 850) * 1e6),
        attributes={
            "server.address": "localhost",
            "server.port": 8080,
            "llamatelemetry.server.load_duration": 5.8,
        },
    )

    found = target(start, call(99, AT, sent=902, **rejected))

    assert found.top_cause == "model_load"
    assert milliseconds(found)["model_load"] == 850
    assert milliseconds(found)["retry"] == 52


@pytest.mark.parametrize(("is_local", "ms"), [(True, 400), (False, None)])
def test_lowered_clocks_of_a_local_gpu_explain_a_slow_decode(is_local: bool, ms: int | None):
    hidden = {} if is_local else {"llamatelemetry.server.cpu": None}
    readings = [
        MetricPoint(
            "llamatelemetry.gpu.throttled", "1", "sum", False, False,
            {"hw.id": "GPU-1", "llamatelemetry.gpu.throttle_reason": "thermal"},
            0, START_NS + int(at * 1e6), value=1,
        )
        for at in (AT - 1000, AT + 1000)
    ]  # fmt: skip
    slow = call(99, AT, decode=500, **hidden)

    explanation = explain(Recording(spans=[*quiet_calls(), slow], points=readings))

    found = explanation.calls[-1]
    assert milliseconds(found).get("throttled") == ms
    assert found.top_cause == ("throttled" if is_local else "unknown")
