"""Recordings of any size with the spans, attributes, diagnostics and random ids of a real run."""

from __future__ import annotations

import random
from typing import Any

from llamatelemetry.local.records import SpanRecord
from tests.support.example_records import START_NS

_RESOURCE = {"service.name": "agent", "process.pid": 7, "telemetry.sdk.version": "1.45.2"}
_MODEL = "SmolLM2-135M-Instruct.Q4_1"
_MS = 1_000_000


def many_spans(count: int, *, at_once: int = 4) -> list[SpanRecord]:
    """Return so many spans: streamed calls with an HTTP request and three phases each."""
    chance = random.Random(count)
    made: list[SpanRecord] = []
    number = 0
    while len(made) < count:
        made += _call(
            chance, START_NS + (number // at_once) * 900 * _MS + number % at_once * 7 * _MS
        )
        number += 1
    return made[:count]


def _call(chance: random.Random, start_ns: int) -> list[SpanRecord]:
    trace, parent = f"{chance.getrandbits(128):032x}", f"{chance.getrandbits(64):016x}"
    queue, prefill, decode = (chance.uniform(low, 3 * low) for low in (4, 60, 180))
    output = chance.randint(8, 64)
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.request.model": _MODEL,
        "gen_ai.response.model": _MODEL,
        "gen_ai.response.id": f"chatcmpl-{chance.getrandbits(128):x}",
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": chance.randint(20, 900),
        "gen_ai.usage.output_tokens": output,
        "gen_ai.ttft_ms": queue + prefill + 1,
        "gen_ai.tpot_ms": decode / output,
        "gen_ai.prefill_ms": prefill,
        "gen_ai.decode_ms": decode,
        "llamatelemetry.queue_duration": queue / 1000,
        "server.address": "127.0.0.1",
        "server.port": 8080,
        "llamatelemetry.client.connect": [0.0002, 0.0007],
        "llamatelemetry.client.sent": 0.001,
        "llamatelemetry.client.headers": queue / 1000 + 0.001,
        "llamatelemetry.client.last_data": (queue + prefill + decode + 2) / 1000,
        "llamatelemetry.client.read_delay": [0.0, 0.001],
        "llamatelemetry.prompt.sections": [
            f"{kind}:{chance.randint(40, 900)}:{chance.getrandbits(32):08x}"
            for kind in ("tools", "tools", "system", "user")
        ],
        "llamatelemetry.prompt.chars": 2000,
        "llamatelemetry.prompt.reference": f"{chance.getrandbits(64):016x}",
        "llamatelemetry.prompt.common_chars": chance.randint(0, 1900),
        "llamatelemetry.server.cpu": [0.0, prefill / 1000, decode / 1000],
        "llamatelemetry.server.run_delay": [0.0, chance.uniform(0, 0.1), 0.0],
    }
    total = queue + prefill + decode + 3

    def one(name: str, kind: int, begin: float, length: float, **more: Any) -> SpanRecord:
        first = start_ns + int(begin * _MS)
        return SpanRecord(
            trace_id=trace, span_id=f"{chance.getrandbits(64):016x}", parent_span_id=parent,
            name=name, kind=kind, start_ns=first, end_ns=first + int(length * _MS),
            resource=_RESOURCE, **more,
        )  # fmt: skip

    return [
        SpanRecord(
            trace, parent, None, f"chat {_MODEL}", 3, start_ns, start_ns + int(total * _MS),
            attributes, resource=_RESOURCE,
        ),
        one("POST", 3, 0.3, total - 1, attributes={"http.status_code": 200}),
        one("queue", 1, 0.5, queue, attributes={"llamatelemetry.phase": "queue"}),
        one("prefill", 1, 0.5 + queue, prefill, attributes={"llamatelemetry.phase": "prefill"}),
        one("decode", 1, 0.5 + queue + prefill, decode, attributes={"llamatelemetry.phase": "decode"}),
    ]  # fmt: skip
