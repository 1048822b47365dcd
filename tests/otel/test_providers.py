"""The delegating providers with real SDK providers."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
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
        delegating = DelegatingTracerProvider()
        tracer = delegating.get_tracer("scope", "1", "https://schema", {"a": 1})
        assert not tracer.start_span("lost").is_recording()

        for _ in range(2):
            sdk, exporter = tracing_sdk()
            delegating.attach(sdk)
            with tracer.start_as_current_span("outer"):
                tracer.start_span("inner").end()
            inner, outer = exporter.get_finished_spans()
            assert inner.parent == outer.context
            assert inner.instrumentation_scope.name == "scope"
            assert inner.instrumentation_scope.version == "1"
            assert inner.instrumentation_scope.schema_url == "https://schema"
            assert dict(inner.instrumentation_scope.attributes) == {"a": 1}
            assert delegating.detach() is sdk
            assert not tracer.start_span("lost").is_recording()

    def test_early_decorator_starts_spans_after_setup(self):
        delegating = DelegatingTracerProvider()

        @delegating.get_tracer("scope").start_as_current_span("decorated")
        def work():
            return trace.get_current_span().is_recording()

        sdk, exporter = tracing_sdk()
        delegating.attach(sdk)
        assert work()
        assert work()
        assert names(exporter) == ["decorated", "decorated"]

    def test_start_span_is_method_of_underlying_tracer(self):
        delegating = DelegatingTracerProvider()
        sdk, _ = tracing_sdk()
        tracer = delegating.get_tracer("scope")
        delegating.attach(sdk)
        assert tracer.start_span == sdk.get_tracer("scope").start_span

    def test_open_span_ends_on_detached_sdk(self):
        delegating = DelegatingTracerProvider()
        sdk, exporter = tracing_sdk()
        delegating.attach(sdk)
        span = delegating.get_tracer("scope").start_span("open")
        delegating.detach()
        span.end()
        assert names(exporter) == ["open"]

    def test_delegating_provider_is_sdk_provider_and_forwards_everything(self):
        delegating = DelegatingTracerProvider()
        sdk = trace_sdk.TracerProvider(resource=Resource({"service.name": "x"}))
        delegating.attach(sdk)
        exporter = InMemorySpanExporter()
        assert isinstance(delegating, trace_sdk.TracerProvider)
        delegating.add_span_processor(SimpleSpanProcessor(exporter))
        delegating.get_tracer("scope").start_span("span").end()
        assert names(exporter) == ["span"]
        assert delegating.force_flush()
        assert delegating.resource.attributes["service.name"] == "x"
        assert delegating.sampler is sdk.sampler
        assert delegating.id_generator is sdk.id_generator
        assert delegating.get_tracer("scope").resource is sdk.resource
        delegating._update_resource(Resource({"process.pid": 1}))
        assert sdk.resource.attributes["process.pid"] == 1
        delegating._set_tracer_configurator(
            tracer_configurator=trace_sdk._disable_tracer_configurator
        )
        assert not delegating.get_tracer("scope").start_span("off").is_recording()
        delegating.shutdown()

    def test_delegating_provider_does_nothing_without_sdk(self, caplog):
        delegating = DelegatingTracerProvider()
        assert delegating.resource == Resource.get_empty()
        assert delegating.force_flush()
        delegating.shutdown()
        delegating._update_resource(Resource({}))
        delegating._set_tracer_configurator(tracer_configurator=None)
        delegating.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
        assert "OpenTelemetry is not set up" in caplog.text
        with pytest.raises(
            AttributeError, match="'DelegatingTracerProvider' object has no attribute"
        ):
            _ = delegating.sampler

    def test_another_sdk_can_be_attached_after_shutdown_by_application(self):
        delegating = DelegatingTracerProvider()
        sdk, first = tracing_sdk()
        delegating.attach(sdk)
        tracer = delegating.get_tracer("scope")
        delegating.shutdown()
        assert delegating.sdk is None
        tracer.start_span("lost").end()
        sdk, second = tracing_sdk()
        delegating.attach(sdk)
        tracer.start_span("kept").end()
        assert (names(first), names(second)) == ([], ["kept"])

    def test_tracers_are_cached_and_kept_only_without_attributes(self):
        delegating = DelegatingTracerProvider()
        assert delegating.get_tracer("scope") is delegating.get_tracer("scope")
        assert delegating.get_tracer("scope") is not delegating.get_tracer("scope", "1")
        kept = weakref.ref(delegating.get_tracer("scope"))
        passing = weakref.ref(delegating.get_tracer("scope", attributes={"request": 7}))
        gc.collect()
        assert kept() is not None
        assert passing() is None


class TestMetrics:
    def test_early_instruments_record_on_each_later_sdk(self):
        delegating = DelegatingMeterProvider()
        meter = delegating.get_meter("scope", "1", "https://schema", {"a": 1})
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
            delegating.attach(sdk)
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
            assert delegating.detach() is sdk
            counter.add(100)
            histogram.record(100)

    def test_scope_unit_and_description_reach_sdk(self):
        delegating = DelegatingMeterProvider()
        meter = delegating.get_meter("scope", "1", "https://schema", {"a": 1})
        histogram = meter.create_histogram("h", "s", "text")
        sdk, reader = metrics_sdk_provider()
        delegating.attach(sdk)
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
        delegating = DelegatingMeterProvider()
        histogram = delegating.get_meter("scope").create_histogram("h")
        sdk, _ = metrics_sdk_provider()
        delegating.attach(sdk)
        assert histogram.record == sdk.get_meter("scope").create_histogram("h").record

    def test_instruments_with_equal_names_are_one_instrument(self):
        delegating = DelegatingMeterProvider()
        first = delegating.get_meter("scope").create_counter("Requests")
        second = delegating.get_meter("scope").create_counter("requests")
        assert first is second
        delegating.get_meter("scope").create_observable_gauge("g", [lambda _: [Observation(1)]])
        delegating.get_meter("scope").create_observable_gauge("g", [lambda _: [Observation(2)]])
        sdk, reader = metrics_sdk_provider()
        delegating.attach(sdk)
        first.add(1)
        second.add(1)
        assert values(reader) == {"requests": 2, "g": 1}

    def test_synchronous_instrument_is_freed_without_references(self):
        delegating = DelegatingMeterProvider()
        gone = weakref.ref(delegating.get_meter("scope").create_counter("c"))
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

        delegating = DelegatingMeterProvider()
        delegating.get_meter("scope").create_observable_gauge("g", [count()])
        seen = []
        for _ in range(2):
            sdk, reader = metrics_sdk_provider()
            delegating.attach(sdk)
            seen += [values(reader)["g"], values(reader)["g"]]
        assert seen == [1, 2, 3, 4]

    def test_exhausted_generator_callback_observes_nothing(self):
        def once():
            yield
            yield [Observation(1)]

        delegating = DelegatingMeterProvider()
        delegating.get_meter("scope").create_observable_gauge("g", [once()])
        sdk, reader = metrics_sdk_provider()
        delegating.attach(sdk)
        assert values(reader) == {"g": 1}
        assert values(reader) == {}

    def test_invalid_instrument_name_raises_with_sdk_and_is_logged_once_without(self, caplog):
        delegating = DelegatingMeterProvider()
        bad = delegating.get_meter("scope").create_counter("no spaces please")
        good = delegating.get_meter("scope").create_counter("good")
        sdk, reader = metrics_sdk_provider()
        delegating.attach(sdk)
        assert caplog.text.count("Cannot create instrument 'no spaces please'") == 1
        bad.add(1)
        good.add(1)
        assert values(reader) == {"good": 1}
        with pytest.raises(Exception, match="Expected ASCII string"):
            delegating.get_meter("scope").create_counter("nor here")

    def test_delegating_provider_is_sdk_provider_and_forwards_everything(self):
        delegating = DelegatingMeterProvider()
        sdk, reader = metrics_sdk_provider()
        delegating.attach(sdk)
        assert isinstance(delegating, metrics_sdk.MeterProvider)
        assert delegating._sdk_config is sdk._sdk_config
        assert delegating.force_flush()
        more = InMemoryMetricReader()
        delegating.add_metric_reader(more)
        delegating.get_meter("scope").create_counter("c").add(1)
        assert values(more) == {"c": 1}
        delegating.remove_metric_reader(more)
        delegating._update_resource(Resource({"process.pid": 1}))
        assert sdk._sdk_config.resource.attributes["process.pid"] == 1
        from opentelemetry.sdk.metrics._internal import _disable_meter_configurator

        delegating._set_meter_configurator(meter_configurator=_disable_meter_configurator)
        delegating.get_meter("scope").create_counter("c").add(1)
        assert values(reader) == {"c": 1}
        delegating.shutdown()
        assert delegating.sdk is None
        assert sdk._shutdown

    def test_delegating_provider_does_nothing_without_sdk(self, caplog):
        delegating = DelegatingMeterProvider()
        assert delegating.force_flush()
        delegating.shutdown()
        delegating.remove_metric_reader(InMemoryMetricReader())
        delegating.add_metric_reader(InMemoryMetricReader())
        assert "OpenTelemetry is not set up" in caplog.text
        delegating._update_resource(Resource({}))
        delegating._set_meter_configurator(meter_configurator=None)


class TestLogging:
    def test_early_logger_emits_on_each_later_sdk(self):
        delegating = DelegatingLoggerProvider()
        logger = delegating.get_logger("scope", "1", "https://schema", {"a": 1})
        assert not logger.enabled()
        logger.emit(body="lost")
        for _ in range(2):
            sdk = logs_sdk.LoggerProvider(shutdown_on_exit=False)
            exporter = InMemoryLogRecordExporter()
            sdk.add_log_record_processor(SimpleLogRecordProcessor(exporter))
            delegating.attach(sdk)
            assert logger.enabled()
            logger.emit(body="kept", severity_number=SeverityNumber.INFO)
            (record,) = exporter.get_finished_logs()
            assert record.log_record.body == "kept"
            assert record.instrumentation_scope.name == "scope"
            assert dict(record.instrumentation_scope.attributes) == {"a": 1}
            assert delegating.detach() is sdk
            logger.emit(body="lost")

    def test_delegating_provider_is_sdk_provider_and_forwards_everything(self):
        delegating = DelegatingLoggerProvider()
        sdk = logs_sdk.LoggerProvider(shutdown_on_exit=False)
        delegating.attach(sdk)
        exporter = InMemoryLogRecordExporter()
        delegating.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        assert isinstance(delegating, logs_sdk.LoggerProvider)
        assert delegating.get_logger("a") is delegating.get_logger("a")
        delegating.get_logger("a").emit(body="x")
        assert len(exporter.get_finished_logs()) == 1
        assert delegating.force_flush()
        assert delegating.resource is sdk.resource
        assert delegating.get_logger("a").resource is sdk.resource
        delegating._update_resource(Resource({"process.pid": 1}))
        assert sdk.resource.attributes["process.pid"] == 1
        from opentelemetry.sdk._logs._internal import _disable_logger_configurator

        delegating._set_logger_configurator(logger_configurator=_disable_logger_configurator)
        assert not delegating.get_logger("a").enabled()
        delegating.shutdown()
        assert delegating.sdk is None

    def test_delegating_provider_does_nothing_without_sdk(self, caplog):
        delegating = DelegatingLoggerProvider()
        assert delegating.resource == Resource.get_empty()
        assert delegating.force_flush()
        delegating.shutdown()
        delegating._update_resource(Resource({}))
        delegating._set_logger_configurator(logger_configurator=None)
        delegating.add_log_record_processor(SimpleLogRecordProcessor(InMemoryLogRecordExporter()))
        assert "OpenTelemetry is not set up" in caplog.text


class Bound:
    """An object that remembers its source, and calls a function during its next update."""

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
        delegating = DelegatingMeterProvider()
        observing, replaced = threading.Event(), threading.Event()

        def callback(_):
            observing.set()
            replaced.wait(0.2)
            delegating.get_meter("made in a callback").create_counter("c").add(1)
            return [Observation(1)]

        delegating.get_meter("scope").create_observable_gauge("g", [callback])
        sdk, reader = metrics_sdk_provider()
        delegating.attach(sdk)
        collecting = threading.Thread(target=reader.collect)
        collecting.start()
        observing.wait()
        attaching = threading.Thread(target=delegating.attach, args=(sdk,))
        attaching.start()
        for thread in (collecting, attaching):
            thread.join(10)
            assert not thread.is_alive()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.filterwarnings(
        "ignore:.*use of fork:DeprecationWarning"
    )  # the test forks on purpose
    def test_forked_child_does_not_block_when_parent_held_lock(self):
        delegating = DelegatingTracerProvider()
        with _delegation._lock.held():
            child = os.fork()
            if child == 0:
                delegating.get_tracer("in the child")
                os._exit(0)
            deadline = time.monotonic() + 10
            while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(child, 9)
                time.sleep(0.01)
        assert done[1] == 0


@pytest.mark.parametrize("name", ["traces", "metrics", "logs"])
def test_signal_is_unset_until_application_sets_global_provider(name):
    # The check relies on the module of the proxy class of the API, which has no public name.
    code = f"""
        from llamatelemetry.otel.providers import SIGNALS
        signal = SIGNALS["{name}"]
        assert signal.is_unset and signal.application_provider is None
        signal.set_global(signal.no_op())
        assert not signal.is_unset
        assert isinstance(signal.application_provider, signal.no_op)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
