"""Requests and responses of GenAI calls as plain data, whatever library made them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, cast

from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.errors import ErrorInfo


QueueSource = Literal["header", "remainder"]

# Making one by ``dict[str, AttributeValue]()`` takes ten times as long.
_no_attributes = cast("Callable[[], dict[str, AttributeValue]]", dict)


@dataclass(frozen=True, slots=True)
class Server:
    """Where a request goes: a host, or a Unix socket, which has no port.

    ``origin`` (scheme, host, port) is what is remembered about it; ``provider`` is what the
    client or the host name tells before any reply has.
    """

    address: str
    port: int | None
    origin: str
    provider: str | None = field(default=None, compare=False)


@dataclass(slots=True)
class Content:
    """Messages, instructions and tools in the conventions' schema, whole: nothing is cut yet.

    Messages and parts are plain dicts; binary data is a `llamatelemetry.genai.content.parts.BlobData`.
    A request fills all but ``outputs``, a reply mostly ``outputs`` alone.
    """

    inputs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    outputs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    instructions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@dataclass(slots=True)
class Request:
    """What is known before a call is sent.

    ``operation`` is the value of ``gen_ai.operation.name``. Work that has no operation of its
    own gives a ``task`` instead ("transcription"), and `Instrumenter.start` finds the operation,
    which may be none. ``parameters`` are further span attributes (temperature, seed, ...) under
    their conventional names. ``choice_count`` is how many answers were asked for, to all prompts.
    ``has_queue`` is false of an engine that serves one caller at a time, inside his process.
    ``read_content`` reads the messages, and is run only when somebody wants them; an operation
    without one, such as embeddings, has no content and makes no event.
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

    @property
    def title(self) -> str:
        """What the call is, in one word: its operation, else its task."""
        return self.operation or self.task or "call"


@dataclass(slots=True)
class Usage:
    """Tokens of a call; ``None`` is unknown.

    Cached tokens are part of the input, reasoning of the output; so are the tokens of each
    modality, and its cached tokens are part of both.
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


@dataclass(frozen=True, slots=True)
class EngineTimings:
    """What an engine measured of one call, as llama.cpp reports it in ``timings``. Milliseconds, tokens.

    ``prompt_tokens`` were evaluated in ``prefill_ms``; ``cached_tokens`` came from the prompt
    cache and cost nothing. ``decode_ms`` spans the ``predicted_tokens`` after the first, which
    comes out of the last prompt batch. Queueing is in none of them. ``decoded_tokens`` are those
    of one sequence that ``decode_ms`` went by for, where they are not ``predicted_tokens`` less
    one: in a batch, and where a step gives several tokens. ``provider`` is whose engine it was.
    Sound and pictures that a model is given as such are no tokens: ``None``.
    """

    prompt_tokens: int | None
    prefill_ms: float
    predicted_tokens: int | None
    decode_ms: float
    cached_tokens: int | None = None
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None
    decoded_tokens: int | None = None
    provider: str = PROVIDER_LLAMA_CPP


@dataclass(slots=True)
class Response:
    """What a reply said, plain or folded from a stream; ``None`` and empty are unknown.

    ``status`` is where a response that can be fetched later stands. ``error`` is a failure that
    a good reply tells of: the call failed, though nothing was raised. ``attributes`` are further
    attributes of the span, for what only one kind of server tells. ``read_content`` reads the
    messages, and is run only when somebody wants them.
    """

    id: str | None = None
    model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    timings: EngineTimings | None = None
    service_tier: str | None = None
    system_fingerprint: str | None = None
    status: str | None = None
    conversation_id: str | None = None
    compacted: bool | None = None
    error: ErrorInfo | None = None
    attributes: dict[str, AttributeValue] = field(default_factory=_no_attributes)
    read_content: Callable[[], Content] | None = field(default=None, compare=False, repr=False)

    def complete(self, other: Response) -> None:
        """Fill in what is not known here from another reading of the same reply."""
        _fill(self.usage, other.usage)
        self.attributes = {**other.attributes, **self.attributes}
        _fill(self, other)


@dataclass(frozen=True, slots=True)
class Phases:
    """Phases of one call in the engine, in seconds; `None` is unknown.

    Attributes:
        prefill_s: Prompt evaluation.
        decode_s: Generation of the tokens after the first.
        queue_s: Wait before the prefill.
        queue_source: Where the queue time comes from: response headers or the remainder.
        time_per_output_token_s: Decode time divided by the output tokens less one, because the
            first token comes from the last prompt batch. In a batch of sequences it is the time
            that one sequence waits for its next token.
    """

    prefill_s: float
    decode_s: float
    queue_s: float | None
    queue_source: QueueSource | None
    time_per_output_token_s: float | None

    @property
    def time_to_first_token_s(self) -> float | None:
        """Queue and prefill: the engine's time to the first token."""
        return None if self.queue_s is None else self.queue_s + self.prefill_s

    @property
    def request_s(self) -> float | None:
        """Queue, prefill and decode: the time that the engine had the request."""
        return None if self.queue_s is None else self.queue_s + self.prefill_s + self.decode_s


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
        headers_s: From sending the last attempt to its response headers, of a stream.
        first_chunk_s: From the start to the first chunk.
        first_token_s: From the start to the first token.
        first_token_attempt_s: From sending the last attempt to the first token, of a stream.
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
        if value is None or value is False or value == ():  # 0 is known
            setattr(target, known.name, getattr(source, known.name))
