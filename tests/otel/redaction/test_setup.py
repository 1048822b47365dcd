"""Redaction set up in code, by environment, by declarative file and on running providers."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llamatelemetry import LlamaTelemetryConfig, flush, init, shutdown, trace_graph
from llamatelemetry.otel import RedactionSpanProcessor
from llamatelemetry.otel.redaction import matching
from llamatelemetry.pipeline import PipelineTracer
from tests.support.otlp_receiver import http_receiver
from tests.support.process_state import forget_logged_options

SECRET = "c4n4ry-7f3a"
MAIL = "a@example.com"


@pytest.fixture
def receiver():
    with http_receiver() as received:
        yield received


@pytest.fixture(autouse=True)
def shut_down(receiver):
    logger = logging.getLogger("llamatelemetry")
    level, logger.level = logger.level, logging.NOTSET
    forget_logged_options()
    yield
    shutdown()
    logger.setLevel(level)


def record(name: str = "one") -> None:
    """Record one span, metric and log record with a secret, an e-mail address and a field."""
    content = {"gen_ai.prompt": SECRET, "mail": MAIL, "field": "x"}
    trace.get_tracer("test").start_span(name, attributes=content).end()
    metrics.get_meter("test").create_counter(name).add(1)
    _logs.get_logger("test").emit(body=f"to {MAIL}", attributes=content)


def exported_attributes(receiver) -> dict[str, str]:
    """Return the attributes of the last span, which the last log record must have too."""
    assert flush()
    span = receiver.messages["traces"][-1].resource_spans[0].scope_spans[0].spans[-1]
    log = receiver.messages["logs"][-1].resource_logs[0].scope_logs[0].log_records[-1]
    found = {each.key: each.value.string_value for each in span.attributes}
    assert {each.key: each.value.string_value for each in log.attributes} == found
    return found


def run(code: str, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*(command or (sys.executable,)), "-c", textwrap.dedent(code)],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OTEL_PYTHON_DISTRO": "llamatelemetry",
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


class TestInCode:
    def test_init_redacts_nothing_by_default(self, receiver):
        init(otlp_endpoint=receiver.url)
        record()
        assert exported_attributes(receiver) == {
            "gen_ai.prompt": SECRET,
            "mail": MAIL,
            "field": "x",
        }

    def test_init_applies_redaction_options_to_spans_and_logs(self, receiver):
        init(
            otlp_endpoint=receiver.url,
            redact_prompts=True,
            redact_patterns=["email"],
            redact_keys=["field"],
        )
        record()
        assert set(exported_attributes(receiver).values()) == {"[REDACTED]"}
        assert receiver.logs() == ["to [REDACTED]"]

    def test_init_hashes_consistently_across_signals(self, receiver):
        options = {"redact_mode": "hash", "redact_hash_key": "k", "redact_patterns": ["email"]}
        init(MAIL, otlp_endpoint=receiver.url, redact_prompts=True, **options)
        record()
        found = exported_attributes(receiver)
        assert found["gen_ai.prompt"].startswith("[HMAC:")
        assert found["mail"] == receiver.logs()[0].removeprefix("to ")
        resources = {receiver.resources(signal)[0]["service.name"] for signal in receiver.messages}
        assert resources == {found["mail"]}

    def test_init_redacts_resource_of_every_signal(self, receiver, monkeypatch):
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"owner={MAIL},field={SECRET}")
        init(otlp_endpoint=receiver.url, redact_patterns=["email"], redact_keys=["field"])
        record()
        exported_attributes(receiver)
        for signal in ("traces", "logs", "metrics"):
            resource = receiver.resources(signal)[0]
            assert (resource["owner"], resource["field"]) == ("[REDACTED]",) * 2

    @pytest.mark.parametrize("position", [0, 1])
    def test_init_applies_redaction_processor_in_any_position(self, receiver, position):
        exporter = InMemorySpanExporter()
        processors = [SimpleSpanProcessor(exporter)]
        processors.insert(position, RedactionSpanProcessor(patterns=["email"]))
        init(MAIL, otlp_endpoint=receiver.url, span_processors=processors)
        record()
        gone = {"gen_ai.prompt": "[REDACTED]", "mail": "[REDACTED]", "field": "x"}
        assert exported_attributes(receiver) == gone
        assert dict(exporter.get_finished_spans()[0].attributes) == gone
        assert {receiver.resources(s)[0]["service.name"] for s in receiver.messages} == {
            "[REDACTED]"
        }

    def test_second_init_adds_redaction_to_running_setup(self, receiver, caplog):
        init(otlp_endpoint=receiver.url)
        record()
        assert exported_attributes(receiver)["mail"] == MAIL
        init(redact_patterns=["email"])
        record()
        assert exported_attributes(receiver) == {
            "gen_ai.prompt": SECRET,
            "mail": "[REDACTED]",
            "field": "x",
        }
        init(span_processors=[RedactionSpanProcessor(redact_keys=["field"])])
        record()
        assert set(exported_attributes(receiver).values()) == {"[REDACTED]"}
        assert caplog.records == []

    def test_second_init_does_not_weaken_redaction(self, receiver, caplog):
        init(otlp_endpoint=receiver.url, redact_prompts=True, redact_keys=["mail"])
        init(redact_prompts=False, redact_keys=["field"])
        record()
        assert exported_attributes(receiver)["gen_ai.prompt"] == "[REDACTED]"
        assert exported_attributes(receiver)["mail"] == "[REDACTED]"
        (warned,) = caplog.records
        assert (
            "Ignored redact_keys, redact_prompts: OpenTelemetry is already set up"
            in warned.getMessage()
        )

    def test_init_after_shutdown_starts_without_redaction(self, receiver):
        init(otlp_endpoint=receiver.url, redact_prompts=True)
        shutdown()
        init(otlp_endpoint=receiver.url)
        record()
        assert exported_attributes(receiver)["gen_ai.prompt"] == SECRET

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"redact_patterns": ["emial"]}, "Unknown pattern 'emial'"),
            ({"redact_patterns": ["(a"]}, "redact_patterns must be "),
            ({"redact_mode": "hash", "redact_prompts": True}, "needs redact_hash_key"),
        ],
    )
    def test_init_raises_for_invalid_redaction_option(self, options, message):
        with pytest.raises(ValueError, match=message):
            init(**options)
        with pytest.raises(ValueError, match=message):
            init(config=LlamaTelemetryConfig(**options))

    def test_init_names_pip_command_when_regex_is_missing(self, monkeypatch):
        monkeypatch.setattr(matching, "_import_regex", lambda: None)
        with pytest.raises(ImportError, match="pip install"):
            init(redact_patterns=[r"\d+"])


class TestFromTheEnvironment:
    def test_invalid_pattern_in_environment_redacts_prompts(self, receiver, monkeypatch, caplog):
        monkeypatch.setenv("LLAMATELEMETRY_REDACT_PATTERNS", "emial,email")
        init(otlp_endpoint=receiver.url)
        record()
        assert exported_attributes(receiver) == {
            "gen_ai.prompt": "[REDACTED]",
            "mail": "[REDACTED]",
            "field": "x",
        }
        assert "Unknown pattern 'emial'" in caplog.text
        assert (
            "Invalid LLAMATELEMETRY_REDACT_PATTERNS, redacting prompts and completions"
            in caplog.text
        )

    def test_zero_code_setup_redacts_spans_and_logs(self, receiver):
        program = """
            import logging
            from opentelemetry import trace, _logs
            content = {"gen_ai.prompt": "c4n4ry", "mail": "a@example.com", "field": "x", "n": 1}
            trace.get_tracer("t").start_span("one", attributes=content).end()
            _logs.get_logger("t").emit(body={"prompt": "c4n4ry"}, attributes=content)
        """
        done = run(
            program,
            "opentelemetry-instrument",
            sys.executable,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            OTEL_RESOURCE_ATTRIBUTES="owner=a@example.com",
            LLAMATELEMETRY_REDACT_PROMPTS="true",
            LLAMATELEMETRY_REDACT_PATTERNS="email,phone",
            LLAMATELEMETRY_REDACT_KEYS="fie*",
        )
        assert done.returncode == 0, done.stderr
        got = repr(receiver.messages)
        assert receiver.spans() == ["one"]
        assert len(receiver.messages["logs"]) == 1
        assert "c4n4ry" not in got
        assert "example.com" not in got
        assert got.count("[REDACTED]") >= 3 + 1 + 3 + 1

    def test_hash_mode_without_key_in_environment_replaces_text(
        self, receiver, monkeypatch, caplog
    ):
        monkeypatch.setenv("LLAMATELEMETRY_REDACT_MODE", "hash")
        monkeypatch.setenv("LLAMATELEMETRY_REDACT_PROMPTS", "true")
        init(otlp_endpoint=receiver.url)
        record()
        assert exported_attributes(receiver)["gen_ai.prompt"] == "[REDACTED]"
        assert "needs redact_hash_key" in caplog.text


OWN_PROVIDERS = """
    import os, sys
    from opentelemetry import _logs, metrics, trace
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    resource = Resource({"owner": "a@example.com"})
    spans, logs, points = InMemorySpanExporter(), InMemoryLogRecordExporter(), InMemoryMetricReader()
    traced = TracerProvider(resource=resource)
    traced.add_span_processor(SimpleSpanProcessor(spans))
    logged = LoggerProvider(resource)
    logged.add_log_record_processor(SimpleLogRecordProcessor(logs))
    trace.set_tracer_provider(traced)
    _logs.set_logger_provider(logged)
    metrics.set_meter_provider(MeterProvider([points], resource))
    def record():
        spans.clear(); logs.clear()
        traced.get_tracer("t").start_span("s", attributes={"prompt": "c4n4ry"}).end()
        logged.get_logger("t").emit(body="a@example.com", attributes={"prompt": "c4n4ry"})
        metrics.get_meter("t").create_counter("c").add(1)
        return (spans.get_finished_spans()[0].to_json() + logs.get_finished_logs()[0].to_json()
                + points.get_metrics_data().to_json())
