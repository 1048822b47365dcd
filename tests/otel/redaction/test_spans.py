"""`RedactionSpanProcessor` on plain SDK providers: coverage, and position among processors."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import threading

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    ConcurrentMultiSpanProcessor,
    SpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, Status, StatusCode

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.otel import RedactionSpanProcessor
from llamatelemetry.otel.redaction import fail_closed, spans
from llamatelemetry.otel.redaction.redactor import Redaction
from llamatelemetry.otel.redaction.rules import Rules
from llamatelemetry.otel.redaction.secret_spans import SecretsSpanProcessor

GONE = "[REDACTED]"
SECRET = "c4n4ry-7f3a"


class Exporter(InMemorySpanExporter):
    """Also keeps the JSON of each span at export time, before later processors change it."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def export(self, spans):
        with contextlib.suppress(TypeError):  # the SDK cannot serialize bytes
            self.texts += [span.to_json() for span in spans]
        return super().export(spans)


class Pipeline:
    """A provider with an exporter, and processors before and after it."""

    def __init__(self, *front, behind=(), resource=None, chain=None):
        self.exporter = Exporter()
        self.provider = TracerProvider(
            resource=Resource(resource or {}), shutdown_on_exit=False, active_span_processor=chain
        )
        for processor in (*front, SimpleSpanProcessor(self.exporter), *behind):
            self.provider.add_span_processor(processor)
        self.tracer = self.provider.get_tracer("app")

    def record(self, attributes=None, name="work", scope="app", **options):
        span = self.provider.get_tracer(scope).start_span(name, attributes=attributes, **options)
        span.end()
        return self.last()

    def last(self):
        return self.exporter.get_finished_spans()[-1]


def redacted(attributes, *arguments, **options):
    """Return the attributes that an exporter after the processor receives."""
    pipeline = Pipeline(RedactionSpanProcessor(*arguments, **options))
    return dict(pipeline.record(attributes).attributes)


def export_secret_in_every_field(pipeline):
    """End a span with the secret in every field. Return the exported JSON."""
    other = pipeline.tracer.start_span("other")
    link = Link(other.get_span_context(), {"input.value": SECRET})
    with (
        contextlib.suppress(ValueError),
        pipeline.tracer.start_as_current_span("work", links=[link]) as span,
    ):
        span.set_attribute("gen_ai.prompt", SECRET)
        span.add_event("gen_ai.content.prompt", {"gen_ai.prompt": SECRET})
        raise ValueError(SECRET)
    return pipeline.exporter.texts[-1]


