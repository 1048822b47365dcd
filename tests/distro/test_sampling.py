"""The option `sampling`, for each way to set up telemetry, with a real receiver."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

import llamatelemetry
from llamatelemetry.config import effective_config
from llamatelemetry.distro import _sampling
from llamatelemetry.otel.sampling.rules import RuleSampler
from tests.support.otlp_receiver import http_receiver
from tests.support.payloads import http
from tests.support.selection import slow_except

INSTRUMENT = str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")
ZERO_CODE = [INSTRUMENT, sys.executable, "-c"]
IN_CODE = [sys.executable, "-c"]
OURS = {"OTEL_PYTHON_DISTRO": "llamatelemetry"}
PLAIN = {
    "OTEL_PYTHON_DISTRO": "distro",
    "OTEL_PYTHON_CONFIGURATOR": "configurator",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
}

WORK = """
from opentelemetry import metrics, trace
tracer = trace.get_tracer("test")
for outcome in ("fine", "failed"):
    with tracer.start_as_current_span(outcome) as root:
        with tracer.start_as_current_span(f"child of {outcome}"):
            metrics.get_meter("test").create_counter("work").add(1)
        if outcome == "failed":
            root.set_status(trace.StatusCode.ERROR)
"""
INIT = "import llamatelemetry; llamatelemetry.init({options})\n"
OWN_PROVIDER = """
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
provider = TracerProvider({arguments})
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
"""
SAMPLER = "from llamatelemetry.distro import only_errors\n"
END = "\ntrace.get_tracer_provider().force_flush()\n"

# Command, program before WORK, environment variables, lines of the configuration file.
WAYS = {
    "llamatelemetry variable": (
        ZERO_CODE,
        "",
        {**OURS, "LLAMATELEMETRY_SAMPLING": "only_errors"},
        None,
    ),
    "OpenTelemetry variable": (
        ZERO_CODE,
        "",
        {**OURS, "OTEL_TRACES_SAMPLER": "only_errors"},
        None,
    ),
    "entry point": (
        ZERO_CODE,
        "",
        {**OURS, "OTEL_TRACES_SAMPLER": "llamatelemetry_only_errors"},
        None,
    ),
    "entry point in a plain distro": (
        ZERO_CODE,
        "",
        {**PLAIN, "OTEL_TRACES_SAMPLER": "llamatelemetry_only_errors"},
        None,
    ),
    "init": (IN_CODE, INIT.format(options="sampling='only_errors'"), {}, None),
    "config": (
        IN_CODE,
        INIT.format(options="config=llamatelemetry.LlamaTelemetryConfig(sampling='only_errors')"),
        {},
        None,
    ),
    "section of a file": (
        ZERO_CODE,
        "",
        OURS,
        "distribution: {llamatelemetry: {sampling: only_errors}}",
    ),
    "file and llamatelemetry variable": (
        ZERO_CODE,
        "",
        {**OURS, "LLAMATELEMETRY_SAMPLING": "only_errors"},
        "",
    ),
    "sampler of a file": (ZERO_CODE, "", OURS, "sampler: {llamatelemetry_only_errors: }"),
    "root sampler of a file": (
        ZERO_CODE,
        "",
        OURS,
        "sampler: {parent_based: {root: {llamatelemetry_only_errors: }}}",
    ),
    "application provider and init": (
        IN_CODE,
        OWN_PROVIDER.format(arguments="") + INIT.format(options="sampling='only_errors'"),
        {},
        None,
    ),
    "application provider alone": (
        IN_CODE,
        SAMPLER + OWN_PROVIDER.format(arguments="only_errors()"),
        {},
        None,
    ),
}
# This program sets no meter provider.
WITHOUT_METRICS = {"application provider alone"}


@pytest.fixture
def receiver():
    with http_receiver() as received:
        yield received


def config_file(folder: Path, url: str, lines: str) -> dict[str, str]:
    sampler, other = (f"  {lines}", "") if lines.startswith("sampler") else ("", lines)
    path = folder / "otel.yaml"
    path.write_text(f"""
