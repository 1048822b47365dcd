"""Random telemetry with a hidden canary, to attack redaction with. The same seed gives the same case.

A case is a secret, layers of nesting and encoding around it, and a place in a span or log record.
`leaks()` records it through the SDK and looks for the secret in what an OTLP exporter sends.
"""

from __future__ import annotations

import base64
import html
import json
import random
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import quote

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags

from llamatelemetry.otel import RedactionLogProcessor, RedactionSpanProcessor

KEYS: Final = ("pin", "customer.*")
PATTERNS: Final = ("pii", "secrets", r"ACME-\d{5}")

# Attributes that hold content, by the instrumentation that records them.
CONTENT_NAMES: Final = (
    *("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions"),
    *("gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "gen_ai.tool.definitions"),
    *("gen_ai.prompt.0.content", "gen_ai.completion.3.content", "gen_ai.prompt"),
    *("gen_ai.prompt.0.tool_calls.1.arguments", "gen_ai.completion.0.function_call.arguments"),
    *("traceloop.entity.input", "traceloop.entity.output", "traceloop.prompt.template_variables"),
    *("gen_ai.task.input", "mcp.request.argument", "mcp.response.value", "llm.prompts"),
    *("llm.input_messages.0.message.content", "llm.prompt_template.variables", "input.value"),
    *("llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments", "output.value"),
    *("retrieval.documents.0.document.content", "embedding.embeddings.0.embedding.text"),
    *("input.images.0.image.url", "completion.text", "evaluation.explanation"),
    *("langfuse.observation.input", "langfuse.trace.output", "langfuse.trace.metadata.note"),
    *("request_data", "response_data", "all_messages_events", "pydantic_ai.all_messages"),
    *("events", "model_request_parameters", "tool_arguments", "tool_response", "final_result"),
    *("gen_ai.content.prompt", "gen_ai.content.completion", "gen_ai.agent.human_input"),
    *("gen_ai.agent.goal", "gen_ai.task.description", "gen_ai.vectordb.search.query"),
    *("gen_ai.execution.output", "mcp.tool.arguments", "mcp.sampling.messages"),
    *("mlflow.spanInputs", "ai.prompt.messages", "ai.toolCall.args", "haystack.component.input"),
    *("braintrust.output_json", "exception.message", "http.request.body.content", "prompt"),
)
CONTENT_EVENTS: Final = (
    *("gen_ai.content.prompt", "gen_ai.user.message", "gen_ai.system.message", "gen_ai.choice"),
    *("gen_ai.assistant.message", "gen_ai.tool.message"),
)
PLAIN_NAMES: Final = ("note", "app.comment", "http.route", "logfire.msg", "x", "gen_ai.request.id")

Layer = Callable[[random.Random, Any], Any]


def _word(rng: random.Random, letters: str = "abcdefghjkmnpqrstuvwxyz", size: int = 8) -> str:
    return "".join(rng.choice(letters) for _ in range(size))


def _token(rng: random.Random, size: int) -> str:
    return _word(rng, "ABCDEFGHJKMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz23456789", size)


SECRETS: Final[tuple[Callable[[random.Random], str], ...]] = (
    lambda rng: f"{_word(rng)}.{_word(rng)}@{_word(rng)}.example.com",
    lambda rng: f"sk-{_token(rng, 40)}",
    lambda rng: f"hf_{_token(rng, 34)}",
    lambda rng: f"ghp_{_token(rng, 36)}",
    lambda rng: f"AKIA{_word(rng, 'ABCDEFGHIJKLMNOP', 16)}",
    lambda rng: f"ACME-{rng.randrange(10**4, 10**5)}",
    lambda rng: f"+49 30 {rng.randrange(10**7, 10**8)}",
)
"""Texts that the patterns find."""


def _in_map(rng: random.Random, value: Any) -> Any:
    found = {_word(rng): rng.randrange(99), _word(rng): value}
    return found if rng.random() < 0.5 else {_word(rng): None, **found}


def _in_list(rng: random.Random, value: Any) -> Any:
    return [_word(rng), value] if isinstance(value, str) else [value, {"kept": 1}]


def _as_json(rng: random.Random, value: Any) -> str:
    return json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1)))


def _as_messages(rng: random.Random, value: Any) -> Any:
    part = {"type": rng.choice(("text", "tool_call", "reasoning")), "content": value}
    return [{"role": rng.choice(("user", "assistant", "tool")), "parts": [part]}]


STRUCTURES: Final[tuple[Layer, ...]] = (_in_map, _in_list, _as_json, _as_messages)


def _every_character(form: str) -> Layer:
    return lambda _rng, text: "".join(form.format(ord(each)) for each in text)