class TestOrder:
    def test_exporter_receives_secret_without_redaction(self):
        assert export_secret_in_every_field(Pipeline()).count(SECRET) >= 6

    def test_processor_redacts_when_added_before_exporter(self):
        text = export_secret_in_every_field(Pipeline(RedactionSpanProcessor()))
        assert SECRET not in text
        assert GONE in text

    def test_processor_redacts_when_added_after_exporter(self):
        """Check that position does not matter: the SDK calls all `OnEnding` before any `on_end`."""
        text = export_secret_in_every_field(Pipeline(behind=[RedactionSpanProcessor()]))
        assert SECRET not in text
        assert GONE in text

    @pytest.mark.parametrize("front", [True, False])
    def test_processors_redact_in_concurrent_pipeline(self, front):
        processors = [RedactionSpanProcessor(), RedactionSpanProcessor(patterns=["email"])]
        pipeline = Pipeline(
            *(processors if front else ()),
            behind=() if front else processors,
            chain=ConcurrentMultiSpanProcessor(4),
        )
        assert SECRET not in export_secret_in_every_field(pipeline)
        pipeline.record({"mail": "a@example.com", "prompt": SECRET})
        found = json.loads(pipeline.exporter.texts[-1])
        assert found["attributes"] == {"mail": GONE, "prompt": GONE}

    def test_processor_redacts_in_sdk_without_on_ending(self, monkeypatch):
        monkeypatch.setattr(RedactionSpanProcessor, "_on_ending", SpanProcessor._on_ending)
        assert SECRET not in export_secret_in_every_field(Pipeline(RedactionSpanProcessor()))

    @pytest.mark.parametrize("method", ["_on_ending", "on_end"])
    def test_processor_redacts_attributes_added_by_earlier_processor_at_span_end(self, method):
        class Adding(SpanProcessor):
            pass

        def add(self, span):
            span._attributes._immutable = False
            span._attributes["late.prompt"] = SECRET
            span._attributes["gen_ai.prompt"] = SECRET
            span._attributes._immutable = True

        setattr(Adding, method, add)
        pipeline = Pipeline(Adding(), RedactionSpanProcessor(redact_keys=["late.*"]))
        found = pipeline.record({"kept": 1}).attributes
        assert dict(found) == {"kept": 1, "late.prompt": GONE, "gen_ai.prompt": GONE}

    def test_two_processors_apply_both_rules(self):
        front = RedactionSpanProcessor(False, redact_keys=["a"], replacement="A")
        back = RedactionSpanProcessor(False, redact_keys=["b"], replacement="B")
        pipeline = Pipeline(front, behind=[back])
        pipeline.record({"a": "x", "b": "x", "c": "x"})
        found = json.loads(pipeline.exporter.texts[-1])
        assert found["attributes"] == {"a": "A", "b": "B", "c": "x"}

    def test_processor_leaves_link_of_application_unchanged(self):
        pipeline = Pipeline(RedactionSpanProcessor())
        context = pipeline.tracer.start_span("other").get_span_context()
        link = Link(context, {"prompt": SECRET})
        pipeline.record(links=[link])
        assert dict(link.attributes) == {"prompt": SECRET}
        (exported,) = pipeline.last().links
        assert dict(exported.attributes) == {"prompt": GONE}
        assert exported.context is context