"""


def test_init_redacts_on_application_providers_until_shutdown():
    done = run(
        OWN_PROVIDERS
        + """
    assert "c4n4ry" in record()
    import llamatelemetry
    llamatelemetry.init(redact_prompts=True, redact_patterns=["email"])
    got = record()
    assert "c4n4ry" not in got and "example.com" not in got, got
    # In a forked child the SDK detects the process resource again, the command included.
    sys.orig_argv[0] = "a@example.com"
    if os.fork() == 0:
        got = record()
        os._exit("c4n4ry" in got or "example.com" in got)
    assert os.wait()[1] == 0
    assert llamatelemetry.shutdown()
    assert "c4n4ry" in record()
    """,
        OTEL_EXPERIMENTAL_RESOURCE_DETECTORS="process",
        PYTHONWARNINGS="ignore::DeprecationWarning",  # of a fork in a process with threads
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_redaction_applies_to_declarative_setup(tmp_path, receiver):
    path = tmp_path / "otel.yaml"
    path.write_text(
        textwrap.dedent(f"""
        file_format: "1.0"
        resource:
          attributes: [{{name: owner, value: a@example.com}}]
        tracer_provider:
          processors:
            - simple: {{exporter: {{otlp_http: {{endpoint: "{receiver.url}/v1/traces"}}}}}}
        meter_provider:
          readers:
            - periodic: {{exporter: {{otlp_http: {{endpoint: "{receiver.url}/v1/metrics"}}}}}}
        logger_provider:
          processors:
            - simple: {{exporter: {{otlp_http: {{endpoint: "{receiver.url}/v1/logs"}}}}}}
        """)
    )
    program = """
        from opentelemetry import _logs, metrics, trace
        trace.get_tracer("t").start_span("one", attributes={"input.value": "c4n4ry"}).end()
        _logs.get_logger("t").emit(body="a@example.com", attributes={"prompt": "c4n4ry"})
        metrics.get_meter("t").create_counter("c").add(1)
    """
    done = run(
        program,
        "opentelemetry-instrument",
        sys.executable,
        OTEL_CONFIG_FILE=str(path),
        LLAMATELEMETRY_REDACT_PROMPTS="true",
        LLAMATELEMETRY_REDACT_PATTERNS="pii",
    )
    assert done.returncode == 0, done.stderr
    assert all(receiver.messages.values())
    got = repr(receiver.messages)
    assert "c4n4ry" not in got
    assert "example.com" not in got
    assert {receiver.resources(signal)[0]["owner"] for signal in receiver.messages} == {
        "[REDACTED]"
    }


@pytest.mark.parametrize(
    "options",
    [
        {"redact_patterns": ["email"], "redact_keys": ["gen_ai.agent.name"]},
        {
            "span_processors": [
                RedactionSpanProcessor(patterns=["email"], redact_keys=["*.agent.name"])
            ]
        },
    ],
    ids=["options", "processor"],
)
def test_names_in_trace_graph_are_redacted(options, receiver):
    init(
        otlp_endpoint=receiver.url,
        service_name=f"shop of {MAIL}",
        enable_trace_graphs=True,
        **options,
    )
    pipeline = PipelineTracer()
    with pipeline.pipeline(f"pipeline of {MAIL}"), pipeline.stage(f"stage of {MAIL}"):
        with pipeline.agent("critic"), pipeline.tool(f"tool of {MAIL}"):
            pass
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": f"model of {MAIL}"}
        trace.get_tracer("test").start_span("chat", attributes=attributes).end()
    nodes = {(node.kind, node.name) for node in trace_graph().nodes}
    assert nodes == {
        ("service", "shop of [REDACTED]"),
        ("pipeline", "pipeline of [REDACTED]"),
        ("stage", "stage of [REDACTED]"),
        ("agent", "[REDACTED]"),
        ("tool", "tool of [REDACTED]"),
        ("model", "model of [REDACTED]"),
    }


def test_scope_names_of_spans_and_logs_are_redacted(receiver):
    init(otlp_endpoint=receiver.url, redact_patterns=["email"])
    trace.get_tracer(f"app of {MAIL}").start_span("work").end()
    _logs.get_logger(f"app of {MAIL}").emit(body="done")
    assert flush()
    span_scope = receiver.messages["traces"][-1].resource_spans[0].scope_spans[0].scope
    log_scope = receiver.messages["logs"][-1].resource_logs[0].scope_logs[0].scope
    assert (span_scope.name, log_scope.name) == ("app of [REDACTED]",) * 2
