"""The measurement of one request: timestamps, accumulated response, and span.

The observation opens the span around the client's call. An instrumented client adds its data,
such as the engine's timings, to this span and creates no span of its own.
"""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanKind

from llamatelemetry.bench.records import RequestRecord
from llamatelemetry.bench.targets.http_timing import current_observation
from llamatelemetry.genai import (
    ChatAccumulator,
    ErrorInfo,
    Phases,
    Request,
    Response,
    StreamObserver,
    as_list,
    as_str,
    describe_error,
    get_field,
    measure_phases,
    parse_response,
)

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.context import Context

    from llamatelemetry.genai import Call, Instrumenter

RUN: Final = "llamatelemetry.bench.run"
INDEX: Final = "llamatelemetry.bench.index"
PROMPT: Final = "llamatelemetry.bench.prompt"
TURN: Final = "llamatelemetry.bench.turn"
LAG: Final = "llamatelemetry.bench.dispatch_lag"

_ANSWER: Final = ("content", "tool_calls", "refusal", "function_call", "text")
_TEXTS: Final = ("content", "refusal", "text")
_REASONING: Final = ("reasoning_content", "reasoning")
_EMPTY: Final = ErrorInfo("empty_response", "the response has no token")
_TRUNCATED: Final = ErrorInfo("truncated_stream", "the stream ended without a finish reason")


class RequestPosition(NamedTuple):
    """Position of a request in the benchmark, as in `RequestRecord`, and its scheduled time.

    `due_ns`, and `started_ns` of the run, are times of `perf_counter_ns`.
    """

    run: int
    request_index: int
    prompt: int
    turn: int
    due_ns: int
    started_ns: int


class TimedAccumulator:
    """Accumulates the chunks of a stream and the arrival time of each chunk with tokens.

    The next turn of a conversation needs the text.
    """

    def __init__(self) -> None:
        self._chunks = ChatAccumulator()
        self._texts: list[str] = []
        self._response: Response | None = None
        self.token_ns: list[int] = []
        self.answer_ns: int | None = None
        self._first_chars = self._chars = 0

    def add(self, chunk: Any, /) -> bool:
        """Add a chunk. Return whether it carries text, reasoning or a tool call."""
        now_ns = perf_counter_ns()
        self._chunks.add(chunk)
        deltas = [_delta(choice) for choice in as_list(get_field(chunk, "choices"))]
        has_answer = _has_any(deltas, _ANSWER)
        if not has_answer and not _has_any(deltas, _REASONING):
            return False
        self._chars += sum(map(_length, deltas))
        if not self.token_ns:
            self._first_chars = self._chars
        self.token_ns.append(now_ns)
        if has_answer and self.answer_ns is None:
            self.answer_ns = now_ns
        self._texts.append(as_str(get_field(deltas[0], "content")) or "")
        return True

    @property
    def first_chunk_share(self) -> float | None:
        """Fraction of the characters of the response in the first chunk with tokens."""
        return self._first_chars / self._chars if self._chars else None

    @property
    def model(self) -> Any:
        """Model name reported by the chunks so far."""
        return self._chunks.model

    @property
    def text(self) -> str:
        """Text of the response."""
        return "".join(self._texts)

    def response(self) -> Response:
        """Return the accumulated response: always the same object, which others complete."""
        if self._response is None:
            self._response = self._chunks.response()
        return self._response


def _delta(choice: Any) -> Any:
    """Return the delta of a choice. In a text completion, the choice itself is the delta."""
    delta = get_field(choice, "delta")
    return choice if delta is None else delta


def _has_any(deltas: list[Any], names: tuple[str, ...]) -> bool:
    return any(get_field(delta, name) for delta in deltas for name in names)


def _length(delta: Any) -> int:
    """Return the number of characters of a delta: text, reasoning and arguments of tool calls."""
    texts = [get_field(delta, name) for name in (*_TEXTS, *_REASONING)]
    calls = [get_field(call, "function") for call in as_list(get_field(delta, "tool_calls"))]
    calls.append(get_field(delta, "function_call"))
    texts += [get_field(call, name) for call in calls for name in ("name", "arguments")]
    return sum(len(text) for text in texts if isinstance(text, str))


