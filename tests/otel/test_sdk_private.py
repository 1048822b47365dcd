"""Every private name of OpenTelemetry: it exists today, and telemetry is recorded without it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, InMemoryLogRecordExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llamatelemetry.otel._sdk_private import PRIVATE_NAMES, is_missing
from tests.support.otlp_receiver import http_receiver
from tests.support.selection import slow_except

ROOT = Path(__file__).parents[2]
# One call to a model, one log record and a flush, after the name was renamed.
PROGRAM = """
    import json, logging, sys
    from tests.otel.renaming import rename
    identifier, module, endpoint = sys.argv[1:]
    if identifier:
        rename(identifier, module)
    if module.startswith("opentelemetry.configuration"):
        import opentelemetry.configuration
    warnings = []
    class Collect(logging.Handler):
        def emit(self, record):
            warnings.append(record.getMessage())
    logging.getLogger().addHandler(Collect(logging.WARNING))

    import llamatelemetry
    llamatelemetry.init(
        "shop", otlp_endpoint=endpoint, capture_content="span_only", redact_patterns=["email"]
    )
    import openai
    from opentelemetry import _logs
    from tests.support.model_server import model_server
    with model_server() as url, openai.OpenAI(api_key="k", base_url=url) as client:
        messages = [{"role": "user", "content": "I am a@b.example"}]
        client.chat.completions.create(model="smol", messages=messages)
    _logs.get_logger("test").emit(body="a record of a@b.example")
    flushed = llamatelemetry.flush(30)
    print(json.dumps({"flushed": flushed, "shut_down": llamatelemetry.shutdown(30), "warnings": warnings}))
"""


@pytest.fixture(scope="module")
def providers():
    """Yield the SDK's providers by signal, each with the parts that the distro uses."""
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter(out=io.StringIO()))
    meters = MeterProvider([reader], shutdown_on_exit=False)
    loggers = LoggerProvider(shutdown_on_exit=False)
    loggers.add_log_record_processor(BatchLogRecordProcessor(InMemoryLogRecordExporter()))
    created = {"traces": tracers, "metrics": meters, "logs": loggers}
    yield created
    for provider in created.values():
        provider.shutdown()


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_installed_opentelemetry_has_private_name(name, providers):
    if name.startswith("opentelemetry.configuration"):
        pytest.importorskip("opentelemetry.configuration")
    assert not is_missing(name, providers)


def recorded(name: str) -> tuple[dict, dict]:
    """Run the program without the name. Return its output and the telemetry that arrived."""
    module = name.partition(":")[0] if ":" in name else ""
    identifier = re.split("[.:]", name)[-1]
    with http_receiver() as receiver:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), identifier, module, receiver.url],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        # The instrumentation of the HTTP client has a span, too.
        calls = [
            span
            for message in receiver.messages["traces"]
            for scope in message.resource_spans[0].scope_spans
            for span in scope.spans
            if span.name == "chat smol"
        ]
        telemetry = {
            "spans": [
                {each.key: each.value.string_value for each in span.attributes} for span in calls
            ],
            "metrics": receiver.metrics(),
            "logs": receiver.logs(),
            "service": {each["service.name"] for each in receiver.resources("logs")},
        }
    return json.loads(done.stdout.splitlines()[-1]), telemetry


@pytest.fixture(scope="module")
def expected():
    output, telemetry = recorded("")
    assert output == {"flushed": True, "shut_down": True, "warnings": []}
    assert len(telemetry["spans"]) == 1
    assert telemetry["spans"][0]["gen_ai.operation.name"] == "chat"
    assert telemetry["logs"] == ["a record of [REDACTED]"]
    assert "gen_ai.client.operation.duration" in telemetry["metrics"]
    return telemetry


@pytest.mark.parametrize(
    "name", slow_except({"TracerProvider._active_span_processor"}, PRIVATE_NAMES)
)
def test_telemetry_is_complete_with_one_warning_when_private_name_is_renamed(name, expected):
    output, telemetry = recorded(name)
    assert telemetry == expected
    # Several classes have a `_lock`, and the test renames them all.
    identifier = name.rpartition(".")[2]
    renamed = [n for n in PRIVATE_NAMES if n == name or n.endswith(f".{identifier}")]
    assert len(output["warnings"]) == len(renamed)
    for each, warning in zip(renamed, output["warnings"], strict=True):
        assert f"does not have {each}: {PRIVATE_NAMES[each]}." in warning
    assert output["flushed"]
    assert output["shut_down"]


@pytest.mark.parametrize(
    "name",
    slow_except(
        {"_attributes"},
        [
            *("_attributes", "_dict", "_immutable", "_name", "_status", "_events", "_links"),
            *("_resource", "_instrumentation_scope"),
        ],
    ),
)
def test_telemetry_is_complete_without_warning_when_field_of_span_is_renamed(name, expected):
    output, telemetry = recorded(f"Span.{name}")
    assert telemetry == expected
    assert output == {"flushed": True, "shut_down": True, "warnings": []}
