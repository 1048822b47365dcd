"""The OTLP encoding of log records, compared with that of OpenTelemetry's exporters."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from llamatelemetry.otel.export.log_encoder import encode_logs


@pytest.fixture
def emitted():
    """Yield a function that emits a record and returns all exported records."""
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(Resource({"service.name": "a"}, "https://schema"))
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))

    def emit(scope: str = "scope", **options):
        provider.get_logger(scope, "1", "https://scope", {"b": True}).emit(**options)
        return list(exporter.get_finished_logs())

    yield emit
    provider.shutdown()


RECORDS = [
    {"body": "text"},
    {"body": {"map": [1, 2.5, None, True, b"bytes", {"nested": "x"}]}},
    {
        "timestamp": 1,
        "observed_timestamp": 2,
        "severity_number": SeverityNumber.WARN,
        "severity_text": "WARN",
        "event_name": "event",
        "attributes": {"a": 1, "b": "x", "c": (1, 2), "d": {"e": None}, "f": float("nan")},
    },
    {},
]


@pytest.mark.parametrize("options", RECORDS)
def test_encode_logs_equals_encoder_of_opentelemetry(options, emitted):
    module = pytest.importorskip("opentelemetry.exporter.otlp.proto.common._log_encoder")
    emitted(**options)
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    with trace.use_span(tracer.start_span("s")):
        records = emitted("other scope", **options)
    expected = module.encode_logs(records)
    assert encode_logs(records).SerializeToString() == expected.SerializeToString()


def test_encode_logs_keeps_record_without_attribute_that_is_not_encodable(emitted, caplog):
    records = emitted(body="x", attributes={"too large": 2**70, "a": 1})
    (record,) = encode_logs(records).resource_logs[0].scope_logs[0].log_records
    assert [each.key for each in record.attributes] == ["a"]
    assert "Cannot encode log attribute too large" in caplog.text
