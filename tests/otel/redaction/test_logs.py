"""`RedactionLogProcessor` on a plain SDK provider, in front of an exporter."""

from __future__ import annotations

import logging

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.otel import RedactionLogProcessor
from llamatelemetry.otel.redaction import fail_closed
from llamatelemetry.otel.redaction.logs import _bounded_attributes
from llamatelemetry.otel.redaction.redactor import Redaction

GONE = "[REDACTED]"
SECRET = "c4n4ry-7f3a"


class Pipeline:
    def __init__(self, *processors):
        self.exporter = InMemoryLogRecordExporter()
        self.provider = LoggerProvider(Resource({"team": SECRET}), shutdown_on_exit=False)
        for processor in (*processors, SimpleLogRecordProcessor(self.exporter)):
            self.provider.add_log_record_processor(processor)

    def emit(self, body=None, attributes=None, logger="app", **options):
        self.provider.get_logger(logger).emit(body=body, attributes=attributes, **options)
        return self.last()

    def last(self):
        return self.exporter.get_finished_logs()[-1]


def redacted_body(body, processor=None, **options):
    return Pipeline(processor or RedactionLogProcessor()).emit(body, **options).log_record.body


def test_log_processor_redacts_attributes_exception_and_resource():
    pipeline = Pipeline(RedactionLogProcessor(redact_keys=["team"]))
    record = pipeline.emit(
        "failed", {"prompt": SECRET, "n": 1, "deep": {"team": SECRET}}, exception=ValueError(SECRET)
    )
    assert SECRET not in record.to_json()
    attributes = record.log_record.attributes
    assert attributes["exception.type"] == "ValueError"
    assert attributes["exception.message"] == GONE
    assert attributes["prompt"] == GONE
    assert attributes["n"] == 1
    assert attributes["deep"] == {"team": GONE}
    assert dict(record.resource.attributes) == {"team": GONE}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"role": "user", "content": SECRET}, {"role": "user", "content": GONE}),
        (
            {"index": 0, "finish_reason": "stop", "message": {"content": SECRET, "role": "x"}},
            {"index": 0, "finish_reason": "stop", "message": {"content": GONE, "role": "x"}},
        ),
        (SECRET, GONE),
        (None, None),
    ],
)
def test_log_processor_redacts_body_of_gen_ai_event(body, expected):
    assert redacted_body(body, event_name="gen_ai.user.message") == expected
    assert redacted_body(body, attributes={"event.name": "gen_ai.choice"}) == expected


def test_log_processor_applies_keys_and_patterns_inside_body():
    processor = RedactionLogProcessor(False, redact_keys=["pin"], patterns=["email"])
    body = {"to": "a@example.com", "pin": 1, "list": ["a@example.com", {"cookie": "x"}], "n": 1}
    expected = {"to": GONE, "pin": GONE, "list": [GONE, {"cookie": GONE}], "n": 1}
    found = redacted_body(body, processor)
    assert {**found, "list": list(found["list"])} == expected


def test_log_processor_redacts_debug_records_of_http_and_model_libraries():
    debug, info = SeverityNumber.DEBUG, SeverityNumber.INFO
    line = f"Request options: {SECRET}"
    assert redacted_body(line, logger="openai._base_client", severity_number=debug) == GONE
    assert (
        redacted_body("HTTP Request: POST /", logger="httpx", severity_number=info)
        == "HTTP Request: POST /"
    )
    assert redacted_body(line, logger="app", severity_number=debug) == line


@pytest.mark.filterwarnings("ignore:.LoggingHandler. in:DeprecationWarning")
class TestLoggingOfPython:
    @pytest.fixture
    def pipeline(self):
        pipeline = Pipeline(RedactionLogProcessor())
        handler = LoggingHandler(logger_provider=pipeline.provider)
        logger = logging.getLogger("tests.app")
        logger.addHandler(handler)
        pipeline.handler, pipeline.logger = handler, logger
        yield pipeline
        logger.removeHandler(handler)

    def test_log_processor_redacts_exception_message_inside_log_message(self, pipeline):
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            pipeline.logger.exception("it failed: %s", error)
        record = pipeline.last()
        assert record.log_record.body == f"it failed: {GONE}"
        assert SECRET not in record.to_json().replace(f'"team": "{SECRET}"', "")

    def test_log_processor_redacts_stack_trace_inside_log_message(self, pipeline):
        pipeline.handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        try:
            raise ValueError(SECRET)
        except ValueError:
            pipeline.logger.exception("failed")
        body = pipeline.last().log_record.body
        assert SECRET not in body
        assert body.startswith("ERROR failed\nTraceback (most recent call last):\n")
        assert body.endswith(GONE)


def test_log_processor_leaves_record_of_application_unchanged():
    pipeline = Pipeline(RedactionLogProcessor())
    record = LogRecord(body={"prompt": SECRET}, attributes={"prompt": SECRET})
    pipeline.provider.get_logger("app").emit(record)
    assert record.body == {"prompt": SECRET}
    assert dict(record.attributes) == {"prompt": SECRET}
    assert pipeline.last().log_record.body == {"prompt": GONE}


def test_log_processor_alone_does_not_enable_logger():
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(RedactionLogProcessor())
    assert not provider.get_logger("app").enabled()
    assert Pipeline(RedactionLogProcessor()).provider.get_logger("app").enabled()


def test_log_processor_drops_text_when_it_fails(monkeypatch, caplog):
    fail_closed._logged.clear()

    def fail(self, text):
        raise RuntimeError(text)

    monkeypatch.setattr(Redaction, "text", fail)
    record = Pipeline(RedactionLogProcessor()).emit(SECRET, {"a": SECRET, "n": 1})
    assert SECRET not in record.to_json()
    assert dict(record.log_record.attributes) == {"n": 1, "llamatelemetry.redaction.failed": True}
    assert SECRET not in caplog.text


def test_log_processor_from_config_uses_redaction_options():
    config = LlamaTelemetryConfig(redact_patterns=["email"])
    processor = RedactionLogProcessor.from_config(config)
    assert redacted_body("a@example.com", processor) == GONE
    assert RedactionLogProcessor.from_config(LlamaTelemetryConfig()) is None


def test_copied_attributes_keep_the_number_of_dropped_ones():
    given = BoundedAttributes(maxlen=1, attributes={"a": 1, "b": 2, "c": 3}, immutable=False)
    copied = _bounded_attributes(given, {"c": 4})
    assert (dict(copied), copied.dropped) == ({"c": 4}, 2)


def test_stripped_error_has_its_class_and_traceback_without_its_text():
    with pytest.raises(ValueError, match=SECRET) as raised:
        int(SECRET)
    stripped = fail_closed.strip_message(raised.value)
    assert stripped.__traceback__ is raised.value.__traceback__
    assert isinstance(stripped, ValueError)
    assert (type(stripped).__name__, type(stripped).__module__) == ("ValueError", "builtins")
    assert SECRET not in str(stripped)
    assert stripped.args == ()
