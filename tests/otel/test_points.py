"""Points recorded in a batch are those that ``Histogram.record`` would have made."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider, get_meter
from opentelemetry.sdk import version
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    ExemplarFilter,
    Histogram,
    MeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics._internal import _MeterConfig
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExponentialBucketHistogramAggregation,
    SumAggregation,
    View,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from llamatelemetry.otel import points
from llamatelemetry.otel.points import record_each, record_points
from llamatelemetry.otel.providers._instruments import DelegatingHistogram

CHAT = {"gen_ai.operation.name": "chat", "server.port": 80}
OTHER = {"gen_ai.operation.name": "chat", "server.port": 81}
DELTA = {Histogram: AggregationTemporality.DELTA}
VIEWS = {
    "none": [],
    "fewer attributes": [View(instrument_name="h", attribute_keys={"server.port"})],
    "two streams": [
        View(instrument_name="h"),
        View(instrument_name="h", name="copy", attribute_keys=set()),
    ],
    "exponential": [View(instrument_name="h", aggregation=ExponentialBucketHistogramAggregation())],
    "sum": [View(instrument_name="h", aggregation=SumAggregation())],
    "drop": [View(instrument_name="h", aggregation=DropAggregation())],
    "overflow": [View(instrument_name="h", aggregation_cardinality_limit=1)],
}
SPAN = trace.set_span_in_context(
    NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))
)
BATCHES = [([0.001, 0.4, 0.02], CHAT, SPAN), ([3], OTHER, None), ([0.5, 100.0], CHAT, None)]


def one_by_one(histogram, values, attributes, context):
    for value in values:
        histogram.record(value, attributes, context)


def collected(record: Any, views: Sequence[View] = (), **options: Any) -> list[Any]:
    """What is collected of `BATCHES`, cumulative and as deltas, in two rounds; without the times."""
    rounds: list[Any] = []
    for temporality in ({}, DELTA):
        random.seed(0)  # a sum keeps a sample of its exemplars
        reader = InMemoryMetricReader(preferred_temporality=temporality)
        provider = MeterProvider([reader], views=views, shutdown_on_exit=False, **options)
        histogram = provider.get_meter("m").create_histogram("h")
        for _ in range(2):
            for batch in BATCHES:
                record(histogram, *batch)
            data = reader.get_metrics_data()
            rounds.append(None if data is None else timeless(data.to_json()))
        provider.shutdown()
    return rounds


def timeless(value: str) -> Any:
    def strip(found: dict[str, Any]) -> dict[str, Any]:
        return {name: each for name, each in found.items() if "time_unix" not in name}

    return json.loads(value, object_hook=strip)


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
def test_a_batch_is_what_record_makes_of_its_values(views):
    by_record = collected(one_by_one, views)
    assert collected(record_points, views) == by_record
    assert any(by_record) is (views is not VIEWS["drop"])


@pytest.mark.parametrize(
    "exemplars", [AlwaysOnExemplarFilter(), AlwaysOffExemplarFilter(), TraceBasedExemplarFilter()]
)
def test_exemplars_are_those_that_record_makes(exemplars):
    by_record = collected(one_by_one, exemplar_filter=exemplars)
    assert collected(record_points, exemplar_filter=exemplars) == by_record


@pytest.mark.parametrize(
    ("values", "attributes"),
    [
        ([math.nan, 0.5], CHAT),
        ([-1.0, 0.5], CHAT),
        ([math.inf, 0.5], CHAT),
        ([0.5], {"list": [1, 2], "object": math, "": "no name"}),
        ([], CHAT),
    ],
    ids=["not a number", "negative", "infinite", "odd attributes", "nothing"],
)
def test_what_record_refuses_is_refused(monkeypatch, values, attributes):
    monkeypatch.setattr(f"{__name__}.BATCHES", [(values, attributes, None)])
    by_record = collected(one_by_one)
    assert collected(record_points) == by_record
    assert collected(each) == by_record


class OfLongCalls(ExemplarFilter):
    """A filter of somebody's own that looks at values."""

    def should_sample(self, value, time_unix_nano, attributes, context):
        return value > 0.01


def each(histogram, values, attributes, context):
    given = points.AttributeSet(attributes)
    record_each([(histogram, value, given) for value in values], context)


@pytest.mark.parametrize("record", [record_points, each])
def test_a_filter_that_looks_at_values_is_asked_about_each(record):
    by_record = collected(one_by_one, exemplar_filter=OfLongCalls())
    assert collected(record, exemplar_filter=OfLongCalls()) == by_record


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("exemplars", [AlwaysOnExemplarFilter(), TraceBasedExemplarFilter()])
def test_points_of_one_moment_are_what_record_makes_of_them(views, exemplars):
    by_record = collected(one_by_one, views, exemplar_filter=exemplars)
    assert collected(each, views, exemplar_filter=exemplars) == by_record


@pytest.mark.parametrize("provider", [NoOpMeterProvider(), None], ids=["no-op", "proxy"])
def test_any_makers_histogram_is_recorded_to(provider):
    histogram = get_meter("m", meter_provider=provider).create_histogram("h")
    record_points(histogram, [0.5], CHAT)
    each(histogram, [0.5], CHAT, None)


def test_a_histogram_that_delegates_is_followed_to_the_sdks():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    histogram = DelegatingHistogram(provider.get_meter("m"), "h")
    assert points._make_key_of(type(histogram)) is None
    assert points._make_key_of(type(histogram.record.__self__)) is not None
    record_points(histogram, [0.5], CHAT)
    (resource,) = reader.get_metrics_data().resource_metrics
    assert resource.scope_metrics[0].metrics[0].data.data_points[0].count == 1
    provider.shutdown()


def test_a_disabled_meter_records_nothing():
    reader = InMemoryMetricReader()
    provider = MeterProvider(
        [reader], shutdown_on_exit=False, _meter_configurator=lambda _scope: _MeterConfig(False)
    )
    record_points(provider.get_meter("m").create_histogram("h"), [0.5], CHAT)
    assert reader.get_metrics_data() is None
    provider.shutdown()


def test_the_sdk_that_is_installed_has_been_compared():
    """Or batches are recorded the slow way: compare, and mend ``COMPARED``."""
    assert version.__version__.startswith(points.COMPARED)
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    assert points._make_key_of(type(provider.get_meter("m").create_histogram("h"))) is not None
    provider.shutdown()