class TestCoverage:
    @pytest.mark.parametrize(
        "name",
        [
            *("gen_ai.prompt", "gen_ai.completion", "gen_ai.input.messages"),
            *("gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.tool.definitions"),
            *("gen_ai.tool.call.arguments", "gen_ai.tool.call.result"),
            *("gen_ai.prompt.0.content", "gen_ai.completion.0.tool_calls.0.arguments"),
            *("gen_ai.prompt.variable.city", "gen_ai.retrieval.query.text"),
            *("traceloop.entity.input", "traceloop.entity.output", "llm.prompts"),
            *("llm.request.functions.0.description", "gen_ai.content.prompt"),
            *("input.value", "output.value", "llm.input_messages.0.message.content"),
            "llm.input_messages.0.message.contents.0.message_content.text",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments",
            *("llm.prompt_template.variables", "llm.invocation_parameters", "llm.tools.0.tool"),
            *("embedding.embeddings.0.embedding.text", "retrieval.documents.1.document.content"),
            *("reranker.query", "langfuse.observation.input", "mlflow.spanOutputs"),
            *("ai.prompt.messages", "ai.toolCall.args", "all_messages_events", "tool_response"),
            *("braintrust.output_json", "prompt", "http.request.body.content"),
        ],
    )
    def test_processor_redacts_content_attributes_of_all_instrumentations(self, name):
        assert redacted({name: SECRET}) == {name: GONE}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("gen_ai.prompt.name", "greeting"),
            ("gen_ai.prompt.version", "1.2"),
            ("gen_ai.prompt.0.role", "user"),
            ("gen_ai.completion.0.finish_reason", "stop"),
            ("gen_ai.completion.0.tool_calls.0.name", "weather"),
            ("llm.input_messages.0.message.role", "user"),
            ("retrieval.documents.0.document.score", 0.5),
            ("gen_ai.request.model", "smol"),
            ("gen_ai.usage.input_tokens", 12),
            ("gen_ai.tool.name", "weather"),
            ("llm.model_name", "smol"),
            ("input.mime_type", "application/json"),
            ("db.statement", "SELECT 1"),
            ("error.type", "429"),
        ],
    )
    def test_processor_keeps_attributes_without_content(self, name, value):
        assert redacted({name: value}) == {name: value}

    def test_processor_redacts_label_with_spaces(self):
        assert redacted({"gen_ai.prompt.0.role": "my secret is x"}) == {
            "gen_ai.prompt.0.role": GONE
        }

    @pytest.mark.parametrize(
        "value", [[SECRET, SECRET], (1.0, 2.0), {"a": [SECRET]}, 42, b"bytes", [{"a": SECRET}]]
    )
    def test_processor_redacts_content_of_any_type(self, value):
        found = redacted({"gen_ai.tool.call.result": value})["gen_ai.tool.call.result"]
        assert SECRET not in repr(found)
        assert "42" not in repr(found)
        assert GONE in repr(found)

    def test_redact_keys_match_exact_names_and_globs_in_any_case(self):
        given = {"user.name": "x", "User.Id": 7, "users": "x", "a.token.b": ["x", "y"]}
        found = redacted(given, redact_keys=["user.*", "*.token.*"])
        assert found == {"user.name": GONE, "User.Id": GONE, "users": "x", "a.token.b": (GONE,) * 2}

    def test_redact_keys_match_names_inside_maps_and_json(self):
        given = {
            "map": {"password": "x", "deep": [{"pin": 1}]},
            "json": '{"pin": 1, "kept": [1, "x"]}',
            "path": {"to": {"it": "x", "other": "x"}},
        }
        found = redacted(given, False, redact_keys=["pin", "path.to.it"])
        assert found == {
            "map": {"password": GONE, "deep": ({"pin": GONE},)},
            "json": f'{{"pin":"{GONE}","kept":[1,"x"]}}',
            "path": {"to": {"it": GONE, "other": "x"}},
        }

    def test_patterns_match_in_texts_arrays_maps_json_numbers_bytes_and_names(self):
        mail, card = "a@example.com", 4111111111111111
        given = {
            "text": f"to {mail}.",
            "array": [mail, "x"],
            "map": {"to": {mail: mail}},
            "json": json.dumps({"to": [mail], "card": card, "nested": json.dumps([mail])}),
            "card": card,
            "bytes": mail.encode(),
            "counter": 1732289000123456789,
        }
        pipeline = Pipeline(RedactionSpanProcessor(False, patterns=["email", "credit_card"]))
        span = pipeline.record(given, name=f"GET /users/{mail}")
        assert span.name == f"GET /users/{GONE}"
        assert dict(span.attributes) == {
            "text": f"to {GONE}.",
            "array": (GONE, "x"),
            "map": {"to": {GONE: GONE}},
            "json": f'{{"to":["{GONE}"],"card":"{GONE}","nested":"[\\"{GONE}\\"]"}}',
            "card": GONE,
            "bytes": GONE.encode(),
            "counter": 1732289000123456789,
        }

    def test_patterns_match_in_bytes_that_are_not_utf_8(self):
        found = redacted({"bytes": b"\xff a@example.com"}, patterns=["email"])["bytes"]
        assert isinstance(found, bytes)
        assert found.endswith(f" {GONE}".encode())

    @pytest.mark.parametrize("number", [10**8, -(10**8), 10**8 - 1, 1 - 10**8])
    def test_patterns_match_in_integers_of_nine_digits(self, number):
        found = redacted({"n": number}, patterns=[r"\d+"])["n"]
        assert (found == number) == (abs(number) < 10**8)

    @pytest.mark.parametrize("slash", ["/", "\\/", "%2F", "\\u002f", "&#47;", "&sol;"])
    def test_patterns_match_behind_escapes(self, slash):
        found = redacted({"log": f"GET https:{slash}{slash}alice:{SECRET}@example.com: 200"})["log"]
        assert SECRET not in found
        assert found.startswith("GET https:")
        assert found.endswith("@example.com: 200")

    def test_json_without_match_stays_identical(self):
        text = '{ "a" : "\\u00e4",\n "b": 1.0 }'
        assert redacted({"json": text}, patterns=["email"]) == {"json": text}

    def test_duplicate_json_key_does_not_hide_match(self):
        text = '{"a": "x@example.com", "a": "y"}'
        found = redacted({"json": text}, patterns=["email"])["json"]
        assert found == f'{{"a": "{GONE}", "a": "y"}}'

    def test_json_too_deep_for_parser_is_searched_as_text(self):
        text = "[" * 5000 + '"x@example.com"' + "]" * 5000
        assert "example.com" not in redacted({"json": text}, patterns=["email"])["json"]

    def test_json_nested_deeper_than_limit_is_replaced_as_whole(self):
        text = "[" * 60 + '"kept"' + "]" * 60
        found = redacted({"json": text}, patterns=["email"])["json"]
        assert "kept" not in found
        json.loads(found)

    def test_processor_redacts_resource_and_scope(self):
        pipeline = Pipeline(
            RedactionSpanProcessor(patterns=["email"], redact_keys=["team"]),
            resource={"owner": "a@example.com", "team": "x", "service.name": "shop"},
        )
        tracer = pipeline.provider.get_tracer(
            "app of b@example.com",
            "1 c@example.com",
            "https://d@example.com/",
            {"by": "a@example.com"},
        )
        tracer.start_span("work").end()
        span = pipeline.last()
        scope = span.instrumentation_scope
        assert (scope.name, scope.version) == (f"app of {GONE}", f"1 {GONE}")
        assert "d@example.com" not in scope.schema_url
        assert dict(span.resource.attributes) == {
            "owner": GONE,
            "team": GONE,
            "service.name": "shop",
        }
        assert dict(span.instrumentation_scope.attributes) == {"by": GONE}
        assert (
            pipeline.record().resource is span.resource
        )  # exporters group spans by resource identity

    def test_processor_redacts_secrets_with_any_rules(self):
        given = {
            "http.request.header.authorization": ["Bearer x"],
            "http.request.header.x-api-key": ["x"],
            "http.response.header.set_cookie": ["a=b"],
            "gen_ai.headers": "{'authorization': 'x'}",
            "url.full": "https://me:pw@host/v1?key=abc&q=1",
            "url.query": "api-key=abc&q=1",
            "settings": '{"api_key": "x", "model": "m"}',
        }
        assert redacted(given, False) == {
            "http.request.header.authorization": (GONE,),
            "http.request.header.x-api-key": (GONE,),
            "http.response.header.set_cookie": (GONE,),
            "gen_ai.headers": GONE,
            "url.full": f"https://{GONE}@host/v1?key={GONE}&q=1",
            "url.query": f"api-key={GONE}&q=1",
            "settings": f'{{"api_key":"{GONE}","model":"m"}}',
        }

    def test_processor_keeps_dropped_counts(self):
        from opentelemetry.sdk.trace import SpanLimits

        exporter = InMemorySpanExporter()
        provider = TracerProvider(
            span_limits=SpanLimits(max_span_attributes=2, max_events=1), shutdown_on_exit=False
        )
        provider.add_span_processor(RedactionSpanProcessor())
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        span = provider.get_tracer("app").start_span("work", attributes={"a": 1, "b": 2, "c": 3})
        span.add_event("one")
        span.add_event("two")
        span.end()
        (found,) = exporter.get_finished_spans()
        assert (found.dropped_attributes, found.dropped_events) == (1, 1)