file_format: "1.0"
tracer_provider:
  processors:
    - batch: {{exporter: {{otlp_http: {{endpoint: "{url}/v1/traces"}}}}}}
{sampler}
meter_provider:
  readers:
    - periodic: {{exporter: {{otlp_http: {{endpoint: "{url}/v1/metrics"}}}}}}
{other}
""")
    return {"OTEL_CONFIG_FILE": str(path)}


@pytest.mark.parametrize("way", slow_except({"llamatelemetry variable", "init"}, WAYS))
def test_only_errors_is_applied_by_every_way_of_setting_it(way, receiver, tmp_path):
    command, before, variables, lines = WAYS[way]
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **variables}
    if lines is not None:
        environ |= config_file(tmp_path, receiver.url, lines)
    done = subprocess.run(
        [*command, before + WORK + END],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    # OpenTelemetry logs that the other installed distro is not loaded.
    logged = [line for line in done.stderr.splitlines() if "not loaded" not in line]
    assert (done.returncode, logged) == (0, [])
    assert receiver.spans() == ["child of failed", "failed"]
    if way not in WITHOUT_METRICS:
        assert receiver.metrics() == {
            "work",
            "llamatelemetry.sampling.spans",
            "llamatelemetry.sampling.traces",
        }
        (total,) = [
            point.as_int
            for message in receiver.messages["metrics"][-1:]
            for scope in message.resource_metrics[0].scope_metrics
            for metric in scope.metrics
            if metric.name == "work"
            for point in metric.sum.data_points
        ]
        assert total == 2


@pytest.fixture
def initialized(receiver):
    """Yield `init` for a test, and shut down after it."""
    yield lambda **options: llamatelemetry.init(otlp_endpoint=receiver.url, **options)
    llamatelemetry.shutdown()


def complete(request: Any) -> Any:
    if b"fail" in request.content:
        return http.Response(400, json={"error": {"message": "no", "type": "invalid_request"}})
    message = {"role": "assistant", "content": "Hi"}
    return http.Response(
        200,
        json={
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "smol",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        },
    )


def call(model: str) -> None:
    client = openai.OpenAI(
        api_key="none",
        base_url="http://model.test/v1",
        http_client=http.Client(transport=http.MockTransport(complete)),
    )
    with client:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])


def durations(receiver) -> int:
    return sum(
        point.count
        for message in receiver.messages["metrics"][-1:]
        for scope in message.resource_metrics[0].scope_metrics
        for metric in scope.metrics
        if metric.name == "gen_ai.client.operation.duration"
        for point in metric.histogram.data_points
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sampling": "only_errors"}, ["chat fail"]),
        ({"sampling": "ratio", "sample_rate": 0.0}, []),
        ({"sampling": "only_errors,ratio", "sample_rate": 1.0}, ["chat smol", "chat fail"]),
    ],
)
def test_sampling_keeps_failed_call_and_metrics_of_all_calls(
    options, expected, initialized, receiver
):
    initialized(**options)
    call("smol")
    with pytest.raises(openai.BadRequestError):
        call("fail")
    assert llamatelemetry.flush()
    assert receiver.spans() == expected
    assert durations(receiver) == 2


def span_of(receiver):
    (span,) = [
        span
        for message in receiver.messages["traces"]
        for scope in message.resource_spans[0].scope_spans
        for span in scope.spans
    ]
    recorded = {each.key: each.value for each in span.attributes}
    rate = recorded["llamatelemetry.sampling.rate"].double_value
    return recorded["llamatelemetry.sampling.rule"].string_value, rate, span.trace_state


def test_ratio_is_recorded_on_spans_and_propagated(initialized, receiver):
    initialized(sampling="ratio", sample_rate=0.5)
    tracer = trace.get_tracer("test")
    started = 0
    while True:
        with tracer.start_as_current_span("root") as root:
            started += 1
            if root.is_recording():
                assert root.get_span_context().trace_state.to_header() == "ot=th:8"
                break
        assert started < 100
    assert llamatelemetry.flush()
    assert span_of(receiver) == ("ratio", 0.5, "ot=th:8")


def test_ratio_is_applied_at_end_on_application_provider(receiver):
    code = (
        OWN_PROVIDER.format(arguments="")
        + INIT.format(options="sampling='ratio', sample_rate=0.0")
        + WORK
        + "\nllamatelemetry.shutdown()\n"
        + "tracer.start_span('after').end()"
        + END
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert receiver.spans() == ["after"]


def test_processors_of_option_receive_every_span(initialized, receiver):
    exporter = InMemorySpanExporter()
    initialized(sampling="only_errors", span_processors=[SimpleSpanProcessor(exporter)])
    trace.get_tracer("test").start_span("fine").end()
    assert llamatelemetry.flush()
    assert receiver.spans() == []
    assert [span.name for span in exporter.get_finished_spans()] == ["fine"]


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (
            {"sample_rate": 0.1},
            (
                "Ignored sample_rate: sampling=parentbased_always_on does not use it. "
                "Did you mean sampling=ratio?"
            ),
        ),
        (
            {"sampling": "only_errors", "sample_rate": 0.1},
            (
                "Ignored sample_rate: sampling=only_errors does not use it. "
                "Did you mean sampling=only_errors,ratio?"
            ),
        ),
        (
            {"sampling": "only_errors", "slow_threshold_s": 1},
            (
                "Ignored slow_threshold_s: sampling=only_errors does not use it. "
                "Did you mean sampling=only_errors,only_slow?"
            ),
        ),
        ({"sampling": "parentbased_traceidratio", "sample_rate": 0.1}, None),
        ({"sampling": "only_slow", "slow_threshold_s": 1}, None),
    ],
)
def test_unused_sampling_option_logs_one_warning(options, warning, initialized, caplog):
    initialized(**options)
    assert [record.getMessage() for record in caplog.records] == ([warning] if warning else [])


@pytest.mark.parametrize(
    "sampler",
    [
        _sampling.ratio("0.5"),
        _sampling.only_slow("1"),
        _sampling.only_errors_or_slow("1"),
        ParentBasedTraceIdRatio(0.5),
    ],
)
def test_option_used_by_named_sampler_logs_no_warning(sampler, caplog):
    provider = TracerProvider(sampler, shutdown_on_exit=False)
    slow = isinstance(sampler, RuleSampler)
    options = {"slow_threshold_s": 1} if slow else {"sample_rate": 0.5}
    _sampling.sample_at_end(effective_config(environ={}, **options), provider, (), is_created=True)
    assert not caplog.records


def test_sdk_sampler_is_ignored_with_warning_on_existing_provider(caplog):
    config = effective_config(environ={}, sampling="always_off")
    provider = TracerProvider(shutdown_on_exit=False)
    assert _sampling.sample_at_end(config, provider, (), is_created=False) is None
    _sampling.replace_sampler(config, provider)
    assert [record.getMessage() for record in caplog.records] == [
        (
            "Ignored sampling=always_off: the application set its own tracer provider. "
            "Pass the sampler to it"
        ),
        "Ignored sampling=always_off: OTEL_CONFIG_FILE is set. Set the sampler in that file",
    ]


def test_tail_sampling_is_disabled_with_warning_on_other_provider(caplog):
    config = effective_config(environ={}, sampling="only_errors")
    provider = trace.NoOpTracerProvider()
    assert _sampling.sample_at_end(config, provider, (), is_created=False) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "all traces are exported" in caplog.text


@pytest.mark.parametrize(
    ("make", "argument", "kept_s"),
    [(_sampling.only_slow, "0.5", 0.5), (_sampling.only_errors_or_slow, None, 7.0)],
)
def test_argument_of_only_slow_is_threshold_in_seconds(make, argument, kept_s, monkeypatch):
    monkeypatch.setenv("LLAMATELEMETRY_SLOW_THRESHOLD_S", "7")
    assert make(argument).policy.slow_s == kept_s


def test_tail_sampling_is_disabled_with_warning_when_provider_is_not_global(caplog):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(_sampling.only_errors(), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for _ in range(2):
        provider.get_tracer("test").start_span("fine").end()
    assert len(exporter.get_finished_spans()) == 2
    (record,) = caplog.records
    assert "is not the sampler of the global tracer provider" in record.getMessage()


@pytest.mark.parametrize(("argument", "rate"), [("0.25", 0.25), (None, 0.75)])
def test_argument_of_ratio_is_share_of_traces(argument, rate, monkeypatch):
    monkeypatch.setenv("LLAMATELEMETRY_SAMPLE_RATE", "0.75")
    sampler = _sampling.ratio(argument)
    assert f"RatioSampler{{{rate}}}" in sampler.get_description()
    with pytest.raises(ValueError, match=r"rate must be a number from 0 to 1, got 2\.0"):
        _sampling.ratio("2")


@pytest.mark.parametrize(
    ("environ", "options", "rate"),
    [
        ({}, {"sampling": "traceidratio"}, 1.0),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.1"}, {"sampling": "traceidratio"}, 0.1),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
            {"sample_rate": 0.5},
            0.5,
        ),
        (
            {"OTEL_TRACES_SAMPLER_ARG": "0.1"},
            {"sampling": "traceidratio", "sample_rate": 0.5},
            0.5,
        ),
    ],
)
def test_sdk_ratio_has_rate_of_option_else_of_variable(
    environ, options, rate, initialized, *, monkeypatch, caplog
):
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    initialized(**options)
    provider = trace.get_tracer_provider()
    assert provider.sampler.get_description() == f"TraceIdRatioBased{{{rate}}}"
    assert caplog.records == []


def test_invalid_argument_of_sampler_in_code_is_named(initialized, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "2")
    initialized(sampling="traceidratio")
    (warning,) = caplog.records
    assert warning.message.startswith("OTEL_TRACES_SAMPLER_ARG must be number from 0 to 1, got '2'")
