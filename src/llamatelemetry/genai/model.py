"""Requests, responses and results of GenAI calls as plain data, independent of any library."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.errors import ErrorInfo


QueueSource = Literal["engine", "header", "remainder"]

# Calling `dict[str, AttributeValue]` would take ten times as long.
_no_attributes = cast("Callable[[], dict[str, AttributeValue]]", dict)


@dataclass(frozen=True, slots=True)
class Server:
    """The server of a request: a host, or a Unix socket, which has no port.

    Attributes:
        address: Host name, address, or path of the socket.
        port: Port; `None` for a socket.
        origin: Scheme, host and port: the key for everything remembered about the server.
        provider: Provider by the client or the host name, before a response has proved one.
    """

    address: str
    port: int | None
    origin: str
    provider: str | None = field(default=None, compare=False)


@dataclass(slots=True)
class Content:
    """Messages, instructions and tools in the conventions' schema, without length limits.

    Messages and parts are plain dicts; binary data is a `llamatelemetry.genai.content.parts.BlobData`.
    A request fills all fields but `outputs`, a response mostly `outputs` alone.
    """

    inputs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    outputs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    instructions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@dataclass(slots=True)
class Request:
    """A request, as far as it is known before it is sent.

    Attributes:
        operation: Value of `gen_ai.operation.name`.
        provider: Value of `gen_ai.provider.name`.
        model: Requested model.
        server: Server of the request.
        stream: Whether a stream was requested.
        choice_count: Number of requested choices, for all prompts together.
        parameters: Further span attributes (temperature, seed, ...) by conventional name.
        task: Task, such as "transcription", if the work has no operation of its own.
            `Instrumenter.start` derives the operation from it, which may be `None`.
        has_queue: Whether the engine can make a request wait. An in-process engine that serves
            one caller at a time cannot.
        read_content: Parses the messages. It is called only if content is recorded. An operation
            without it, such as embeddings, has no content and no event.
        body: JSON body, which is only read at the start of the call, by diagnostics.
    """

    operation: str | None
    provider: str
    model: str | None = None
    server: Server | None = None
    stream: bool = False
    choice_count: int = 1
    parameters: dict[str, AttributeValue] = field(default_factory=_no_attributes)
    task: str | None = None
    has_queue: bool = True
    read_content: Callable[[], Content] | None = field(default=None, compare=False, repr=False)
    body: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def title(self) -> str:
        """The operation, or the task if there is no operation."""
        return self.operation or self.task or "call"


@dataclass(slots=True)
class Usage:
    """Token counts and cost of a call; `None` is unknown.

    Cached tokens are part of the input, reasoning tokens of the output. The tokens of each
    modality are part of them too. A modality's cached tokens are part of both. `cost` is in the
    currency of the server that reported it.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    text_input_tokens: int | None = None
    image_input_tokens: int | None = None
    audio_input_tokens: int | None = None
    text_cache_read_tokens: int | None = None
    image_cache_read_tokens: int | None = None
    audio_cache_read_tokens: int | None = None
    text_output_tokens: int | None = None
    image_output_tokens: int | None = None
    audio_output_tokens: int | None = None
    cost: float | None = None


class EngineTimings(NamedTuple):
    """Times that an engine measured for one call, in milliseconds; `None` is unknown.

    Attributes:
        prompt_tokens: Tokens that were evaluated in `prefill_ms`, without those from the cache.
        prefill_ms: Prompt evaluation, without the queue.
        predicted_tokens: Output tokens.
        decode_ms: Generation of the output tokens after the first, which ends the prefill.
        cached_tokens: Prompt tokens from the cache, which were not evaluated.
        drafted_tokens: Tokens that a draft model proposed.
        accepted_tokens: Proposed tokens that the model accepted.
        decoded_tokens: Tokens of one sequence that were generated in `decode_ms`, if they are
            not `predicted_tokens` less one: in a batch, and if a step returns several tokens.
        provider: Provider of the engine, if these figures prove it.
        queue_ms: Wait before the prefill.
        first_token_ms: Time from the arrival of the request to the first token.
        request_ms: Time from the arrival of the request to the end of the output.
        has_exact_bounds: Whether the prefill starts when the queue ends, and the decode time with
            the first token. Only then do the phases add up, and decode gives the time per token.
        is_queue_derivable: Whether the client can derive the queue: the engine sends the headers of
            a stream when it takes the request, and does nothing besides prefill and decode.
    """

    prompt_tokens: int | None = None
    prefill_ms: float | None = None
    predicted_tokens: int | None = None
    decode_ms: float | None = None
    cached_tokens: int | None = None
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None
    decoded_tokens: int | None = None
    provider: str | None = None
    queue_ms: float | None = None
    first_token_ms: float | None = None
    request_ms: float | None = None
    has_exact_bounds: bool = True
    is_queue_derivable: bool = False