class Observation:
    """Context manager around one request. Sets `record` and `text` on exit.

    An exception of the request is part of the measurement and is suppressed. Exceptions that end
    the benchmark itself, such as a cancellation, propagate.
    """

    def __init__(
        self,
        instrumenter: Instrumenter,
        request: Request,
        position: RequestPosition,
    ) -> None:
        self._instrumenter = instrumenter
        self._request = request
        self._position = position
        self._accumulator = TimedAccumulator()
        self._call: Call | None = None
        self._stream: StreamObserver | None = None
        self._context_token: Token[Context] | None = None
        self._observation_token: Token[Observation | None] | None = None
        self._request_sent_ns: int | None = None
        self._headers_ns: int | None = None
        self._complete_response: Any = None
        self._sent_ns = 0
        self.record: RequestRecord | None = None
        self.text = ""

    def __enter__(self) -> Observation:
        # An engine in this process has no server, so its span is not a client's.
        in_process = self._request.server is None
        kind = SpanKind.INTERNAL if in_process else SpanKind.CLIENT
        self._call = self._instrumenter.start(self._request, kind)
        if self._call is not None:
            self._context_token = self._call.activate()
            self._call.start_attempt()
            if self._request.stream:
                self._stream = StreamObserver(self._call, self._accumulator)
        self._observation_token = current_observation.set(self)
        self._sent_ns = perf_counter_ns()
        return self

    def on_request_sent(self) -> None:
        """Record that the connected client starts sending: queue time starts here."""
        self._request_sent_ns, self._headers_ns = perf_counter_ns(), None
        if self._call is not None:
            self._call.mark_sent(self._request_sent_ns)

    def on_headers(self) -> None:
        """Record the response headers. llama.cpp sends them when a slot takes the request.

        Targets call this when the client returns a response. The HTTP library may have reported
        the headers before; the earlier time stands.
        """
        if self._headers_ns is not None:
            return
        self._headers_ns = perf_counter_ns()
        if self._call is not None:
            self._call.mark_headers_received(self._headers_ns)

    def on_chunk(self, chunk: Any) -> None:
        """Record a chunk of a stream."""
        if self._stream is not None:
            self._stream.on_chunk(chunk)
        else:
            self._accumulator.add(chunk)

    def on_response(self, response: Any) -> None:
        """Record a complete response that was not streamed."""
        self._complete_response = response

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool:
        ended_ns = perf_counter_ns()
        if self._observation_token is not None:
            # An event loop that is destroyed exits its coroutines in another context.
            with suppress(ValueError):
                current_observation.reset(self._observation_token)
        if self._call is not None and self._context_token is not None:
            self._call.deactivate(self._context_token)
        response = self._response()
        if error is None and self._request.stream and not response.finish_reasons:
            response.error = response.error or _TRUNCATED
        self._set_position_attributes()
        self._end_call(error, response)
        if error is not None and not isinstance(error, Exception):
            return False
        self.text = self._accumulator.text or _text_of(self._complete_response)
        self.record = self._make_record(error, response, ended_ns)
        return True

    def _response(self) -> Response:
        if self._request.stream:
            return self._accumulator.response()
        return parse_response(self._complete_response)

    def _set_position_attributes(self) -> None:
        if self._call is None or not self._call.recording:
            return
        position = self._position
        self._call.span.set_attributes(
            {
                RUN: position.run,
                INDEX: position.request_index,
                PROMPT: position.prompt,
                TURN: position.turn,
                LAG: (self._sent_ns - position.due_ns) / 1e9,
            }
        )

    def _end_call(self, error: BaseException | None, response: Response) -> None:
        """End the span. An instrumented client has completed `response` afterwards."""
        if self._stream is not None:
            self._stream.on_end() if error is None else self._stream.on_error(error)
        elif self._call is not None:
            self._call.finish(response) if error is None else self._call.fail(error, response)

    def _make_record(
        self, error: Exception | None, response: Response, ended_ns: int
    ) -> RequestRecord:
        position, usage, timings = self._position, response.usage, response.timings
        failure = response.error if error is None else describe_error(error)
        if failure is None and not self._has_tokens(response):
            failure = _EMPTY
        first_ns = self._first_token_ns()
        phases = self._phases(response, first_ns, ended_ns)
        return RequestRecord(
            run=position.run,
            index=position.request_index,
            prompt=position.prompt,
            turn=position.turn,
            due_s=(position.due_ns - position.started_ns) / 1e9,
            lag_s=(self._sent_ns - position.due_ns) / 1e9,
            e2e_s=(ended_ns - position.due_ns) / 1e9,
            ttft_s=_elapsed_s(position.due_ns, first_ns),
            ttfo_s=_elapsed_s(position.due_ns, self._accumulator.answer_ns),
            token_times_s=tuple(
                (token_ns - self._sent_ns) / 1e9 for token_ns in self._accumulator.token_ns
            ),
            first_chunk_share=self._accumulator.first_chunk_share,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cache_read_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            finish_reason=next(iter(response.finish_reasons), None),
            queue_s=phases and phases.queue_s,
            queue_source=phases and phases.queue_source,
            prefill_s=phases and phases.prefill_s,
            decode_s=phases and phases.decode_s,
            prefilled_tokens=timings and timings.prompt_tokens,
            decoded_tokens=(
                timings.predicted_tokens if timings and timings.has_exact_bounds else None
            ),
            error=failure and failure.type,
            http_status=failure and failure.status_code,
            **self._span_ids(),
        )

    def _has_tokens(self, response: Response) -> bool:
        if self._request.stream:
            return bool(self._accumulator.token_ns)
        return bool(self.text or response.usage.output_tokens)

    def _first_token_ns(self) -> int | None:
        if self._accumulator.token_ns:
            return self._accumulator.token_ns[0]
        # An instrumented engine may have seen its first token although it returns no stream.
        return None if self._call is None else self._call.first_token_ns

    def _phases(self, response: Response, first_ns: int | None, ended_ns: int) -> Phases | None:
        if response.timings is None:
            return None
        since_ns = self._sent_ns if self._request_sent_ns is None else self._request_sent_ns
        return measure_phases(
            response.timings,
            attempt_s=(ended_ns - since_ns) / 1e9,
            headers_s=_elapsed_s(since_ns, self._headers_ns),
            first_token_s=_elapsed_s(since_ns, first_ns),
            has_queue=self._request.has_queue,
        )

    def _span_ids(self) -> dict[str, str]:
        context = INVALID_SPAN_CONTEXT if self._call is None else self._call.span.get_span_context()
        if not context.is_valid:
            return {}
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _elapsed_s(since_ns: int, at_ns: int | None) -> float | None:
    return None if at_ns is None else (at_ns - since_ns) / 1e9


def _text_of(response: Any) -> str:
    if isinstance(response, str):
        return response
    with suppress(LookupError, TypeError):
        return str(response["choices"][0]["message"]["content"] or "")
    return ""
