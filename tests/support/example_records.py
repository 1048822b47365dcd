"""Spans, metrics and logs of a small run, for the tests of the database and the report."""

from __future__ import annotations

import json
from typing import Any

from llamatelemetry.local.records import Event, LogRecord, MetricPoint, SpanRecord
from llamatelemetry.local.report import Recording

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"
ANSWER = [{"role": "assistant", "parts": [{"type": "text", "content": "an answer"}]}]
START_NS = 1_800_000_000_000_000_000


def span(number: int, parent: int | None = None, trace: int = 1, **changes: Any) -> SpanRecord:
    given: dict[str, Any] = {
        "trace_id": f"{trace:032x}",
        "span_id": f"{number:016x}",
        "parent_span_id": None if parent is None else f"{parent:016x}",
        "name": f"span {number}",
        "kind": 1,
        "start_ns": START_NS + number * 1_000_000,
        "end_ns": START_NS + number * 1_000_000 + 50_000_000,
        "attributes": {},
        "resource": {"service.name": "library", "process.pid": 7},
    }
    return SpanRecord(**{**given, **changes})


def call(number: int, parent: int | None = None, trace: int = 1, **more: Any) -> SpanRecord:
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.ttft_ms": 12.5,
        "gen_ai.tpot_ms": 8.0,
        **more,
    }
    return span(number, parent, trace, name="chat m", kind=3, attributes=attributes)


def latency(**seconds: Any) -> dict[str, Any]:
    """Return the attributes of an engine's own span, with these `gen_ai.latency.*`."""
    return {
        "gen_ai.request.id": "chatcmpl-a1b2",
        "gen_ai.usage.prompt_tokens": 20,
        "gen_ai.usage.completion_tokens": 5,
        **{f"gen_ai.latency.{name}": value for name, value in seconds.items()},
    }


def vllm(
    number: int = 9,
    parent: int | None = 1,
    trace: int = 1,
    request_id: str = "chatcmpl-a1b2",
    **seconds: Any,
) -> SpanRecord:
    """Return vLLM's own span of a request: 10 ms queue, 20 ms prefill, 12 ms decode."""
    known = {
        "e2e": 0.05,
        "time_in_queue": 0.01,
        "time_in_model_prefill": 0.02,
        "time_in_model_decode": 0.012,
    }
    attributes = {**latency(**{**known, **seconds}), "gen_ai.request.id": request_id}
    scope = "vllm.tracing.otel"
    return span(
        number, parent, trace, name="llm_request", kind=2, scope=scope, attributes=attributes
    )


def phase(number: int, name: str, parent: int) -> SpanRecord:
    return span(number, parent, name=name, attributes={"llamatelemetry.phase": name})


def gpu(metric: str, seconds: int, value: float) -> MetricPoint:
    return MetricPoint(
        metric, "1", "gauge", False, False, {"hw.name": "GPU 0"}, 0,
        START_NS + seconds * 1_000_000_000, value=value,
    )  # fmt: skip


def sample_recording() -> Recording:
    messages = json.dumps([{"role": "user", "parts": [{"type": "text", "content": EVIL}]}])
    return Recording(
        spans=[
            span(1, name="invoke_workflow rag"),
            call(2, 1, **{"gen_ai.input.messages": messages}),
            phase(3, "queue", 2),
            phase(4, "prefill", 2),
            phase(5, "decode", 2),
            span(
                6, 1, name=EVIL, status=2, status_message=EVIL,
                events=[Event("exception", START_NS, {"exception.type": EVIL})],
            ),
            call(7, trace=2),
        ],
        points=[gpu("hw.gpu.utilization", n, n / 10) for n in range(5)]
        + [gpu("hw.power", n, 100.0 + n) for n in range(5)],
        logs=[
            LogRecord(
                START_NS, 9, "gen_ai.client.inference.operation.details", None,
                {"gen_ai.output.messages": ANSWER},
                trace_id=f"{2:032x}", span_id=f"{7:016x}",
            )
        ],
        sources=["run.db"],
    )  # fmt: skip


def numbered(number: int, padding: int = 0) -> SpanRecord:
    return SpanRecord(
        trace_id=f"{number:032x}",
        span_id=f"{number:016x}",
        parent_span_id=None,
        name=f"span {number}",
        kind=1,
        start_ns=number,
        end_ns=number + 1,
        attributes={"padding": "x" * padding},
    )


def otlp_json(spans: list[SpanRecord]) -> str:
    """Return an export request in OTLP's JSON."""
    types = {str: "stringValue", int: "intValue", float: "doubleValue"}
    scopes = [
        {
            "scope": {"name": each.scope},
            "spans": [
                {
                    "traceId": each.trace_id,
                    "spanId": each.span_id,
                    "parentSpanId": each.parent_span_id or "",
                    "name": each.name,
                    "kind": each.kind,
                    "startTimeUnixNano": str(each.start_ns),
                    "endTimeUnixNano": str(each.end_ns),
                    "attributes": [
                        {"key": name, "value": {types[type(value)]: value}}
                        for name, value in each.attributes.items()
                    ],
                }
            ],
        }
        for each in spans
    ]
    return json.dumps({"resourceSpans": [{"scopeSpans": scopes}]})
