"""The stable providers against real SDK providers."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref

import pytest
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk import _logs as logs_sdk
from opentelemetry.sdk import metrics as metrics_sdk
from opentelemetry.sdk import trace as trace_sdk
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llamatelemetry.otel.providers import (
    DelegatingLoggerProvider,
    DelegatingMeterProvider,
    DelegatingTracerProvider,
    _delegation,
)
from llamatelemetry.otel.providers._delegation import DelegateRegistry

BUCKETS = [0.1, 1.0, 10.0]


def tracing_sdk() -> tuple[trace_sdk.TracerProvider, InMemorySpanExporter]:
    provider = trace_sdk.TracerProvider(shutdown_on_exit=False)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def metrics_sdk_provider() -> tuple[metrics_sdk.MeterProvider, InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    return metrics_sdk.MeterProvider([reader], shutdown_on_exit=False), reader


def names(exporter: InMemorySpanExporter) -> list[str]:
    return [span.name for span in exporter.get_finished_spans()]


def points(reader: InMemoryMetricReader) -> dict[str, list]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def values(reader: InMemoryMetricReader) -> dict[str, float]:
    return {
        name: found[0].sum if hasattr(found[0], "bucket_counts") else found[0].value
        for name, found in points(reader).items()
    }


class TestTracing:
    def test_early_tracer_starts_spans_on_each_later_sdk(self):
        stable = DelegatingTracerProvider()
        tracer = stable.get_tracer("scope", "1", "https://schema", {"a": 1})
        assert not tracer.start_span("lost").is_recording()

        for _ in range(2):
            sdk, exporter = tracing_sdk()
            stable.attach(sdk)
            with tracer.start_as_current_span("outer"):
                tracer.start_span("inner").end()
            inner, outer = exporter.get_finished_spans()
            assert inner.parent == outer.context
            assert inner.instrumentation_scope.name == "scope"
            assert inner.instrumentation_scope.version == "1"
            assert inner.instrumentation_scope.schema_url == "https://schema"
            assert dict(inner.instrumentation_scope.attributes) == {"a": 1}
            assert stable.detach() is sdk
            assert not tracer.start_span("lost").is_recording()

    def test_early_decorator_starts_spans_after_setup(self):
        stable = DelegatingTracerProvider()

        @stable.get_tracer("scope").start_as_current_span("decorated")
        def work():
            return trace.get_current_span().is_recording()

        sdk, exporter = tracing_sdk()
        stable.attach(sdk)
        assert work()
        assert work()
        assert names(exporter) == ["decorated", "decorated"]

    def test_start_span_is_method_of_underlying_tracer(self):
        stable = DelegatingTracerProvider()
        sdk, _ = tracing_sdk()
        tracer = stable.get_tracer("scope")
        stable.attach(sdk)
        assert tracer.start_span == sdk.get_tracer("scope").start_span

    def test_open_span_ends_on_detached_sdk(self):
        stable = DelegatingTracerProvider()
        sdk, exporter = tracing_sdk()
        stable.attach(sdk)
        span = stable.get_tracer("scope").start_span("open")
        stable.detach()
        span.end()
        assert names(exporter) == ["open"]

    def test_delegating_provider_is_sdk_provider_and_forwards_everything(self):
        stable = DelegatingTracerProvider()
        sdk = trace_sdk.TracerProvider(resource=Resource({"service.name": "x"}))
        stable.attach(sdk)
        exporter = InMemorySpanExporter()
        assert isinstance(stable, trace_sdk.TracerProvider)
        stable.add_span_processor(SimpleSpanProcessor(exporter))
        stable.get_tracer("scope").start_span("span").end()
        assert names(exporter) == ["span"]
        assert stable.force_flush()
        assert stable.resource.attributes["service.name"] == "x"
        assert stable.sampler is sdk.sampler
        assert stable.id_generator is sdk.id_generator
        assert stable.get_tracer("scope").resource is sdk.resource
        stable._update_resource(Resource({"process.pid": 1}))
        assert sdk.resource.attributes["process.pid"] == 1
        stable._set_tracer_configurator(tracer_configurator=trace_sdk._disable_tracer_configurator)
        assert not stable.get_tracer("scope").start_span("off").is_recording()
        stable.shutdown()

    def test_delegating_provider_does_nothing_without_sdk(self, caplog):
        stable = DelegatingTracerProvider()
        assert stable.resource == Resource.get_empty()
        assert stable.force_flush()
        stable.shutdown()
        stable._update_resource(Resource({}))
        stable._set_tracer_configurator(tracer_configurator=None)
        stable.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
        assert "OpenTelemetry is not set up" in caplog.text
        with pytest.raises(
            AttributeError, match="'DelegatingTracerProvider' object has no attribute"
        ):
            _ = stable.sampler

    def test_another_sdk_can_be_attached_after_shutdown_by_application(self):
        stable = DelegatingTracerProvider()
        sdk, first = tracing_sdk()
        stable.attach(sdk)
        tracer = stable.get_tracer("scope")
        stable.shutdown()
        assert stable.sdk is None
        tracer.start_span("lost").end()
        sdk, second = tracing_sdk()
        stable.attach(sdk)
        tracer.start_span("kept").end()
        assert (names(first), names(second)) == ([], ["kept"])

    def test_tracers_are_cached_and_kept_only_without_attributes(self):
        stable = DelegatingTracerProvider()
        assert stable.get_tracer("scope") is stable.get_tracer("scope")
        assert stable.get_tracer("scope") is not stable.get_tracer("scope", "1")
        kept = weakref.ref(stable.get_tracer("scope"))
        passing = weakref.ref(stable.get_tracer("scope", attributes={"request": 7}))
        gc.collect()
        assert kept() is not None
        assert passing() is None


class TestMetrics:
    def test_early_instruments_record_on_each_later_sdk(self):
        stable = DelegatingMeterProvider()
        meter = stable.get_meter("scope", "1", "https://schema", {"a": 1})
        counter = meter.create_counter("counter", "1", "c")
        up_down = meter.create_up_down_counter("up_down")
        histogram = meter.create_histogram(
            "histogram", "s", "h", explicit_bucket_boundaries_advisory=BUCKETS
        )
        gauge = meter.create_gauge("gauge")
        meter.create_observable_counter("observed", [lambda _: [Observation(4)]])
        meter.create_observable_up_down_counter("observed_up_down", [lambda _: [Observation(5)]])
        meter.create_observable_gauge("observed_gauge", [lambda _: [Observation(6)]], "By", "g")
        del meter
        gc.collect()

        for _ in range(2):
            sdk, reader = metrics_sdk_provider()
            stable.attach(sdk)
            counter.add(1)
            up_down.add(-2)
            histogram.record(3)
            gauge.set(7)
            found = points(reader)
            assert found["histogram"][0].explicit_bounds == tuple(BUCKETS)
            counter.add(1, {"a": 1})
            assert values(reader) == {
                "counter": 1,
                "up_down": -2,
                "histogram": 3,
                "gauge": 7,
                "observed": 4,
                "observed_up_down": 5,
                "observed_gauge": 6,
            }
            assert stable.detach() is sdk
            counter.add(100)
            histogram.record(100)

    def test_scope_unit_and_description_reach_sdk(self):
        stable = DelegatingMeterProvider()
        meter = stable.get_meter("scope", "1", "https://schema", {"a": 1})
        histogram = meter.create_histogram("h", "s", "text")
        sdk, reader = metrics_sdk_provider()
        stable.attach(sdk)
        histogram.record(1)
        scope_metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0]
        assert scope_metrics.scope.name == "scope"
        assert scope_metrics.scope.version == "1"
        assert scope_metrics.scope.schema_url == "https://schema"
        assert dict(scope_metrics.scope.attributes) == {"a": 1}
        metric = scope_metrics.metrics[0]
        assert (metric.name, metric.unit, metric.description) == ("h", "s", "text")
        assert histogram.unit == "s"

    def test_record_is_method_of_underlying_instrument(self):
        stable = DelegatingMeterProvider()
        histogram = stable.get_meter("scope").create_histogram("h")
        sdk, _ = metrics_sdk_provider()
        stable.attach(sdk)
        assert histogram.record == sdk.get_meter("scope").create_histogram("h").record

    def test_instruments_with_equal_names_are_one_instrument(self):
        stable = DelegatingMeterProvider()
        first = stable.get_meter("scope").create_counter("Requests")
        second = stable.get_meter("scope").create_counter("requests")
        assert first is second
        stable.get_meter("scope").create_observable_gauge("g", [lambda _: [Observation(1)]])
        stable.get_meter("scope").create_observable_gauge("g", [lambda _: [Observation(2)]])
        sdk, reader = metrics_sdk_provider()
        stable.attach(sdk)
        first.add(1)
        second.add(1)
        assert values(reader) == {"requests": 2, "g": 1}

    def test_synchronous_instrument_is_freed_without_references(self):
        stable = DelegatingMeterProvider()
        gone = weakref.ref(stable.get_meter("scope").create_counter("c"))
        gc.collect()
        assert gone() is None

    def test_generator_callback_works_with_several_sdks_in_turn(self):
        def count():
            options = yield
            value = 0
            while True:
                assert isinstance(options, CallbackOptions)
                value += 1
                options = yield [Observation(value)]

        stable = DelegatingMeterProvider()
        stable.get_meter("scope").create_observable_gauge("g", [count()])
        seen = []
        for _ in range(2):
            sdk, reader = metrics_sdk_provider()
            stable.attach(sdk)
            seen += [values(reader)["g"], values(reader)["g"]]
        assert seen == [1, 2, 3, 4]

    def test_exhausted_generator_callback_observes_nothing(self):
        def once():
            yield
            yield [Observation(1)]

        stable = DelegatingMeterProvider()
        stable.get_meter("scope").create_observable_gauge("g", [once()])
        sdk, reader = metrics_sdk_provider()
        stable.attach(sdk)
        assert values(reader) == {"g": 1}
        assert values(reader) == {}

    def test_invalid_instrument_name_raises_with_sdk_and_is_logged_once_without(self, caplog):
        stable = DelegatingMeterProvider()
        bad = stable.get_meter("scope").create_counter("no spaces please")
        good = stable.get_meter("scope").create_counter("good")
        sdk, reader = metrics_sdk_provider()
        stable.attach(sdk)
        assert caplog.text.count("Cannot create instrument 'no spaces please'") == 1
        bad.add(1)
        good.add(1)
        assert values(reader) == {"good": 1}
        with pytest.raises(Exception, match="Expected ASCII string"):
            stable.get_meter("scope").create_counter("nor here")

    def test_delegating_provider_is_sdk_provider_and_forwards_everything(self):
        stable = DelegatingMeterProvider()
        sdk, reader = metrics_sdk_provider()
        stable.attach(sdk)
        assert isinstance(stable, metrics_sdk.MeterProvider)
        assert stable._sdk_config is sdk._sdk_config
        assert stable.force_flush()
        more = InMemoryMetricReader()
        stable.add_metric_reader(more)
        stable.get_meter("scope").create_counter("c").add(1)
        assert values(more) == {"c": 1}
        stable.remove_metric_reader(more)
        stable._update_resource(Resource({"process.pid": 1}))
        assert sdk._sdk_config.resource.attributes["process.pid"] == 1
        from opentelemetry.sdk.metrics._internal import _disable_meter_configurator

        stable._set_meter_configurator(meter_configurator=_disable_meter_configurator)
        stable.get_meter("scope").create_counter("c").add(1)
        assert values(reader) == {"c": 1}
        stable.shutdown()
        assert stable.sdk is None
        assert sdk._shutdown

    def test_delegating_provider_does_nothing_without_sdk(self, caplog):
        stable = DelegatingMeterProvider()
        assert stable.force_flush()
        stable.shutdown()
        stable.remove_metric_reader(InMemoryMetricReader())
        stable.add_metric_reader(InMemoryMetricReader())
        assert "OpenTelemetry is not set up" in caplog.text
        stable._update_resource(Resource({}))
        stable._set_meter_configurator(meter_configurator=None)


class TestLogging:
    def test_early_logger_emits_on_each_later_sdk(self):
        stable = DelegatingLoggerProvider()
        logger = stable.get_logger("scope", "1", "https://schema", {"a": 1})
        assert not logger.enabled()
        logger.emit(body="lost")
        for _ in range(2):
            sdk = logs_sdk.LoggerProvider(shutdown_on_exit=False)
            exporter = InMemoryLogRecordExporter()
            sdk.add_log_record_processor(SimpleLogRecordProcessor(exporter))
            stable.attach(sdk)
            assert logger.enabled()
            logger.emit(body="kept", severity_number=SeverityNumber.INFO)
            (record,) = exporter.get_finished_logs()
            assert record.log_record.body == "kept"
            assert record.instrumentation_scope.name == "scope"
            assert dict(record.instrumentation_scope.attributes) == {"a": 1}
            assert stable.detach() is sdk
            logger.emit(body="lost")

    def test_delegating_provider_is_sdk_provider_and_forwards_everything(self):
        stable = DelegatingLoggerProvider()
        sdk = logs_sdk.LoggerProvider(shutdown_on_exit=False)
        stable.attach(sdk)
        exporter = InMemoryLogRecordExporter()
        stable.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        assert isinstance(stable, logs_sdk.LoggerProvider)
        assert stable.get_logger("a") is stable.get_logger("a")
        stable.get_logger("a").emit(body="x")
        assert len(exporter.get_finished_logs()) == 1
        assert stable.force_flush()
        assert stable.resource is sdk.resource
        assert stable.get_logger("a").resource is sdk.resource
        stable._update_resource(Resource({"process.pid": 1}))
        assert sdk.resource.attributes["process.pid"] == 1
        from opentelemetry.sdk._logs._internal import _disable_logger_configurator

        stable._set_logger_configurator(logger_configurator=_disable_logger_configurator)
        assert not stable.get_logger("a").enabled()
        stable.shutdown()
        assert stable.sdk is None

    def test_delegating_provider_does_nothing_without_sdk(self, caplog):
        stable = DelegatingLoggerProvider()
        assert stable.resource == Resource.get_empty()
        assert stable.force_flush()
        stable.shutdown()
        stable._update_resource(Resource({}))
        stable._set_logger_configurator(logger_configurator=None)
        stable.add_log_record_processor(SimpleLogRecordProcessor(InMemoryLogRecordExporter()))
        assert "OpenTelemetry is not set up" in caplog.text


class Bound:
    """A facade that remembers its source, and lets a test step in while it is being bound."""

    def __init__(self, source, step_in=None):
        self.source = source
        self.step_in = step_in

    def set_delegate(self, source):
        if self.step_in is not None:
            step_in, self.step_in = self.step_in, None
            step_in()
        self.source = source


class TestThreads:
    def test_object_uses_source_that_was_set_during_its_creation(self):
        followers = DelegateRegistry[str, Bound]("old")

        def make(source):
            followers.set_delegate("new")
            return Bound(source)

        assert followers.get("key", make, keep=True).source == "new"

    def test_object_uses_last_source_when_set_during_update(self):
        followers = DelegateRegistry[str, Bound]("first")
        facade = followers.get("key", Bound, keep=True)
        facade.step_in = lambda: followers.set_delegate("last")
        followers.set_delegate("between")
        assert facade.source == "last"

    def test_all_objects_use_last_sdk_after_concurrent_replacement(self):
        tracers, meters = DelegatingTracerProvider(), DelegatingMeterProvider()
        last_tracing, last_metrics = tracing_sdk(), metrics_sdk_provider()
        stop = threading.Event()
        made: list = []

        def obtain(worker: int) -> None:
            for n in range(150):
                meter = meters.get_meter(f"{worker}.{n}")
                made.append((tracers.get_tracer(f"{worker}.{n}"), meter.create_counter("c")))

        def replace() -> None:
            while not stop.is_set():
                tracers.attach(tracing_sdk()[0])
                meters.attach(metrics_sdk_provider()[0])
                tracers.attach(last_tracing[0])
                meters.attach(last_metrics[0])

        replacing = [threading.Thread(target=replace) for _ in range(2)]
        obtaining = [threading.Thread(target=obtain, args=(n,)) for n in range(3)]
        for thread in replacing + obtaining:
            thread.start()
        for thread in obtaining:
            thread.join()
        stop.set()
        for thread in replacing:
            thread.join()

        assert len(made) == 450
        for tracer, counter in made:
            scope = tracer._scope[0]
            assert tracer.start_span == last_tracing[0].get_tracer(scope).start_span
            assert counter.add == last_metrics[0].get_meter(scope).create_counter("c").add

    def test_callback_can_obtain_instruments_during_replacement(self):
        stable = DelegatingMeterProvider()
        observing, replaced = threading.Event(), threading.Event()

        def callback(_):
            observing.set()
            replaced.wait(0.2)
            stable.get_meter("made in a callback").create_counter("c").add(1)
            return [Observation(1)]

        stable.get_meter("scope").create_observable_gauge("g", [callback])
        sdk, reader = metrics_sdk_provider()
        stable.attach(sdk)
        collecting = threading.Thread(target=reader.collect)
        collecting.start()
        observing.wait()
        started = time.monotonic()
        attaching = threading.Thread(target=stable.attach, args=(sdk,))
        attaching.start()
        for thread in (collecting, attaching):
            thread.join(10)
            assert not thread.is_alive()
        assert time.monotonic() - started < 5

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # that is the point
    def test_forked_child_does_not_block_when_parent_held_lock(self):
        stable = DelegatingTracerProvider()
        with _delegation._lock.held():
            child = os.fork()
            if child == 0:
                stable.get_tracer("in the child")
                os._exit(0)
            deadline = time.monotonic() + 10
            while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(child, 9)
                time.sleep(0.01)
        assert done[1] == 0