def _some_characters(form: str) -> Layer:
    def encode(rng: random.Random, text: str) -> str:
        return "".join(
            form.format(ord(each)) if not each.isalnum() or rng.random() < 0.2 else each
            for each in text
        )

    return encode


ESCAPES: Final[tuple[Layer, ...]] = (
    lambda _rng, text: quote(text, safe=""),
    lambda _rng, text: html.escape(text).replace("@", "&commat;").replace("+", "&plus;"),
    *(_every_character(form) for form in ("%{:02x}", "&#{};", "\\u{:04x}")),
    *(_some_characters(form) for form in ("%{:02X}", "&#x{:x};", "\\u{:04X}", "\\x{:02x}")),
)
"""Escapes that the patterns see through."""

ENCODINGS: Final[tuple[Layer, ...]] = (
    lambda _rng, text: base64.b64encode(text.encode()).decode(),
    lambda _rng, text: text.encode(),
    lambda _rng, text: text.encode("utf-16"),
    lambda _rng, text: text[::-1],
    lambda _rng, text: text.split(),
    lambda _rng, text: {part: at for at, part in enumerate(text.split())},
    lambda rng, text: {"role": "user", text: rng.randrange(9)},
    lambda _rng, text: {text: {text: [text]}},
    lambda _rng, text: {"type": "tool_call", "id": text, "name": text, "arguments": {text: text}},
)
"""Encodings of content that no pattern finds: content is replaced as a whole."""


def _surrounded(rng: random.Random, text: str) -> str:
    return rng.choice(("see {} now", "a:\n{}\n", "({})", "<{}>", "'{}',", "{}")).format(text)


def _nested(rng: random.Random, value: Any, most: int) -> Any:
    for _ in range(rng.randrange(most + 1)):
        value = rng.choice(STRUCTURES)(rng, value)
    return value


def _damaged(rng: random.Random, text: str, secret: str) -> str:
    """Return JSON that no parser accepts, with the secret still in it."""
    end = text.rindex(secret) + len(secret)
    return rng.choice(
        (
            lambda: text[: rng.randrange(end, len(text) + 1)],
            lambda: f"data: {text}",
            lambda: f"{text}\n{text}",
            lambda: f"\ufeff{text}",
            lambda: f"```json\n{text}\n```",
            lambda: f'{{"a": 1, "a": 2, "b": {text}}}',
        )
    )()


def hidden_match(rng: random.Random) -> tuple[str, Any]:
    """Return a text that a pattern finds, and a value of any attribute that hides it."""
    secret = rng.choice(SECRETS)(rng)
    value: Any = secret
    for _ in range(rng.choice((0, 1, 1, 2))):
        value = rng.choice(ESCAPES)(rng, value)
    value = _surrounded(rng, value)
    if rng.random() < 0.1:
        return secret, value.encode()
    if rng.random() < 0.1:
        value = {value: value}
    return secret, _nested(rng, value, 5)


def hidden_field(rng: random.Random) -> tuple[str, Any]:
    """Return the value of a field that `redact_keys` names, and a value that hides the field."""
    secret = f"{_word(rng)} {_word(rng)}"
    name = rng.choice(("pin", "PIN", "customer.name", "Customer.Id", "password", "api-key"))
    held: Any = rng.choice((secret, [secret], {"deep": [secret]}, {secret: 1}))
    value = _nested(rng, {name: held, "kept": 1}, 5)
    if rng.random() < 0.4:
        quoted = json.dumps if rng.random() < 0.7 else repr
        value = _damaged(rng, quoted(value), secret)
    if isinstance(value, str) and rng.random() < 0.1:
        value = value.encode()
    return secret, value


def hidden_content(rng: random.Random) -> tuple[str, Any]:
    """Return a prompt, and a value of a content attribute that hides it."""
    secret = f"{_word(rng)} {_word(rng)} {_word(rng)}"
    value: Any = secret
    if rng.random() < 0.6:
        value = rng.choice((*ENCODINGS, *ESCAPES))(rng, value)
    if isinstance(value, bytes):
        return secret, value
    value = _nested(rng, value, 5)
    if isinstance(value, str) and rng.random() < 0.2:
        value = value[: rng.randrange(1, len(value) + 1)]
    return secret, value


def forms(secret: str) -> set[bytes]:
    """Return the plain forms of a secret and of its words to look for."""
    words = {secret, *(word for word in secret.split() if word.isalpha())}
    return {form for word in words for form in _forms(word)}


