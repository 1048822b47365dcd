"""Cost of redaction: CPU time per span, and time of each built-in pattern on 1 MB of text.

Spans: CPU time that redaction adds to the span of an inference call, as the median of alternating
blocks with and without redaction. Patterns: the slowest adversarial text of the tests, and prose.
Patterns are matched by the package `regex`, with `--re` by the standard library's `re`, which is
the fallback for built-in patterns.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from _dropping import DroppingExporter
from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.otel import RedactionSpanProcessor
from llamatelemetry.otel.redaction import matching
from llamatelemetry.otel.redaction.patterns import BUILT_IN, Pattern
from llamatelemetry.otel.redaction.secret_spans import SecretsSpanProcessor

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.otel.redaction.adversarial import ADVERSARIAL, repeated

MEGABYTE = 10**6
BLOCKS, SPANS = 40, 50
PROSE = "Dear all, on 3 May at 10:30 we meet 12 people; call 2 of them, or mail me (see p. 7). "
BARE = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "llama_cpp",
    "gen_ai.request.model": "SmolLM2-135M-Instruct",
    "gen_ai.response.model": "SmolLM2-135M-Instruct",
    "server.address": "127.0.0.1",
    "server.port": 8080,
    "gen_ai.response.finish_reasons": ("stop",),
    "gen_ai.usage.input_tokens": 36,
    "gen_ai.usage.output_tokens": 32,
    **{f"llamatelemetry.number_{n}": float(n) for n in range(12)},
}


def with_content(chars: int) -> dict[str, Any]:
    """Return the attributes of a call with messages of this total length."""
    texts = repeated(PROSE, chars // 4)
    messages = [{"role": "user", "parts": [{"type": "text", "content": texts}]}] * 4
    return {**BARE, "gen_ai.input.messages": json.dumps(messages)}


def recording(processor: Any, attributes: dict[str, Any]) -> Callable[[int], None]:
    """Return a function that records a span, with a different response id each time."""
    provider = TracerProvider(shutdown_on_exit=False)
    if processor is not None:
        provider.add_span_processor(processor)
    provider.add_span_processor(SimpleSpanProcessor(DroppingExporter()))
    tracer = provider.get_tracer("bench")

    def record(n: int) -> None:
        span = tracer.start_span("chat", attributes=attributes)
        span.set_attribute("gen_ai.response.id", f"chatcmpl-{n}")
        span.end()

    return record


def added_us(processor: Any, attributes: dict[str, Any]) -> float:
    """Return the CPU time that the processor adds to one span, in microseconds."""
    bare, redacting = recording(None, attributes), recording(processor, attributes)
    differences: list[float] = []
    for block in range(BLOCKS):
        took: list[float] = []
        for record in (bare, redacting):
            started = time.thread_time()
            for n in range(SPANS):
                record(block * SPANS + n)
            took.append(time.thread_time() - started)
        differences.append((took[1] - took[0]) / SPANS * 1e6)
    return statistics.median(differences)


def seconds(pattern: Pattern, text: str) -> float:
    """Return the CPU time of the pattern on the text, infinity if it exceeds its time limit."""
    started = time.thread_time()
    try:
        for _ in pattern.spans(text):
            pass
    except TimeoutError:
        return float("inf")
    return time.thread_time() - started


def report_spans() -> None:
    """Print one row for each set of rules and one column for each kind of span."""
    hashing = LlamaTelemetryConfig(
        redact_prompts=True, redact_patterns=["all"], redact_mode="hash", redact_hash_key="k"
    )
    processors = {
        "secrets only": SecretsSpanProcessor,
        "prompts": RedactionSpanProcessor,
        "pii": lambda: RedactionSpanProcessor(False, patterns=["pii"]),
        "all patterns": lambda: RedactionSpanProcessor(False, patterns=["all"]),
        "prompts, all, hash": lambda: RedactionSpanProcessor.from_config(hashing),
    }
    kinds = {"no content": BARE, "4 kB": with_content(4_000), "64 kB": with_content(64_000)}
    print(f"{'added per span, µs':<22}" + "".join(f"{kind:>12}" for kind in kinds))
    for name, make in processors.items():
        row = [added_us(make(), attributes) for attributes in kinds.values()]
        print(f"{name:<22}" + "".join(f"{each:>12.0f}" for each in row))


def report_patterns() -> None:
    """Print one row for each built-in pattern."""
    limit_s = matching.BASE_S + MEGABYTE * matching.PER_CHAR_S
    print(f"{'on 1 MB, ms':<22}{'worst':>12}{'prose':>12}   (limit {limit_s * 1000:.0f})")
    prose = repeated(PROSE, MEGABYTE)
    for name, pattern in BUILT_IN.items():
        worst = max(seconds(pattern, repeated(unit, MEGABYTE)) for unit in ADVERSARIAL[name])
        print(f"{name:<22}{worst * 1000:>12.0f}{seconds(pattern, prose) * 1000:>12.1f}")


if __name__ == "__main__":
    if "--re" in sys.argv:
        matching._import_regex = lambda: None  # as if `regex` were not installed
    report_spans()
    print()
    report_patterns()