class TestErrors:
    def fail(self, processor, scope="app", error=None):
        pipeline = Pipeline(processor)
        error = error or ValueError(f"cannot answer {SECRET}")
        with (
            pytest.raises(type(error)),
            pipeline.provider.get_tracer(scope).start_as_current_span("work"),
        ):
            raise error
        return pipeline.last()

    def test_processor_keeps_only_error_class_of_error_texts(self):
        span = self.fail(RedactionSpanProcessor())
        assert span.status.description == f"ValueError: {GONE}"
        (event,) = span.events
        assert event.attributes["exception.type"] == "ValueError"
        assert event.attributes["exception.message"] == GONE

    def test_stack_trace_keeps_frames_without_source_lines(self):
        span = self.fail(RedactionSpanProcessor())
        lines = span.events[0].attributes["exception.stacktrace"].split("\n")
        assert lines[0] == "Traceback (most recent call last):"
        assert lines[-1] == GONE
        assert all(line.startswith('  File "') for line in lines[1:-1])
        assert f'"{__file__}"' in lines[-2]
        assert lines[-2].endswith("in fail")

    def test_error_message_that_imitates_stack_trace_is_redacted(self):
        forged = f'Traceback (most recent call last):\n  File "{SECRET}", line 1, in x\n'
        for message in (forged, f"\n{forged}", f'x\n  File "{SECRET}", line 1, in x'):
            span = self.fail(RedactionSpanProcessor(), error=ValueError(message))
            assert SECRET not in span.to_json()
        for text in (f"{SECRET}\n{forged}", f'    x\n  File "{SECRET}", line 1, in x'):
            given = {"exception.stacktrace": text}
            assert redacted(given) == {"exception.stacktrace": GONE}

    def test_stack_trace_without_header_keeps_frames(self):
        frames = '  File "app.py", line 1, in ask\n    ask("my secret")\n'
        given = {"exception.stacktrace": frames}
        expected = f'  File "app.py", line 1, in ask\n{GONE}'
        assert redacted(given) == {"exception.stacktrace": expected}

    def test_error_texts_lose_only_secrets_and_patterns_when_redact_prompts_is_off(self):
        error = ValueError("key sk-abcdefghijklmnopqrstuvwx of a@example.com is bad")
        span = self.fail(RedactionSpanProcessor(False, patterns=["email"]), error=error)
        expected = f"key {GONE} of {GONE} is bad"
        assert span.status.description == f"ValueError: {expected}"
        assert span.events[0].attributes["exception.message"] == expected
        assert expected in span.events[0].attributes["exception.stacktrace"]

    def test_status_of_llamatelemetry_plugin_stays(self):
        pipeline = Pipeline(RedactionSpanProcessor())
        for scope, is_kept in (("llamatelemetry_instrumentation_openai", True), ("app", False)):
            span = pipeline.provider.get_tracer(scope).start_span("chat")
            span.set_status(Status(StatusCode.ERROR, "openai.RateLimitError: HTTP 429"))
            span.end()
            described = pipeline.last().status.description
            assert described == ("openai.RateLimitError: HTTP 429" if is_kept else GONE)

    def test_status_keeps_error_class_at_its_start(self):
        pipeline = Pipeline(RedactionSpanProcessor())
        span = pipeline.tracer.start_span("x", attributes={"error.type": "lib.SomeError"})
        span.set_status(Status(StatusCode.ERROR, f"SomeError: {SECRET}"))
        span.end()
        assert pipeline.last().status.description == f"SomeError: {GONE}"