def _forms(text: str) -> set[bytes]:
    found = {
        *(text, text[::-1], quote(text, safe=""), html.escape(text)),
        *("".join(form.format(ord(each)) for each in text) for form in ("%{:02x}", "&#{};")),
        "".join(f"\\u{ord(each):04x}" for each in text),
        base64.b64encode(text.encode()).decode(),
    }
    return {each.encode() for each in found} | {text.encode("utf-16-le")}


class Pipeline:
    """Providers of spans and logs with the redacting processors, and what they export."""

    def __init__(self) -> None:
        rules: dict[str, Any] = {"redact_keys": KEYS, "patterns": PATTERNS}
        self._spans, self._logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
        self._rules = RedactionSpanProcessor(**rules), RedactionLogProcessor(**rules)

    def record(self, place: str, name: str, value: Any, rng: random.Random) -> bytes:
        """Record the value at a place. Return the bytes that an OTLP exporter sends."""
        resource = Resource({name: value} if place == "resource" else {})
        if place.startswith("log"):
            return self._log(place, name, value, resource, rng)
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._rules[0])
        provider.add_span_processor(SimpleSpanProcessor(self._spans))
        scope = {"attributes": {name: value}} if place == "scope" else {}
        tracer = provider.get_tracer(_text(value) if place == "scope name" else "app", **scope)
        context = SpanContext(
            rng.getrandbits(128) | 1, rng.getrandbits(64) | 1, False, TraceFlags(1)
        )
        links = [Link(context, {name: value})] if place == "link" else []
        with tracer.start_as_current_span(
            _text(value) if place == "span name" else "work", links=links
        ) as span:
            if place == "attribute":
                span.set_attribute(name, value)
            elif place == "event":
                span.add_event("step", {name: value})
            elif place == "content event":
                span.add_event(rng.choice(CONTENT_EVENTS), {"content": value})
            elif place == "event name":
                span.add_event(_text(value))
            elif place == "status":
                span.set_status(Status(StatusCode.ERROR, _text(value)))
            elif place == "exception":
                span.record_exception(ValueError(_text(value)))
        sent = encode_spans(self._spans.get_finished_spans()).SerializeToString()
        self._spans.clear()
        return sent

    def _log(
        self, place: str, name: str, value: Any, resource: Resource, rng: random.Random
    ) -> bytes:
        provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_log_record_processor(self._rules[1])
        provider.add_log_record_processor(SimpleLogRecordProcessor(self._logs))
        event = rng.choice(CONTENT_EVENTS) if place == "log content" else None
        if place == "log event name":
            event = _text(value)
        is_body = place in ("log body", "log content")
        provider.get_logger("app").emit(
            body=value if is_body else "text",
            attributes={name: value} if place == "log attribute" else None,
            event_name=event,
            severity_text=_text(value) if place == "log severity" else None,
        )
        sent = encode_logs(self._logs.get_finished_logs()).SerializeToString()
        self._logs.clear()
        return sent


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=repr)


_TEXT_PLACES: Final = (
    *("attribute", "event", "link", "scope", "resource", "span name", "event name", "scope name"),
    *("status", "exception", "log body", "log attribute", "log event name", "log severity"),
)
_FIELD_PLACES: Final = ("attribute", "event", "link", "scope", "resource", "log body")
_CONTENT_PLACES: Final = ("attribute", "event", "link", "log attribute")
_ONLY_CONTENT: Final = ("content event", "status", "exception", "log content")


def case(seed: int) -> tuple[str, str, str, Any]:
    """Return the secret, the place, the attribute's name and its value for a seed."""
    rng = random.Random(seed)
    kind = rng.choice(("match", "field", "content"))
    if kind == "content":
        place = rng.choice(_CONTENT_PLACES + _ONLY_CONTENT)
        return _with(hidden_content(rng), place, rng.choice(CONTENT_NAMES))
    if kind == "match":
        name = rng.choice(PLAIN_NAMES + CONTENT_NAMES)
        return _with(hidden_match(rng), rng.choice(_TEXT_PLACES), name)
    return _with(hidden_field(rng), rng.choice(_FIELD_PLACES), rng.choice(PLAIN_NAMES))


def _with(hidden: tuple[str, Any], place: str, name: str) -> tuple[str, str, str, Any]:
    return hidden[0], place, name, hidden[1]


def leaks(seeds: Iterable[int]) -> list[str]:
    """Return a description of each case whose secret is exported."""
    pipeline = Pipeline()
    found: list[str] = []
    for seed in seeds:
        secret, place, name, value = case(seed)
        sent = pipeline.record(place, name, value, random.Random(seed))
        if any(form in sent for form in forms(secret)):
            found.append(f"seed {seed}: {secret!r} in {place} {name}: {value!r}\n  sent {sent!r}")
    return found
