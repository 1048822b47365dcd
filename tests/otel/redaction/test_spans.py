"""The span processor, on plain SDK providers: what it covers, wherever it stands."""

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

GONE = "[REDACTED]"
SECRET = "c4n4ry-7f3a"


class Exporter(InMemorySpanExporter):
    """Keeps also what each span said when it was exported: later nothing may be changed."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def export(self, spans):
        with contextlib.suppress(TypeError):  # the SDK's JSON knows no bytes
            self.texts += [span.to_json() for span in spans]
        return super().export(spans)


class Pipeline:
    """A provider with an exporter, and processors in front of it and behind."""

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
    """The attributes as they arrive at an exporter behind the processor."""
    pipeline = Pipeline(RedactionSpanProcessor(*arguments, **options))
    return dict(pipeline.record(attributes).attributes)


def leaving_everywhere(pipeline):
    """Ends a span that says the secret in every place; gives all that the exporter got."""
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
    def test_the_secret_would_be_found(self):
        assert leaving_everywhere(Pipeline()).count(SECRET) >= 6

    def test_in_front_of_the_exporter(self):
        text = leaving_everywhere(Pipeline(RedactionSpanProcessor()))
        assert SECRET not in text
        assert GONE in text

    def test_behind_the_exporter(self):
        """The SDK asks all processors about the ending of a span before any gets it."""
        text = leaving_everywhere(Pipeline(behind=[RedactionSpanProcessor()]))
        assert SECRET not in text
        assert GONE in text

    @pytest.mark.parametrize("front", [True, False])
    def test_in_a_pipeline_that_calls_its_processors_at_once(self, front):
        processors = [RedactionSpanProcessor(), RedactionSpanProcessor(patterns=["email"])]
        pipeline = Pipeline(
            *(processors if front else ()),
            behind=() if front else processors,
            chain=ConcurrentMultiSpanProcessor(4),
        )
        assert SECRET not in leaving_everywhere(pipeline)
        pipeline.record({"mail": "a@example.com", "prompt": SECRET})
        found = json.loads(pipeline.exporter.texts[-1])
        assert found["attributes"] == {"mail": GONE, "prompt": GONE}

    def test_in_an_sdk_that_does_not_tell_of_the_ending(self, monkeypatch):
        monkeypatch.setattr(RedactionSpanProcessor, "_on_ending", SpanProcessor._on_ending)
        assert SECRET not in leaving_everywhere(Pipeline(RedactionSpanProcessor()))

    @pytest.mark.parametrize("method", ["_on_ending", "on_end"])
    def test_what_an_earlier_processor_adds_to_a_span_that_has_ended(self, method):
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

    def test_two_of_them_apply_both_their_rules(self):
        front = RedactionSpanProcessor(False, redact_keys=["a"], replacement="A")
        back = RedactionSpanProcessor(False, redact_keys=["b"], replacement="B")
        pipeline = Pipeline(front, behind=[back])
        pipeline.record({"a": "x", "b": "x", "c": "x"})
        found = json.loads(pipeline.exporter.texts[-1])
        assert found["attributes"] == {"a": "A", "b": "B", "c": "x"}

    def test_a_link_that_the_application_keeps_is_left_as_it_is(self):
        pipeline = Pipeline(RedactionSpanProcessor())
        context = pipeline.tracer.start_span("other").get_span_context()
        link = Link(context, {"prompt": SECRET})
        pipeline.record(links=[link])
        assert dict(link.attributes) == {"prompt": SECRET}
        (left,) = pipeline.last().links
        assert dict(left.attributes) == {"prompt": GONE}
        assert left.context is context


class TestWhatIsCovered:
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
    def test_content_under_the_names_of_every_instrumentation(self, name):
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
    def test_what_is_no_content_stays(self, name, value):
        assert redacted({name: value}) == {name: value}

    def test_a_label_that_is_a_sentence_is_none(self):
        assert redacted({"gen_ai.prompt.0.role": "my secret is x"}) == {
            "gen_ai.prompt.0.role": GONE
        }

    @pytest.mark.parametrize(
        "value", [[SECRET, SECRET], (1.0, 2.0), {"a": [SECRET]}, 42, b"bytes", [{"a": SECRET}]]
    )
    def test_content_of_any_type(self, value):
        found = redacted({"gen_ai.tool.call.result": value})["gen_ai.tool.call.result"]
        assert SECRET not in repr(found)
        assert "42" not in repr(found)
        assert GONE in repr(found)

    def test_names_of_the_users_exact_and_with_a_star_in_any_case(self):
        given = {"user.name": "x", "User.Id": 7, "users": "x", "a.token.b": ["x", "y"]}
        found = redacted(given, redact_keys=["user.*", "*.token.*"])
        assert found == {"user.name": GONE, "User.Id": GONE, "users": "x", "a.token.b": (GONE,) * 2}

    def test_names_within_maps_and_json(self):
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

    def test_patterns_in_texts_arrays_maps_json_numbers_bytes_and_names(self):
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

    def test_json_in_which_nothing_is_found_stays_to_the_letter(self):
        text = '{ "a" : "\\u00e4",\n "b": 1.0 }'
        assert redacted({"json": text}, patterns=["email"]) == {"json": text}

    def test_a_name_that_json_has_twice_hides_nothing(self):
        text = '{"a": "x@example.com", "a": "y"}'
        found = redacted({"json": text}, patterns=["email"])["json"]
        assert found == f'{{"a": "{GONE}", "a": "y"}}'

    def test_json_so_deep_that_it_cannot_be_read_is_searched_as_text(self):
        text = "[" * 5000 + '"x@example.com"' + "]" * 5000
        assert "example.com" not in redacted({"json": text}, patterns=["email"])["json"]

    def test_what_is_nested_deeper_than_is_looked_goes_as_a_whole(self):
        text = "[" * 60 + '"kept"' + "]" * 60
        found = redacted({"json": text}, patterns=["email"])["json"]
        assert "kept" not in found
        json.loads(found)

    def test_the_resource_and_the_scope(self):
        pipeline = Pipeline(
            RedactionSpanProcessor(patterns=["email"], redact_keys=["team"]),
            resource={"owner": "a@example.com", "team": "x", "service.name": "shop"},
        )
        tracer = pipeline.provider.get_tracer("app", attributes={"by": "a@example.com"})
        tracer.start_span("work").end()
        span = pipeline.last()
        assert dict(span.resource.attributes) == {
            "owner": GONE,
            "team": GONE,
            "service.name": "shop",
        }
        assert dict(span.instrumentation_scope.attributes) == {"by": GONE}
        assert pipeline.record().resource is span.resource  # exporters group by it

    def test_secrets_whatever_the_rules(self):
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

    def test_the_numbers_of_dropped_things_stay(self):
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

    def test_only_the_kind_of_an_error_stays_of_its_texts(self):
        span = self.fail(RedactionSpanProcessor())
        assert span.status.description == f"ValueError: {GONE}"
        (event,) = span.events
        assert event.attributes["exception.type"] == "ValueError"
        assert event.attributes["exception.message"] == GONE

    def test_a_stack_trace_keeps_its_frames_and_no_source(self):
        span = self.fail(RedactionSpanProcessor())
        lines = span.events[0].attributes["exception.stacktrace"].split("\n")
        assert lines[0] == "Traceback (most recent call last):"
        assert lines[-1] == GONE
        assert all(line.startswith('  File "') for line in lines[1:-1])
        assert f'"{__file__}"' in lines[-2]
        assert lines[-2].endswith("in fail")

    def test_a_message_that_looks_like_a_stack_trace_is_none(self):
        forged = f'Traceback (most recent call last):\n  File "{SECRET}", line 1, in x\n'
        for message in (forged, f"\n{forged}", f'x\n  File "{SECRET}", line 1, in x'):
            span = self.fail(RedactionSpanProcessor(), error=ValueError(message))
            assert SECRET not in span.to_json()
        for text in (f"{SECRET}\n{forged}", f'    x\n  File "{SECRET}", line 1, in x'):
            given = {"exception.stacktrace": text}
            assert redacted(given) == {"exception.stacktrace": GONE}

    def test_frames_alone_stay_without_their_source(self):
        frames = '  File "app.py", line 1, in ask\n    ask("my secret")\n'
        given = {"exception.stacktrace": frames}
        left = f'  File "app.py", line 1, in ask\n{GONE}'
        assert redacted(given) == {"exception.stacktrace": left}

    def test_without_the_switch_error_texts_lose_keys_and_patterns_only(self):
        error = ValueError("key sk-abcdefghijklmnopqrstuvwx of a@example.com is bad")
        span = self.fail(RedactionSpanProcessor(False, patterns=["email"]), error=error)
        expected = f"key {GONE} of {GONE} is bad"
        assert span.status.description == f"ValueError: {expected}"
        assert span.events[0].attributes["exception.message"] == expected
        assert expected in span.events[0].attributes["exception.stacktrace"]

    def test_a_status_of_the_plugins_own_making_stays(self):
        pipeline = Pipeline(RedactionSpanProcessor())
        for scope, left in (("llamatelemetry_instrumentation_openai", True), ("app", False)):
            span = pipeline.provider.get_tracer(scope).start_span("chat")
            span.set_status(Status(StatusCode.ERROR, "openai.RateLimitError: HTTP 429"))
            span.end()
            described = pipeline.last().status.description
            assert described == ("openai.RateLimitError: HTTP 429" if left else GONE)

    def test_a_status_that_begins_with_the_type_of_the_error_keeps_it(self):
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

    def test_a_text_becomes_its_hmac_the_same_everywhere(self, processor):
        pipeline = Pipeline(processor, resource={"prompt": "hi"})
        messages = '[{"role":"user","parts":[{"type":"text","content":"hi"}]}]'
        span = pipeline.record({"prompt": "hi", "gen_ai.input.messages": messages, "m": "a@b.io!"})
        hidden = self.expected("hi")
        assert span.attributes["prompt"] == hidden
        assert span.attributes["gen_ai.input.messages"] == messages.replace("hi", hidden)
        assert span.attributes["m"] == self.expected("a@b.io") + "!"
        assert span.resource.attributes["prompt"] == hidden

    def test_what_is_hashed_is_not_hashed_again_when_something_is_added(self, processor):
        class Adding(SpanProcessor):
            def on_end(self, span):
                span._attributes._immutable = False
                span._attributes["late"] = "a@b.io"

        pipeline = Pipeline(Adding(), processor)
        with (
            contextlib.suppress(ValueError),
            pipeline.tracer.start_as_current_span("work", attributes={"prompt": "hi"}) as span,
        ):
            span.add_event("said", {"prompt": "hi"})
            raise ValueError("bad")
        left = pipeline.last()
        assert left.attributes["prompt"] == self.expected("hi")
        assert left.attributes["late"] == self.expected("a@b.io")
        assert left.events[0].attributes["prompt"] == self.expected("hi")
        assert left.status.description == "ValueError: " + self.expected("bad")

    def test_a_pattern_that_matches_hashes_does_not_get_at_its_own(self):
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
        left = pipeline.last()
        assert left.attributes["late"] == 1
        assert left.attributes["id"] == "is " + self.expected("123456")
        assert left.status.description == "no " + self.expected("123456")

    def test_what_was_hashed_elsewhere_is_not_hashed_again(self, processor):
        hashed = dict(Pipeline(processor).record({"prompt": "hi"}).attributes)
        assert dict(Pipeline(processor).record(hashed).attributes) == hashed

    def test_without_a_key_there_is_no_hashing(self):
        config = LlamaTelemetryConfig(redact_prompts=True, redact_mode="hash")
        with pytest.raises(ValueError, match="redact_hash_key"):
            RedactionSpanProcessor.from_config(config)

    def test_the_key_is_not_shown(self, processor):
        assert "k'" not in repr(processor.rules)


class TestFailing:
    @pytest.fixture
    def broken(self, monkeypatch):
        """A fault in the redaction of every text; its message quotes the text."""
        fail_closed._logged.clear()

        def fail(self, text):
            raise RuntimeError(f"cannot redact {text}")

        monkeypatch.setattr(Redaction, "text", fail)
        return RedactionSpanProcessor()

    def test_no_text_leaves(self, broken, caplog):
        pipeline = Pipeline(broken, resource={"r": SECRET})
        text = leaving_everywhere(pipeline)
        assert SECRET not in text
        span = pipeline.last()
        assert span.name == "redaction failed"
        assert span.status.status_code is StatusCode.ERROR
        assert dict(span.attributes) == {"llamatelemetry.redaction.failed": True}

    def test_numbers_stay(self, broken):
        span = Pipeline(broken).record({"n": 1, "x": 0.5, "b": False, "s": SECRET})
        assert dict(span.attributes) == {
            "n": 1,
            "x": 0.5,
            "b": False,
            "llamatelemetry.redaction.failed": True,
        }

    def test_it_is_told_once_without_the_words_of_the_error(self, broken, caplog):
        pipeline = Pipeline(broken)
        for _ in range(3):
            pipeline.record({"s": SECRET})
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "RuntimeError" in caplog.text
        assert "redaction.py" in caplog.text
        assert SECRET not in caplog.text

    def test_the_application_gets_no_error_of_it(self, broken, monkeypatch):
        monkeypatch.setattr(spans, "_error_types", None)
        Pipeline(broken).record({"s": SECRET})

    def test_a_pattern_that_runs_out_of_time_costs_one_limit_and_redacts_the_rest(self, caplog):
        runaway = "a" * 100 + "b"
        given = {"one": runaway, "two": "kept otherwise", "three": runaway, "n": 1}
        found = redacted(given, False, patterns=[r"(a|aa)+$"])
        assert found == {"one": GONE, "two": GONE, "three": GONE, "n": 1}
        assert "'(a|aa)+$' ran out of time" in caplog.text
        assert runaway not in caplog.text


class TestArguments:
    def test_one_text_is_a_list_of_one(self):
        processor = RedactionSpanProcessor(False, "user", "email", "X")
        assert processor.rules.redact_keys == ("user",)
        assert [pattern.name for pattern in processor.rules.patterns] == ["email"]

    def test_what_is_no_text_is_an_error(self):
        with pytest.raises(TypeError, match="redact_keys"):
            RedactionSpanProcessor(redact_keys=[1])
        with pytest.raises(TypeError, match="replacement"):
            RedactionSpanProcessor(replacement=None)

    def test_no_rule_of_the_options_is_no_processor(self):
        assert RedactionSpanProcessor.from_config(LlamaTelemetryConfig()) is None
        assert Rules.from_config(LlamaTelemetryConfig(redact_keys=["a"])) is not None


def test_many_threads_redact_at_once():
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
    left = pipeline.exporter.get_finished_spans()
    assert len(left) == 400
    assert not faults
    assert all("example.com" not in s.to_json() and SECRET not in s.to_json() for s in left)


def test_names_that_a_program_makes_up_do_not_pile_up():
    from llamatelemetry.otel.redaction.attribute_names import NameClassifier

    names = NameClassifier()
    for n in range(10_000):
        names.kind(f"made.up.{n}")
    assert len(names._cache) < 5000
