"""Attributes that are set the short way are those that the SDK sets."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk import version
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llamatelemetry.otel import span_attributes
from llamatelemetry.otel.points import COMPARED
from llamatelemetry.otel.span_attributes import set_attributes

PLAIN = {"s": "smol", "i": 21, "f": 0.5, "b": True, "t": ("stop", "length"), "empty": ""}
LIMITS = {
    "the usual": SpanLimits(),
    "none at all": SpanLimits(
        max_attributes=SpanLimits.UNSET, max_span_attributes=SpanLimits.UNSET
    ),
    "just enough": SpanLimits(max_span_attributes=8),
    "few": SpanLimits(max_span_attributes=7),
    "no attributes": SpanLimits(max_span_attributes=0),
    "short": SpanLimits(max_span_attribute_length=3),
}
ROUNDS: dict[str, list[dict[str, Any]]] = {
    "plain": [PLAIN],
    "twice": [PLAIN, {"b": False, "more": 1}],
    "of the start once more": [{"started": "later", "more": 1}],
    "a list, a number in bytes, nothing": [{"list": ["a"], "bytes": b"1", "none": None}],
    "not what an attribute can be": [{"object": object, "": "no name", "dict": {"a": 1}}],
    "a string of one's own kind": [{"mine": type("Mine", (str,), {})("longer")}],
    "nothing": [{}],
}


def exported(how: Any, limits: SpanLimits, rounds: list[dict[str, Any]], caplog: Any) -> Any:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(span_limits=limits, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    span = provider.get_tracer("t").start_span("s", attributes={"started": "so", "other": 1})
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for attributes in rounds:
            how(span, attributes)
        span.end()
        how(span, {"too": "late"})
    (found,) = exporter.get_finished_spans()
    assert isinstance(found, ReadableSpan)
    attributes = [(name, type(value), value) for name, value in found.attributes.items()]
    return attributes, found.dropped_attributes, [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("rounds", ROUNDS.values(), ids=ROUNDS)
@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_what_is_exported_is_what_the_sdk_makes_of_it(limits, rounds, caplog):
    by_sdk = exported(Span.set_attributes, limits, rounds, caplog)
    assert exported(set_attributes, limits, rounds, caplog) == by_sdk
    assert by_sdk[2]  # that it came too late, at least


def test_the_caller_may_do_what_he_likes_with_his_dict():
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s")
    attributes = dict(PLAIN)
    set_attributes(span, attributes)
    attributes["more"] = 1
    assert span.attributes == PLAIN


def test_the_short_way_is_taken_with_this_sdk(monkeypatch):
    """Or attributes are set the long way: compare, and mend ``COMPARED``."""
    assert version.__version__.startswith(COMPARED)
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s")
    monkeypatch.setattr(Span, "set_attributes", None)
    set_attributes(span, PLAIN)
    assert span.attributes == PLAIN


class Somebodys(trace.NonRecordingSpan):
    """A span of another maker's."""

    def __init__(self) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)
        self.found: dict[str, Any] = {}

    def set_attributes(self, attributes):
        self.found.update(attributes)


def test_another_makers_span_is_asked_in_public(monkeypatch):
    span = Somebodys()
    set_attributes(span, PLAIN)
    assert span.found == PLAIN
    set_attributes(trace.INVALID_SPAN, PLAIN)

    monkeypatch.setattr(version, "__version__", "1.99.0")
    span_attributes._is_sdks.cache_clear()
    asked: list[Any] = []
    monkeypatch.setattr(Span, "set_attributes", lambda _, attributes: asked.append(attributes))
    set_attributes(TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s"), PLAIN)
    assert asked == [PLAIN]
    span_attributes._is_sdks.cache_clear()
