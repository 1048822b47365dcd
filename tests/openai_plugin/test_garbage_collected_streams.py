"""Streams in reference cycles, collected while the SDK holds its locks."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import AlignedHistogramBucketExemplarReservoir, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View

from llamatelemetry.genai import flush_pending
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.recorder import Recorder

_models = itertools.count()


class CollectingReservoir(AlignedHistogramBucketExemplarReservoir):
    """Collects garbage while the SDK holds the lock of a new time series."""

    def collect(self, point_attributes: Any) -> Any:
        gc.collect()
        return super().collect(point_attributes)


class Holder:
    """A reference cycle with a stream, which only the garbage collector can free."""

    def __init__(self, *held: Any) -> None:
        self.held = held
        self.myself = self


def ask(**options: Any) -> Any:
    """Return an unread stream of a model without time series."""
    body = payloads.sse(payloads.chat_chunks(usage=payloads.USAGE))
    client = payloads.client(
        lambda _: payloads.chunked_response(*payloads.split(body, 90), media="text/event-stream")
    )
    completions: Any = client.chat.completions
    if options.pop("raw", False):
        completions = completions.with_raw_response
    return completions.create(
        model=f"model {next(_models)}", messages=payloads.MESSAGES, stream=True, **options
    )


def dropped() -> Holder:
    stream = ask()
    next(stream)
    return Holder(stream)


def dropped_with_its_iterator() -> Holder:
    stream = ask()
    return Holder(iterator := iter(stream), next(iterator), stream)


def dropped_inside_a_with_block() -> Holder:
    def use() -> Iterator[Any]:
        with ask() as stream:
            yield from stream

    return Holder(chunks := use(), next(chunks))


def dropped_raw() -> Holder:
    return Holder(ask(raw=True))


def dropped_raw_half_read() -> Holder:
    raw = ask(raw=True)
    return Holder(raw, lines := raw.http_response.iter_lines(), next(lines))


def dropped_raw_half_parsed() -> Holder:
    raw = ask(raw=True)
    return Holder(raw, chunks := iter(raw.parse()), next(chunks))


@pytest.mark.parametrize(
    "drop",
    [
        dropped,
        dropped_with_its_iterator,
        dropped_inside_a_with_block,
        dropped_raw,
        dropped_raw_half_read,
        dropped_raw_half_parsed,
    ],
    ids=lambda drop: drop.__name__,
)
def test_garbage_collected_stream_does_not_deadlock_with_sdk_locks(
    recorder: Recorder, drop: Callable[[], Holder]
) -> None:
    reader = InMemoryMetricReader()
    view = View(
        instrument_name="gen_ai.client.operation.duration",  # Every call records to this metric.
        exemplar_reservoir_factory=lambda _: CollectingReservoir,
    )
    provider = MeterProvider([reader], views=[view], shutdown_on_exit=False)
    OpenAIInstrumentor().instrument(
        tracer_provider=recorder.tracer_provider, meter_provider=provider
    )
    gc.disable()
    try:
        list(ask())  # The first call creates the time series that are collected.
        drop()
        collection = threading.Thread(target=reader.get_metrics_data, daemon=True)
        collection.start()
        collection.join(20)
        assert not collection.is_alive(), "deadlock"
    finally:
        gc.enable()
        OpenAIInstrumentor().uninstrument()
    assert flush_pending(5)
    assert len(recorder.calls()) == 2
    provider.shutdown()
