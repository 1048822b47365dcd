"""`init()`, `flush()` and `shutdown()` with real receivers."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading

import pytest
from opentelemetry import _logs, metrics, trace
from opentelemetry.metrics import Observation
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import llamatelemetry
from llamatelemetry import LlamaTelemetryConfig, flush, init, shutdown
from llamatelemetry.config import active_config
from llamatelemetry.distro import LlamaTelemetryConfigurator
from llamatelemetry.genai import internal_errors
from tests.support.otlp_receiver import grpc_receiver, http_receiver
from tests.support.temporary_distributions import (
    make_distribution,
    make_instrumentor,
    throwaway_path,  # noqa: F401 - a fixture
)
from tests.support.waiting import wait_for

HOUR_MS = 3_600_000


@pytest.fixture
def receiver():
    with http_receiver() as received:
        yield received


@pytest.fixture(autouse=True)
def taken_down(receiver):
    """Shut down after each test, while its receiver still runs."""
    logger = logging.getLogger("llamatelemetry")
    level, logger.level = logger.level, logging.NOTSET
    yield
    shutdown()
    logger.setLevel(level)
    assert [thread.name for thread in threading.enumerate() if "Otel" in thread.name] == []


def record(name: str) -> None:
    """Record one of each signal, with a new tracer, instrument and logger."""
    trace.get_tracer("test").start_span(name).end()
    metrics.get_meter("test").create_counter(name).add(1)
    _logs.get_logger("test").emit(body=name)


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the code in a new process, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def _threads_named(part: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if part in thread.name]


class Last(SpanProcessor):
    """Remembers the order in which processors were called."""

    order: list[str] = []  # noqa: RUF012 - shared on purpose

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_shut_down = False

    def on_end(self, span):
        self.order.append(self.name)

    def shutdown(self):
        self.is_shut_down = True


class TestExport:
    def test_init_exports_every_signal_with_resource(self, receiver):
        init(
            "shop",
            "1.2",
            receiver.url,
            environment="test",
            otlp_headers={"x-key": "secret"},
        )
        record("one")
        assert flush()
        assert receiver.spans() == ["one"]
        assert receiver.metrics() == {"one"}
        assert receiver.logs() == ["one"]
        assert set(receiver.paths) == {"/v1/traces", "/v1/metrics", "/v1/logs"}
        assert {headers["x-key"] for headers in receiver.headers} == {"secret"}
        expected = {
            "service.name": "shop",
            "service.version": "1.2",
            "deployment.environment.name": "test",
            "telemetry.distro.name": "llamatelemetry",
            "telemetry.distro.version": llamatelemetry.__version__,
            "telemetry.sdk.name": "opentelemetry",
        }
        for signal in ("traces", "metrics", "logs"):
            assert expected.items() <= receiver.resources(signal)[0].items()

    def test_init_exports_over_grpc(self):
        with grpc_receiver() as receiver:
            init(otlp_endpoint=receiver.url, otlp_protocol="grpc", otlp_headers={"X-Key": "v"})
            record("one")
            assert flush()
            assert receiver.spans() == ["one"]
            assert receiver.metrics() == {"one"}
            assert receiver.logs() == ["one"]
            assert {headers["x-key"] for headers in receiver.headers} == {"v"}
            assert shutdown()

    def test_otel_variables_are_respected(self, receiver, monkeypatch):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=from-variable")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=infra,service.name=from-variable")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
        monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
        init()
        record("one")
        assert flush()
        assert (receiver.spans(), receiver.metrics(), receiver.logs()) == ([], {"one"}, [])
        assert receiver.headers[0]["x-key"] == "from-variable"
        resource = receiver.resources("metrics")[0]
        assert resource["team"] == "infra"
        assert resource["service.name"] == "from-variable"

    def test_arguments_win_over_variables(self, receiver, monkeypatch):
        monkeypatch.setenv("OTEL_SERVICE_NAME", "variable")
        monkeypatch.setenv("LLAMATELEMETRY_SERVICE_NAME", "our variable")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        config = LlamaTelemetryConfig(service_name="config", otlp_endpoint=receiver.url)
        assert init("argument", config=config).service_name == "argument"
        record("one")
        assert flush()
        assert receiver.resources("traces")[0]["service.name"] == "argument"

    def test_file_exporter_writes_every_signal(self, tmp_path):
        init(exporter="file", export_path=str(tmp_path))
        record("one")
        assert flush()
        pid = os.getpid()
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            f"{signal}-{pid}.jsonl" for signal in ("logs", "metrics", "traces")
        ]
        assert '"name":"one"' in (tmp_path / f"traces-{pid}.jsonl").read_text()

    def test_console_exporter_prints_one_line_for_each_span(self):
        done = run(
            """
            from opentelemetry import trace
            from llamatelemetry import flush, init
            init(exporter="console")
            tracer = trace.get_tracer("test")
            usage = {"gen_ai.usage.input_tokens": 61, "gen_ai.usage.output_tokens": 24}
            times = {"gen_ai.ttft_ms": 1666.3, "llamatelemetry.queue_duration": 1.52}
            prompt = {"gen_ai.input.messages": "a secret"}
            tracer.start_span("chat m", attributes={**usage, **times, **prompt}).end()
            with tracer.start_as_current_span("two\\nlines\\x1b[2J") as span:
                span.set_status(trace.StatusCode.ERROR, "went wrong")
            assert flush()
            """
        )
        assert (done.returncode, done.stderr) == (0, "")
        first, second = done.stdout.splitlines()
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d\.\d{3} +[\d.]+ ms  chat m  61 -> 24 tokens  queue 1,520\.0 ms  "
            r"TTFT 1,666\.3 ms  trace [0-9a-f]{32}",
            first,
        )
        assert r"two\nlines\x1b[2J  ERROR went wrong  trace" in second

    def test_console_json_exporter_prints_every_signal(self):
        done = run(
            """
            from opentelemetry import _logs, metrics, trace
            from llamatelemetry import flush, init
            init(exporter="console-json")
            trace.get_tracer("test").start_span("a span").end()
            metrics.get_meter("test").create_counter("a_counter").add(1)
            _logs.get_logger("test").emit(body="a record")
            assert flush()
            """
        )
        assert (done.returncode, done.stderr) == (0, "")
        for shown in ('"name": "a span"', '"name": "a_counter"', '"body": "a record"'):
            assert shown in done.stdout

    def test_metrics_are_not_exported_when_disabled(self, receiver):
        init(otlp_endpoint=receiver.url, enable_metrics=False)
        record("one")
        assert flush()
        assert receiver.spans() == ["one"]
        assert receiver.messages["metrics"] == []

    def test_export_interval_is_applied_to_metrics(self, receiver):
        init(otlp_endpoint=receiver.url, export_interval_ms=20)
        record("one")
        wait_for(lambda: len(receiver.messages["metrics"]) >= 2)

    def test_full_signal_url_exports_one_signal_with_one_warning(self, receiver, caplog):
        init(otlp_endpoint=f"{receiver.url}/v1/traces")
        record("one")
        assert flush()
        assert set(receiver.paths) == {"/v1/traces"}
        (warning,) = caplog.records
        assert "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT" in warning.message

    @pytest.mark.parametrize(
        ("options", "kept"),
        [
            ({"sampling": "always_off"}, 0),
            ({"sampling": "ratio", "sample_rate": 0.0}, 0),
            ({"sampling": "ratio", "sample_rate": 1.0}, 5),
            ({"sampling": "parentbased_traceidratio", "sample_rate": 0.0}, 0),
            ({}, 5),
        ],
    )
    def test_sampling_option_selects_exported_spans(self, receiver, options, kept):
        init(otlp_endpoint=receiver.url, **options)
        for _ in range(5):
            trace.get_tracer("test").start_span("span").end()
        assert flush()
        assert len(receiver.spans()) == kept

    def test_init_leaves_environment_unchanged(self, receiver, monkeypatch):
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "1234")
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
        before = dict(os.environ)
        init(otlp_endpoint=receiver.url, export_interval_ms=HOUR_MS, sampling="always_on")
        assert dict(os.environ) == before


class TestCycles:
    def test_objects_obtained_before_init_work_in_every_cycle(self, receiver):
        # The objects are obtained before OpenTelemetry's globals are set.
        code = f"""
            from opentelemetry import _logs, metrics, trace
            from opentelemetry.metrics import Observation
            from llamatelemetry import init, shutdown
            tracer = trace.get_tracer("t")
            histogram = metrics.get_meter("m").create_histogram(
                "histogram", explicit_bucket_boundaries_advisory=[1, 2])
            metrics.get_meter("m").create_observable_gauge("gauge", [lambda _: [Observation(1)]])
            logger = _logs.get_logger("l")
            for n in range(3):
                init(otlp_endpoint="{receiver.url}")
                tracer.start_span(f"span {{n}}").end()
                histogram.record(n)
                logger.emit(body=f"log {{n}}")
                assert shutdown()
                tracer.start_span("lost").end()
                logger.emit(body="lost")
                histogram.record(100)
        """
        done = run(code)
        assert (done.returncode, done.stderr) == (0, "")
        assert receiver.spans() == ["span 0", "span 1", "span 2"]
        assert receiver.logs() == ["log 0", "log 1", "log 2"]
        assert receiver.metrics() == {"histogram", "gauge"}
        sums = [
            (point.sum, list(point.explicit_bounds))
            for message in receiver.messages["metrics"]
            for metric in message.resource_metrics[0].scope_metrics[0].metrics
            if metric.name == "histogram"
            for point in metric.histogram.data_points
        ]
        assert {total for total, _ in sums} == {0, 1, 2}
        assert all(bounds == [1, 2] for _, bounds in sums)

    def test_each_cycle_can_have_different_options(self, receiver):
        for name in ("first", "second"):
            init(name, otlp_endpoint=receiver.url)
            record(name)
            assert shutdown()
        assert [each["service.name"] for each in receiver.resources("traces")] == [
            "first",
            "second",
        ]
        assert receiver.metrics() == {"first", "second"}

    def test_shutdown_reverts_patches_and_stops_threads(self, receiver):
        from llamatelemetry_instrumentation_openai import OpenAIInstrumentor

        before = {thread.name for thread in threading.enumerate()}
        init(otlp_endpoint=receiver.url)
        assert OpenAIInstrumentor().is_instrumented_by_opentelemetry
        assert {t.name for t in threading.enumerate()} - before != set()
        assert shutdown()
        assert not OpenAIInstrumentor().is_instrumented_by_opentelemetry
        assert {t.name for t in threading.enumerate()} - before == set()
        assert shutdown()

    def test_init_works_after_application_shut_provider_down(self, receiver):
        init("first", otlp_endpoint=receiver.url)
        record("one")
        trace.get_tracer_provider().shutdown()
        record("two")
        init("second", otlp_endpoint=receiver.url)
        record("three")
        assert shutdown()
        assert receiver.spans() == ["one", "three"]
        assert [each["service.name"] for each in receiver.resources("traces")] == [
            "first",
            "second",
        ]

    def test_concurrent_init_calls_set_up_once(self, receiver):
        threads = [
            threading.Thread(target=init, kwargs={"otlp_endpoint": receiver.url}) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("OtelPeriodicExportingMetricReader") == 1

    def test_observable_instruments_are_observed_by_current_sdk(self, receiver):
        observed = []
        metrics.get_meter("test").create_observable_gauge(
            "kept", [lambda _: observed.append(1) or [Observation(1)]]
        )
        init(otlp_endpoint=receiver.url)
        assert flush()
        assert observed
        assert shutdown()
        observed.clear()
        init(otlp_endpoint=receiver.url)
        assert flush()
        assert observed == [1]


class TestSecondInit:
    def test_init_with_same_options_changes_nothing(self, receiver, caplog):
        processor = Last("mine")
        options = {"service_name": "a", "otlp_endpoint": receiver.url}
        first = init(**options, span_processors=[processor])
        threads = threading.active_count()
        assert init(**options, span_processors=[processor]) == first
        assert init() == first
        assert threading.active_count() == threads
        Last.order.clear()
        record("one")
        assert Last.order == ["mine"]
        assert caplog.records == []

    def test_second_init_names_ignored_options_in_one_warning(self, receiver, caplog):
        init("a", otlp_endpoint=receiver.url)
        in_force = init("b", exporter="console", capture_content="span_only")
        (warning,) = caplog.records
        assert "Ignored exporter, service_name: OpenTelemetry is already set up" in warning.message
        assert in_force.service_name == "a"
        assert in_force.exporter == "otlp"
        assert in_force.capture_content == "span_only"

    def test_second_init_changes_options_of_instrumentors(
        self,
        receiver,
        caplog,
        throwaway_path,  # noqa: F811 - the imported fixture
    ):
        make_instrumentor(throwaway_path, "a", "llamatelemetry_a", "throwaway_a")
        init(otlp_endpoint=receiver.url)
        in_force = init(capture_content="span_only", log_level="DEBUG")
        assert [
            (what, options.get("config") and options["config"].capture_content)
            for what, options in sys.modules["throwaway_a"].CALLS
        ] == [("instrument", "no_content"), ("uninstrument", None), ("instrument", "span_only")]
        assert in_force.capture_content == "span_only"
        assert logging.getLogger("llamatelemetry").level == logging.DEBUG
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    def test_second_init_changes_every_option_of_calls(self, receiver, caplog):
        changed = {
            "phase_spans": False,
            "engine_latency_names": True,
            "capture_content": "span_only",
            "content_max_chars": 10,
            "strict_operation_names": False,
            "metric_names": "latest",
            "provider_name": "mine",
            "propagate": "on",
            "propagate_hosts": ("api.example",),
            "response_headers": ("x-request-id",),
            "stream_usage": True,
            "diagnostics": True,
            "prompt_sections": False,
            "llamacpp_allow": ("http://a:1",),
            "llamacpp_deny": ("http://b:1",),
            "llamacpp_props": True,
        }
        init(otlp_endpoint=receiver.url)
        in_force = init(**changed)
        assert {name: getattr(in_force, name) for name in changed} == changed
        assert [each.message for each in caplog.records if "Ignored" in each.message] == []

    def test_second_init_prepends_new_span_processors(self, receiver):
        init(otlp_endpoint=receiver.url, span_processors=[Last("c"), Last("d")])
        trace.get_tracer_provider().add_span_processor(Last("e"))
        init(span_processors=[Last("a"), Last("b")])
        Last.order.clear()
        record("one")
        assert Last.order == ["a", "b", "c", "d", "e"]

    def test_span_processors_run_before_exporters(self, receiver):
        class Rename(SpanProcessor):
            def on_end(self, span):
                span._name = "renamed"

        init(otlp_endpoint=receiver.url, span_processors=[Rename()])
        record("one")
        assert flush()
        assert receiver.spans() == ["renamed"]

    def test_init_names_similar_option_when_option_is_unknown(self):
        with pytest.raises(TypeError, match=r"Unknown option 'servce_name'.*'service_name'"):
            init(servce_name="x")

    def test_init_raises_on_invalid_value_and_sets_nothing_up(self):
        with pytest.raises(ValueError, match=r"exporter must be .*, got 'nowhere'"):
            init(exporter="nowhere")
        assert LlamaTelemetryConfigurator().setup is None

    def test_init_logs_error_of_sdk_and_does_not_raise(
        self,
        monkeypatch,
        caplog,
        throwaway_path,  # noqa: F811 - the imported fixture
    ):
        make_distribution(
            throwaway_path,
            "broken",
            entry_points={"opentelemetry_traces_exporter": {"broken": "throwaway_broken:nothing"}},
            modules={"throwaway_broken": "def nothing(): raise OSError('port in use')\n"},
        )
        internal_errors.set_strict(False)
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "broken")
        init()
        assert "failed while setting up OpenTelemetry" in caplog.text
        assert shutdown()

    def test_failed_init_leaves_nothing_and_can_be_repeated(
        self,
        receiver,
        monkeypatch,
        throwaway_path,  # noqa: F811 - the imported fixture
    ):
        make_distribution(
            throwaway_path,
            "broken",
            entry_points={"opentelemetry_metrics_exporter": {"broken": "throwaway_broken:Broken"}},
            modules={
                "throwaway_broken": "from opentelemetry.sdk.metrics.export import MetricExporter\n"
                "class Broken(MetricExporter):\n"
                "    def __init__(self): raise OSError\n"
                "    export = force_flush = shutdown = None\n"
            },
        )
        internal_errors.set_strict(False)
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "broken")
        init(otlp_endpoint=receiver.url)
        assert [t.name for t in threading.enumerate() if "Otel" in t.name] == []
        assert not trace.get_tracer("test").start_span("lost").is_recording()
        monkeypatch.delenv("OTEL_METRICS_EXPORTER")
        init(otlp_endpoint=receiver.url)
        record("one")
        assert flush()
        assert receiver.spans() == ["one"]


class TestFlush:
    def test_flush_and_shutdown_return_true_without_setup(self):
        assert flush()
        assert shutdown()

    def test_flush_and_shutdown_wait_without_time_limit(self, receiver):
        init(otlp_endpoint=receiver.url)
        record("one")
        assert flush(float("inf"))
        assert receiver.spans() == ["one"]
        assert shutdown(float("inf"))

    @pytest.mark.parametrize("status", [400, 503])
    def test_flush_returns_false_when_collector_rejects(self, receiver, status):
        init(otlp_endpoint=receiver.url, enable_metrics=False)
        receiver.status = status
        record("one")
        assert not flush(0.5)
        receiver.status = 200

    def test_flush_returns_false_once_after_rejected_export(self, receiver):
        init(otlp_endpoint=receiver.url, enable_metrics=False)
        receiver.status = 400
        record("one")
        trace.get_tracer_provider().force_flush()
        receiver.status = 200
        assert not flush()
        assert flush()

    @pytest.mark.parametrize("finish", [flush, shutdown])
    def test_flush_and_shutdown_keep_timeout_when_collector_does_not_respond(
        self, receiver, finish, monkeypatch
    ):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
        # The last three run until `shutdown`, or as long as the process.
        allowed = {
            *_threads_named("llamatelemetry-"),
            *("llamatelemetry-finalizer", "llamatelemetry-gpu", "llamatelemetry-signals"),
        }
        init(otlp_endpoint=receiver.url, enable_metrics=False)
        receiver.may_respond.clear()
        record("one")
        assert not finish(0.5)  # with the exporter's timeout it would return True
        receiver.may_respond.set()
        with contextlib.suppress(AssertionError):
            wait_for(lambda: set(_threads_named("llamatelemetry-")) <= allowed, timeout_s=60)
        assert set(_threads_named("llamatelemetry-")) <= allowed

    def test_shutdown_ends_retries_and_threads_without_collector(self, caplog, monkeypatch):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1000")  # longer than a test may take
        init(otlp_endpoint="http://127.0.0.1:9", enable_metrics=False)
        record("one")
        assert not shutdown(1.0)
        wait_for(lambda: not _threads_named("Otel"))
        assert "already shutdown, ignoring call" not in caplog.text

    def test_pending_calls_end_before_sdk_shuts_down_at_exit(self, receiver):
        done = run(
            f"""
            import atexit, sys
            from llamatelemetry import init
            from llamatelemetry.genai.streams import abandoned_calls
            from opentelemetry import trace
            init(otlp_endpoint="{receiver.url}")
            class Abandoned:
                def finalize(self):
                    trace.get_tracer("t").start_span("abandoned").end()
            abandoned_calls.finalizer.put(Abandoned())
            """
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert receiver.spans() == ["abandoned"]


class TestApplicationProvider:
    """Each test starts a process, because OpenTelemetry's globals can be set only once."""

    def test_application_provider_stays_and_gets_processors_prepended(self, receiver):
        done = run(
            f"""
            import logging, sys
            from opentelemetry import metrics, trace
            from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
            logging.basicConfig(stream=sys.stdout, format="%(name)s %(message)s")
            order = []
            class P(SpanProcessor):
                def __init__(self, name): self.name = name
                def on_end(self, span): order.append(self.name)
                def shutdown(self): order.append("shutdown " + self.name)
            own = TracerProvider()
            own.add_span_processor(P("theirs"))
            trace.set_tracer_provider(own)

            from llamatelemetry import init, shutdown
            for _ in range(2):
                init("name", otlp_endpoint="{receiver.url}", span_processors=[P("ours")])
                assert trace.get_tracer_provider() is own
                trace.get_tracer("t").start_span("s").end()
                assert order == ["ours", "theirs"], order
                metrics.get_meter("m").create_counter("c").add(1)
                assert shutdown()
                assert order[2:] == ["shutdown ours"], order
                order.clear()
                trace.get_tracer("t").start_span("s").end()
                assert order == ["theirs"], order
                order.clear()
            """
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert receiver.spans() == []
        assert receiver.metrics() == {"c"}
        warning = (
            "llamatelemetry.distro Ignored service_name, otlp_endpoint: the application set its own "
            "provider for traces. Set them where it is created"
        )
        assert done.stdout.splitlines() == [warning, warning]

    def test_other_provider_stays_unchanged(self):
        done = run(
            """
            from opentelemetry import _logs, metrics, trace
            trace.set_tracer_provider(trace.NoOpTracerProvider())
            metrics.set_meter_provider(metrics.NoOpMeterProvider())
            _logs.set_logger_provider(_logs.NoOpLoggerProvider())
            from opentelemetry.sdk.trace import SpanProcessor
            from llamatelemetry import flush, init, shutdown
            init(span_processors=[SpanProcessor()])
            assert flush() and shutdown()
            import threading
            assert threading.active_count() == 1, threading.enumerate()
            """
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("does not support processors") == 1


class TestDisabled:
    def test_disabled_sdk_leaves_process_unchanged(self):
        done = run(
            """
            import sys, threading
            from opentelemetry import trace, metrics
            import llamatelemetry
            assert llamatelemetry.init("x", exporter="console").service_name == "x"
            assert llamatelemetry.flush() and llamatelemetry.shutdown()
            assert threading.active_count() == 1
            assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
            assert "opentelemetry.sdk.trace" not in sys.modules
            assert not any(n.startswith("llamatelemetry_instrumentation") for n in sys.modules)
            """,
            OTEL_SDK_DISABLED="true",
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_import_has_no_side_effects_and_loads_no_sdk():
    done = run(
        """
        import os, sys, threading
        environ = dict(os.environ)
        import llamatelemetry, llamatelemetry.otel
        assert {"init", "flush", "shutdown", "LlamaTelemetryConfig"} <= set(dir(llamatelemetry))
        assert threading.active_count() == 1 and dict(os.environ) == environ
        loaded = [n for n in sys.modules if n.startswith("opentelemetry.sdk")]
        llamatelemetry.init, llamatelemetry.LlamaTelemetryConfig
        loaded += [n for n in sys.modules if n.startswith("opentelemetry.sdk")]
        assert loaded == [], loaded
        try:
            llamatelemetry.no_such_name
        except AttributeError as error:
            assert str(error) == "module 'llamatelemetry' has no attribute 'no_such_name'"
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_init_names_pip_command_when_sdk_is_missing():
    done = run(
        """
        import sys
        sys.modules["opentelemetry.sdk"] = None  # as if it were not installed
        from llamatelemetry import flush, init, shutdown
        assert flush() and shutdown()
        try:
            init()
        except ImportError as error:
            print(error)
        """
    )
    assert done.stderr == ""
    assert "pip install llamatelemetry" in done.stdout


def test_application_can_add_in_memory_exporter(receiver):
    exporter = InMemorySpanExporter()
    init(otlp_endpoint=receiver.url)
    provider = trace.get_tracer_provider()
    assert isinstance(provider, SdkTracerProvider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    record("one")
    assert [span.name for span in exporter.get_finished_spans()] == ["one"]


def test_options_of_init_are_active_until_shutdown(receiver):
    assert active_config().propagate == "auto"
    init(otlp_endpoint=receiver.url, propagate="off")
    assert active_config().propagate == "off"
    init(propagate="on")
    assert active_config().propagate == "on"
    shutdown()
    assert active_config().propagate == "auto"