@dataclass(slots=True)
class Response:
    """A response, plain or accumulated from a stream. `None` and empty values are unknown.

    Attributes:
        id: Identifier of the response.
        model: Model that generated the response.
        finish_reasons: Finish reason of each choice.
        usage: Token counts.
        timings: The engine's timings.
        provider: Provider that the response proves.
        service_tier: Service tier that was used.
        system_fingerprint: Fingerprint of the server's configuration.
        status: Status of a response that can be fetched later.
        conversation_id: Identifier of the conversation.
        compacted: Whether the conversation was compacted.
        error: Error inside a 2xx response: the call failed, although nothing was raised.
        attributes: Further span attributes, which only one kind of server provides.
        read_content: Parses the messages. It is called only if content is recorded.
    """

    id: str | None = None
    model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    timings: EngineTimings | None = None
    provider: str | None = None
    service_tier: str | None = None
    system_fingerprint: str | None = None
    status: str | None = None
    conversation_id: str | None = None
    compacted: bool | None = None
    error: ErrorInfo | None = None
    attributes: dict[str, AttributeValue] = field(default_factory=_no_attributes)
    read_content: Callable[[], Content] | None = field(default=None, compare=False, repr=False)

    def complete(self, other: Response) -> None:
        """Fill unknown fields from another view of the same response."""
        _fill(self.usage, other.usage)
        self.attributes = {**other.attributes, **self.attributes}
        _fill(self, other)


@dataclass(slots=True)
class Phases:
    """Phases of one call in the engine, in seconds; `None` is unknown.

    Attributes:
        prefill_s: Prompt evaluation.
        decode_s: Generation of the tokens after the first.
        queue_s: Wait before the prefill.
        queue_source: Where the queue time comes from: the engine, response headers or the remainder.
        time_per_output_token_s: Decode time divided by the output tokens less one, because the
            first token comes from the last prompt batch. In a batch of sequences it is the time
            that one sequence waits for its next token.
        time_to_first_token_s: Queue and prefill, or the engine's own time from the arrival of the
            request to the first token.
        request_s: Queue, prefill and decode: the time that the engine had the request.
    """

    prefill_s: float | None
    decode_s: float | None
    queue_s: float | None
    queue_source: QueueSource | None
    time_per_output_token_s: float | None
    time_to_first_token_s: float | None = None
    request_s: float | None = None


@dataclass(slots=True)
class Outcome:
    """A call that has ended. Times are in seconds, except `*_ns`; `None` is unknown.

    Attributes:
        request: The request.
        response: The response, or the part of it that arrived.
        error: Why the call failed.
        duration_s: Duration of the call.
        attempt_s: From sending the last attempt to the end.
        attempt_wall_ns: When the last attempt was sent, in nanoseconds since the epoch.
        ended_wall_ns: When the call ended, in nanoseconds since the epoch.
        resend_count: Number of retries.
        headers_s: From sending the last attempt to its response headers; for streams only.
        first_chunk_s: From the start to the first chunk.
        first_token_s: From the start to the first token.
        first_token_attempt_s: From sending the last attempt to the first token; for streams only.
        phases: The engine's phases.
    """

    request: Request
    response: Response
    error: ErrorInfo | None
    duration_s: float
    attempt_s: float
    attempt_wall_ns: int
    ended_wall_ns: int
    resend_count: int
    headers_s: float | None = None
    first_chunk_s: float | None = None
    first_token_s: float | None = None
    first_token_attempt_s: float | None = None
    phases: Phases | None = None


def _fill(target: Response | Usage, source: Response | Usage) -> None:
    for known in fields(source):
        value = getattr(target, known.name)
        if value is None or value is False or value == ():  # But 0 is a known value.
            setattr(target, known.name, getattr(source, known.name))
