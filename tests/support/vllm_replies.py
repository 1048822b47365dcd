"""Responses and spans that a real vLLM 0.32 sent, and the openai client that receives them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan

from llamatelemetry.local.otlp import records_of
from llamatelemetry.local.records import SpanRecord
from tests.support import payloads

REPLIES = Path(__file__).with_name("engine_replies") / "vllm"


def recorded(name: str) -> dict[str, Any]:
    return json.loads((REPLIES / f"{name}.json").read_text(encoding="utf-8"))


def replay(name: str, *, per_request_metrics: bool = True) -> dict[str, Any]:
    """Send the recorded request with the openai client, and let it receive the recorded response.

    Args:
        name: Name of the recorded response.
        per_request_metrics: Whether the client receives `metrics`. Without
            `--enable-per-request-metrics` vLLM does not send it.

    Returns:
        `metrics` of the recorded response.
    """
    record = recorded(name)
    request = record["request"]
    body, chunks = record.get("body"), []
    for _, line in record.get("events", ()):
        chunk = json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else None
        chunks.append((line, chunk))
    holders = [body] if body else [chunk.get("response", chunk) for _, chunk in chunks if chunk]
    metrics = next((each["metrics"] for each in reversed(holders) if each.get("metrics")), {})
    if not per_request_metrics:
        for each in holders:
            each.pop("metrics", None)

    def respond(_: Any) -> Any:
        if body is not None:
            return payloads.json_response(body)
        lines = (line if chunk is None else f"data: {json.dumps(chunk)}" for line, chunk in chunks)
        # A recorded event may have a line with its name before the one with its data.
        ended = (
            f"{line}\n\n" if line.startswith("data:") else f"{line}\n" for line in lines if line
        )
        return payloads.stream_response("".join(ended).encode())

    client = payloads.client(respond)
    resource: Any = client
    for part in request["path"].removeprefix("/v1/").split("/"):
        if not hasattr(resource, part):
            pytest.skip(f"this version of openai has no {part}")
        resource = getattr(resource, part)
    known = {"model", "messages", "prompt", "input", "stream", "n"}
    result = resource.create(
        **{key: value for key, value in request["body"].items() if key in known}
    )
    if body is None:
        list(result)
    return metrics


def recorded_spans() -> list[SpanRecord]:
    """Return vLLM's own spans: of the recorded responses, of other requests, and of its start."""
    lines = (REPLIES / "spans.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        SpanRecord(
            trace_id=found["trace"],
            span_id=found["span"],
            parent_span_id=found["parent"] or None,
            name=found["name"],
            kind=found["kind"],
            start_ns=found["start"],
            end_ns=found["end"],
            attributes=found["attrs"],
            status=found["status"],
            scope=found["scope"],
            resource=found["resource"],
        )
        for found in map(json.loads, lines)
    ]


def spans_of_reply(name: str) -> list[SpanRecord]:
    """Return vLLM's own spans of a recorded response."""
    record = recorded(name)
    sent_ns = int(record["client_t0_unix"] * 1e9)
    ended_ns = sent_ns + record["client_ms_total"] * 1e6
    return [
        span
        for span in recorded_spans()
        if span.name == "llm_request" and sent_ns <= span.start_ns <= ended_ns
    ]


def as_records(*spans: ReadableSpan) -> list[SpanRecord]:
    """Return spans of the SDK as a receiver stores them."""
    return [
        each for each in records_of("traces", encode_spans(spans)) if isinstance(each, SpanRecord)
    ]