class TestHashes:
    @pytest.fixture
    def processor(self):
        config = LlamaTelemetryConfig(
            redact_prompts=True,
            redact_patterns=["email"],
            redact_mode="hash",
            redact_hash_key="k",
        )
        return RedactionSpanProcessor.from_config(config)

    def expected(self, text):
        return f"[HMAC:{hmac.new(b'k', text.encode(), hashlib.sha256).hexdigest()[:32]}]"

    def test_hash_mode_replaces_text_with_same_hmac_everywhere(self, processor):
        pipeline = Pipeline(processor, resource={"prompt": "hi"})
        messages = '[{"role":"user","parts":[{"type":"text","content":"hi"}]}]'
        span = pipeline.record({"prompt": "hi", "gen_ai.input.messages": messages, "m": "a@b.io!"})
        hidden = self.expected("hi")
        assert span.attributes["prompt"] == hidden
        assert span.attributes["gen_ai.input.messages"] == messages.replace("hi", hidden)
        assert span.attributes["m"] == self.expected("a@b.io") + "!"
        assert span.resource.attributes["prompt"] == hidden

    def test_hash_is_not_hashed_again_when_processor_adds_attribute(self, processor):
        class Adding(SpanProcessor):
            def on_end(self, span):
                span._attributes._immutable = False
                span._attributes["late"] = "a@b.io"

        pipeline = Pipeline(Adding(), processor)
        with (
            contextlib.suppress(ValueError),
            pipeline.tracer.start_as_current_span("work", attributes={"prompt": "hi"}) as span,
        ):
            span.add_event("event", {"prompt": "hi"})
            raise ValueError("bad")
        span = pipeline.last()
        assert span.attributes["prompt"] == self.expected("hi")
        assert span.attributes["late"] == self.expected("a@b.io")
        assert span.events[0].attributes["prompt"] == self.expected("hi")
        assert span.status.description == "ValueError: " + self.expected("bad")

    def test_pattern_that_matches_hashes_keeps_earlier_hashes(self):
        class Adding(SpanProcessor):
            def on_end(self, span):
                span._attributes._immutable = False
                span._attributes["late"] = 1

        config = LlamaTelemetryConfig(
            redact_patterns=["[0-9a-f]{4,}"], redact_mode="hash", redact_hash_key="k"
        )
        pipeline = Pipeline(Adding(), RedactionSpanProcessor.from_config(config))
        span = pipeline.tracer.start_span("work", attributes={"id": "is 123456"})
        span.set_status(Status(StatusCode.ERROR, "no 123456"))
        span.end()
        span = pipeline.last()
        assert span.attributes["late"] == 1
        assert span.attributes["id"] == "is " + self.expected("123456")
        assert span.status.description == "no " + self.expected("123456")

    def test_hash_of_other_process_is_not_hashed_again(self, processor):
        hashed = dict(Pipeline(processor).record({"prompt": "hi"}).attributes)
        assert dict(Pipeline(processor).record(hashed).attributes) == hashed

    def test_hash_mode_raises_without_key(self):
        config = LlamaTelemetryConfig(redact_prompts=True, redact_mode="hash")
        with pytest.raises(ValueError, match="redact_hash_key"):
            RedactionSpanProcessor.from_config(config)

    def test_repr_of_rules_hides_hash_key(self, processor):
        assert "k'" not in repr(processor.rules)


