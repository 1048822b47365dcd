"""Hostile telemetry in the database, the page and `why`: it is data, whatever it contains."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llamatelemetry.cli._app import app
from llamatelemetry.local.calls import summarize
from llamatelemetry.local.receiver import Receiver
from llamatelemetry.local.recording import Recording
from llamatelemetry.local.records import Event, LogRecord
from llamatelemetry.local.report import read_recorded, render
from llamatelemetry.local.store import Store, StoreReader
from llamatelemetry.local.why import explain
from llamatelemetry.semconv import attributes
from llamatelemetry.semconv import gpu as gpu_names
from tests.support.example_records import call, gpu, span, vllm

HOSTILE_SPANS = {
    "short ids": {"traceId": "ab", "spanId": "", "parentSpanId": "0" * 64},
    "markup": {
        "name": "</script><script>alert(1)</script>",
        "status": {"message": "<img src=x onerror=alert(1)>", "code": 2},
        "events": [{"name": "<script>", "attributes": [{"key": "<b>", "value": {}}]}],
        "attributes": [{"key": "<script>", "value": {"stringValue": "\u2028\x00"}}],
    },
    "lone surrogate": {"name": "\ud800"},
    "numbers": {
        "startTimeUnixNano": "9223372036854775807",
        "endTimeUnixNano": "1",
        "kind": 2147483647,
        "attributes": [
            {"key": "gen_ai.usage.input_tokens", "value": {"doubleValue": "NaN"}},
            {"key": "gen_ai.usage.output_tokens", "value": {"intValue": "-9223372036854775808"}},
            {"key": "gen_ai.ttft_ms", "value": {"doubleValue": "-Infinity"}},
        ],
    },
    "types": {
        "name": "chat m",
        "attributes": [
            {"key": name, "value": {"arrayValue": {"values": [{"kvlistValue": {}}]}}}
            for name in (
                *("gen_ai.operation.name", "gen_ai.request.model", "gen_ai.usage.input_tokens"),
                *("gen_ai.input.messages", "gen_ai.response.finish_reasons", "error.type"),
                *("llamatelemetry.phase.prefill.duration", "server.address"),
            )
        ],
    },
    "operation": {
        "name": "",
        "attributes": [{"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}}],
    },
}


REJECTED = {"lone surrogate"}


def send(receiver: Receiver, span: dict[str, object]) -> int:
    """Send a span as JSON to the receiver and return the status."""
    spans = [{"traceId": "1" * 32, "spanId": "2" * 16, **span}]
    request = urllib.request.Request(
        f"{receiver.url}/v1/traces",
        json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize("name", HOSTILE_SPANS)
def test_hostile_span_is_shown_as_data(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with Store(path) as store:
        receiver = Receiver(store)
        receiver.start()
        try:
            status = send(receiver, HOSTILE_SPANS[name])
            assert status == (400 if name in REJECTED else 200)
            # The receiver still accepts spans.
            assert send(receiver, {"name": "after", "spanId": "3" * 16}) == 200
        finally:
            receiver.stop()
    with StoreReader(path) as reader:
        assert len(list(reader.spans())) == (1 if name in REJECTED else 2)
    page = render(read_recorded(path))
    assert "alert(1)" not in page
    result = CliRunner().invoke(app, ["why", str(path)])
    assert result.exit_code in {0, 1}
    assert "Traceback" not in result.output


HOSTILE_VALUES = (
    *(["a"], [{}], {"a": 1}, "", "</script>", "x" * 5000, None, True, -(2**63), 2**63 - 1, 1e308),
    *(float("nan"), float("inf"), "nan", "-inf", "1e400", [None], [[1]], "9" * 5000),
)
NAMES = sorted(
    {
        value
        for module in (attributes, gpu_names)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    | {
        "service.name",
        "service.instance.id",
        "process.pid",
        "hw.id",
        "hw.name",
        "gen_ai.request.id",
    }
)


def hostile_recording(value: Any) -> Recording:
    """Return spans, metrics and a log record whose every attribute has this value."""
    every = dict.fromkeys(NAMES, value)
    operation = {attributes.GEN_AI_OPERATION_NAME: "chat"}
    phase = {name: every[name] for name in NAMES if name != attributes.PHASE}
    engine = vllm(9)
    spans = [
        call(1),
        replace(call(2, 1), attributes=every, resource=every),
        replace(call(3, 1), attributes={**phase, **operation}, resource=every),
        replace(call(4, trace=2), attributes={**phase, **operation}, status=2),
        replace(engine, attributes=dict.fromkeys({*engine.attributes, *NAMES}, value)),
        replace(span(5, 2), events=[Event("exception", 0, every)]),
        replace(call(6), start_ns=2**63 - 1, end_ns=-(2**63)),
    ]
    points = [
        replace(gpu(name, 1, 1.0), attributes=every, resource=every)
        for name in (*NAMES, "hw.gpu.utilization", "hw.power")
    ]
    return Recording(spans, points, [LogRecord(1, 9, "x", value, every, resource=every)])


@pytest.mark.parametrize("value", HOSTILE_VALUES, ids=lambda value: repr(value)[:20])
def test_page_and_why_accept_any_value_of_any_attribute(value: Any) -> None:
    recording = hostile_recording(value)
    summarize(recording.spans, recording.points)
    assert "alert(1)" not in render(recording)
    explain(recording)
