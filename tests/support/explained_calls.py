"""Recordings with known rates: 5 ms per prompt token + 20 ms, and 10 ms per output token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llamatelemetry.local.recording import Recording
from llamatelemetry.local.records import SpanRecord
from llamatelemetry.local.why import CallExplanation, Explanation, Part, explain

START_NS = 1_800_000_000_000_000_000
PROMPT_MS, BASE_MS, OUTPUT_MS, WAIT_MS = 5.0, 20.0, 10.0, 5.0
TARGET = 999


def call(
    number: int,
    at: float,
    *,
    processed: int = 30,
    cached: int = 100,
    output: int = 11,
    sent: float = 2.0,
    wait: float = WAIT_MS,
    prefill: float | None = None,
    decode: float | None = None,
    stream: float = 0.0,
    late: float = 0.0,
    process: Mapping[str, list[float]] | None = None,
    resource: Mapping[str, Any] | None = None,
    **attributes: Any,
) -> SpanRecord:
    """Return a streamed call to llama.cpp. All times are in ms; the server runs on this machine."""
    prefill = BASE_MS + PROMPT_MS * processed if prefill is None else prefill
    decode = OUTPUT_MS * (output - 1) if decode is None else decode
    headers = sent + wait
    arrived = headers + prefill + decode + stream
    end = arrived + late
    times = {"cpu": [1.0, prefill, decode], "run_delay": [0.0, 0.0, 0.0], **(process or {})}
    found: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.response.model": "m",
        "gen_ai.request.stream": True,
        "server.address": "127.0.0.1",
        "server.port": 8080,
        "gen_ai.usage.input_tokens": processed + cached,
        "gen_ai.usage.cache_read.input_tokens": cached,
        "gen_ai.usage.output_tokens": output,
        "gen_ai.prefill_ms": prefill,
        "gen_ai.decode_ms": decode,
        "llamatelemetry.prompt_tokens": processed,
        "llamatelemetry.queue_duration": wait / 1000,
        "llamatelemetry.queue_source": "header",
        "llamatelemetry.client.sent": sent / 1000,
        "llamatelemetry.client.headers": headers / 1000,
        "llamatelemetry.client.last_data": end / 1000,
        "llamatelemetry.client.read_delay": [0.0, late / 1000],
        **{f"llamatelemetry.server.{key}": [ms / 1000 for ms in v] for key, v in times.items()},
    }
    found = {key: value for key, value in (found | attributes).items() if value is not None}
    start_ns = START_NS + int(at * 1e6)
    return SpanRecord(
        trace_id=f"{number:032x}",
        span_id=f"{number:06x}{0:010x}",
        parent_span_id=None,
        name="chat m",
        kind=3,
        start_ns=start_ns,
        end_ns=start_ns + round(end * 1e6),
        attributes=found,
        status=2 if "error.type" in found else 0,
        resource={"service.instance.id": "one"} if resource is None else resource,
    )


def quiet_calls(count: int = 10) -> list[SpanRecord]:
    """Return calls that follow one another, so that the rates are known."""
    return [call(number, 10_000 * number, processed=10 + 10 * number) for number in range(count)]


def explained(*spans: SpanRecord, quiet: Iterable[SpanRecord] | None = None) -> Explanation:
    """Explain spans after quiet calls. Each call's parts must add up."""
    before = quiet_calls() if quiet is None else list(quiet)
    explanation = explain(Recording(spans=[*before, *spans]))
    for each in explanation.calls:
        assert abs(sum(part.ms for part in each.parts) - each.duration_ms) < 0.01
        assert all(part.ms > 0 for part in each.parts)
    return explanation


def target(*spans: SpanRecord, **options: Any) -> CallExplanation:
    """Return the explanation of the last span."""
    found = explained(*spans, **options).of(spans[-1].span_id)
    assert found is not None
    return found


def part(call_: CallExplanation, name: str) -> Part:
    """Return a part of a call by its name."""
    return next(each for each in call_.parts if each.name == name)


def milliseconds(call_: CallExplanation) -> dict[str, int]:
    """Return the rounded milliseconds of the parts, without those below 1 ms."""
    return {each.name: round(each.ms) for each in call_.parts if each.ms >= 1}


def sections(*texts: tuple[str, int, str]) -> list[str]:
    """Return recorded sections: kind, characters and hash."""
    return [f"{kind}:{chars}:{digest}" for kind, chars, digest in texts]