class TestFailClosed:
    @pytest.fixture
    def broken(self, monkeypatch):
        """Make redaction of any text raise an error that quotes the text."""
        fail_closed._logged.clear()

        def fail(self, text):
            raise RuntimeError(f"cannot redact {text}")

        monkeypatch.setattr(Redaction, "text", fail)
        return RedactionSpanProcessor()

    def test_processor_drops_all_text_when_redaction_fails(self, broken, caplog):
        pipeline = Pipeline(broken, resource={"r": SECRET})
        text = export_secret_in_every_field(pipeline)
        assert SECRET not in text
        span = pipeline.last()
        assert span.name == "redaction failed"
        assert (dict(span.resource.attributes), span.instrumentation_scope) == ({}, None)
        assert span.status.status_code is StatusCode.ERROR
        assert dict(span.attributes) == {"llamatelemetry.redaction.failed": True}

    def test_processor_keeps_numbers_when_redaction_fails(self, broken):
        span = Pipeline(broken).record({"n": 1, "x": 0.5, "b": False, "s": SECRET})
        assert dict(span.attributes) == {
            "n": 1,
            "x": 0.5,
            "b": False,
            "llamatelemetry.redaction.failed": True,
        }

    def test_failure_is_logged_once_without_error_message(self, broken, caplog):
        pipeline = Pipeline(broken)
        for _ in range(3):
            pipeline.record({"s": SECRET})
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "RuntimeError" in caplog.text
        assert "redactor.py" in caplog.text
        assert SECRET not in caplog.text

    def test_failure_raises_nothing_into_application(self, broken, monkeypatch):
        monkeypatch.setattr(spans, "_with_history", None)
        Pipeline(broken).record({"s": SECRET})

    @pytest.mark.parametrize("field", ["_attributes", "_name", "_events", "_resource"])
    def test_on_ending_drops_all_text_when_field_of_span_is_renamed(self, field):
        span = Pipeline(resource={"r": SECRET}).tracer.start_span(SECRET)
        span.set_attribute("gen_ai.prompt", SECRET)
        span.set_attribute("n", 1)
        span.add_event("gen_ai.content.prompt", {"gen_ai.prompt": SECRET})
        span.set_status(Status(StatusCode.ERROR, SECRET))
        renamed = f"renamed{field}"
        vars(span)[renamed] = vars(span).pop(field)
        RedactionSpanProcessor()._on_ending(span)
        texts = [str(getattr(each, "attributes", each)) for each in vars(span).values()]
        assert SECRET not in str(texts)
        assert span.status.status_code is StatusCode.ERROR
        attributes = getattr(
            span, "renamed_attributes" if field == "_attributes" else "_attributes"
        )
        assert dict(attributes) == {"n": 1, fail_closed.FAILED_ATTRIBUTE: True}

    @pytest.mark.parametrize("processor", [RedactionSpanProcessor, SecretsSpanProcessor])
    def test_on_ending_redacts_when_span_has_no_lock(self, processor):
        span = Pipeline().tracer.start_span("work", attributes={"app.password": SECRET})
        del span._lock
        processor()._on_ending(span)
        assert dict(span.attributes) == {"app.password": GONE}

    @pytest.mark.parametrize("processor", [RedactionSpanProcessor, SecretsSpanProcessor])
    def test_on_ending_raises_nothing_when_span_has_no_attributes(self, processor):
        span = Pipeline().tracer.start_span("work", attributes={"app.password": SECRET})
        del span._attributes
        processor()._on_ending(span)

    def test_pattern_over_time_limit_redacts_rest_of_span(self, caplog):
        runaway = "a" * 100 + "b"
        given = {"one": runaway, "two": "kept otherwise", "three": runaway, "n": 1}
        found = redacted(given, False, patterns=[r"(a|aa)+$"])
        assert found == {"one": GONE, "two": GONE, "three": GONE, "n": 1}
        assert "'(a|aa)+$' exceeded its time limit" in caplog.text
        assert runaway not in caplog.text


class TestArguments:
    def test_processor_accepts_single_text_for_lists(self):
        processor = RedactionSpanProcessor(False, "user", "email", "X")
        assert processor.rules.redact_keys == ("user",)
        assert [pattern.name for pattern in processor.rules.patterns] == ["email"]

    def test_processor_rejects_keys_and_replacement_that_are_not_text(self):
        with pytest.raises(TypeError, match="redact_keys"):
            RedactionSpanProcessor(redact_keys=[1])
        with pytest.raises(TypeError, match="replacement"):
            RedactionSpanProcessor(replacement=None)

    def test_from_config_returns_none_without_redaction_options(self):
        assert RedactionSpanProcessor.from_config(LlamaTelemetryConfig()) is None
        assert Rules.from_config(LlamaTelemetryConfig(redact_keys=["a"])) is not None


def test_processor_redacts_spans_of_many_threads():
    pipeline = Pipeline(RedactionSpanProcessor(patterns=["all"]))
    together = threading.Barrier(8)
    faults = []

    def run(n):
        together.wait()
        for i in range(50):
            pipeline.record({"prompt": SECRET, f"k{n}.{i}": f"a{n}{i}@example.com", "n": i})

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    exported = pipeline.exporter.get_finished_spans()
    assert len(exported) == 400
    assert not faults
    assert all("example.com" not in s.to_json() and SECRET not in s.to_json() for s in exported)


def test_name_classifier_limits_its_cache():
    from llamatelemetry.otel.redaction.attribute_names import NameClassifier

    names = NameClassifier()
    for n in range(10_000):
        names.kind(f"made.up.{n}")
    assert len(names._cache) < 5000
