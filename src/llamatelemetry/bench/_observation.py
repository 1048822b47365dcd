"""One request, watched: the clock, what the reply adds up to, and its span.

The span is opened here, around whatever client is used. One that is traced itself adds what it
knows to it, the engine's timings above all, and makes none of its own.
"""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.trace import SpanKind

from llamatelemetry.bench._wire import Watcher, watcher
from llamatelemetry.bench.records import RequestRecord
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
_REASONING: Final = ("reasoning_content", "reasoning")
_TRUNCATED: Final = ErrorInfo("truncated_stream", "the stream ended without saying why")


class Place(NamedTuple):
    """Which request of the benchmark it is, and when it was due by ``perf_counter_ns``."""

    run: int
    number: int
    prompt: int
    turn: int
    due_ns: int
    started_ns: int


class TimedFold:
    """A stream's chunks added up, and when each one with a token came.

    Args:
        keep_text: whether the answer's text is wanted, for the next turn of a conversation.
    """

    def __init__(self, keep_text: bool) -> None:
        self._fold = ChatAccumulator()
        self._pieces: list[str] | None = [] if keep_text else None
        self._response: Response | None = None
        self.token_ns: list[int] = []
        self.answer_ns: int | None = None

    def add(self, chunk: Any, /) -> bool:
        """Take in one chunk; say whether it carries a token: text, reasoning or a tool call."""
        now_ns = perf_counter_ns()
        self._fold.add(chunk)
        deltas = [_delta(choice) for choice in as_list(get_field(chunk, "choices"))]
        has_answer = _has_any(deltas, _ANSWER)
        if not has_answer and not _has_any(deltas, _REASONING):
            return False
        self.token_ns.append(now_ns)
        if has_answer and self.answer_ns is None:
            self.answer_ns = now_ns
        if self._pieces is not None:
            self._pieces.extend(
                piece for each in deltas[:1] if (piece := as_str(get_field(each, "content")))
            )
        return True

    @property
    def model(self) -> Any:
        """The model that has been named so far."""
        return self._fold.model

    @property
    def text(self) -> str:
        """The answer, if it was to be kept."""
        return "".join(self._pieces or ())

    def response(self) -> Response:
        """Give what the chunks add up to: from the first time on the same object, which others complete."""
        if self._response is None:
            self._response = self._fold.response()
        return self._response


def _delta(choice: Any) -> Any:
    """What a choice adds; of a text completion that is the choice itself."""
    delta = get_field(choice, "delta")
    return choice if delta is None else delta


def _has_any(deltas: list[Any], names: tuple[str, ...]) -> bool:
    return any(get_field(delta, name) for delta in deltas for name in names)


class Observation:
    """A context in which one request is made; afterwards `record` and `text` say what came of it.

    An error of the request is part of what is measured and goes no further; what ends the
    benchmark itself, such as a cancellation, does.
    """

    def __init__(
        self, instrumenter: Instrumenter, request: Request, place: Place, *, keep_text: bool
    ) -> None:
        self._instrumenter = instrumenter
        self._request = request
        self._place = place
        self._fold = TimedFold(keep_text)
        self._call: Call | None = None
        self._watch: StreamObserver | None = None
        self._token: Token[Context] | None = None
        self._watching: Token[Watcher | None] | None = None
        self._leaves_ns: int | None = None
        self._headers_ns: int | None = None
        self._whole: Any = None
        self._sent_ns = 0
        self.record: RequestRecord | None = None
        self.text = ""

    def __enter__(self) -> Observation:
        is_local = self._request.server is None  # an engine in this process is no client of it
        kind = SpanKind.INTERNAL if is_local else SpanKind.CLIENT
        self._call = self._instrumenter.start(self._request, kind)
        if self._call is not None:
            self._token = self._call.activate()
            self._call.start_attempt()
            if self._request.stream:
                self._watch = StreamObserver(self._call, self._fold)
        self._watching = watcher.set(self)
        self._sent_ns = perf_counter_ns()
        return self

    def leaves(self) -> None:
        """The request, built and connected, is going out: from here on the server has it."""
        self._leaves_ns, self._headers_ns = perf_counter_ns(), None
        if self._call is not None:
            self._call.mark_sent(self._leaves_ns)

    def headers(self) -> None:
        """Response headers have come: with llama.cpp a slot has taken the request.

        A client whose HTTP library has told so already comes later, with a reply that is ready.
        """
        if self._headers_ns is not None:
            return
        self._headers_ns = perf_counter_ns()
        if self._call is not None:
            self._call.mark_headers_received(self._headers_ns)

    def chunk(self, chunk: Any) -> None:
        """A chunk of a stream has come."""
        if self._watch is not None:
            self._watch.on_chunk(chunk)
        else:
            self._fold.add(chunk)

    def whole(self, reply: Any) -> None:
        """A whole reply has come."""
        self._whole = reply

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool:
        ended_ns = perf_counter_ns()
        if self._watching is not None:
            with suppress(ValueError):  # destroyed with its event loop, in another context
                watcher.reset(self._watching)
        if self._call is not None and self._token is not None:
            self._call.deactivate(self._token)
        response = self._response()
        if error is None and self._request.stream and not response.finish_reasons:
            response.error = response.error or _TRUNCATED
        self._note_place()
        self._end_call(error, response)
        if error is not None and not isinstance(error, Exception):
            return False
        self.record = self._make_record(error, response, ended_ns)
        self.text = self._fold.text or _text_of(self._whole)
        return True

    def _response(self) -> Response:
        if self._request.stream:
            return self._fold.response()
        return parse_response(self._whole)  # a text says nothing of itself

    def _note_place(self) -> None:
        if self._call is None or not self._call.recording:
            return
        place = self._place
        self._call.span.set_attributes(
            {
                RUN: place.run,
                INDEX: place.number,
                PROMPT: place.prompt,
                TURN: place.turn,
                LAG: (self._sent_ns - place.due_ns) / 1e9,
            }
        )

    def _end_call(self, error: BaseException | None, response: Response) -> None:
        """End the span; of a call whose client is traced, the response is complete afterwards."""
        if self._call is None:
            return
        if self._watch is not None and error is None:
            self._watch.on_end()
        elif self._watch is not None and error is not None:
            self._watch.on_error(error)
        elif error is None:
            self._call.finish(response)
        else:
            self._call.fail(error, response)

    def _make_record(
        self, error: Exception | None, response: Response, ended_ns: int
    ) -> RequestRecord:
        place, usage, timings = self._place, response.usage, response.timings
        failure = response.error if error is None else describe_error(error)
        first_ns = self._first_token_ns()
        phases = self._phases(response, first_ns, ended_ns)
        queue_s = None if phases is None else phases.queue_s
        return RequestRecord(
            run=place.run,
            index=place.number,
            prompt=place.prompt,
            turn=place.turn,
            due_s=(place.due_ns - place.started_ns) / 1e9,
            lag_s=(self._sent_ns - place.due_ns) / 1e9,
            e2e_s=(ended_ns - place.due_ns) / 1e9,
            ttft_s=_seconds(place.due_ns, first_ns),
            ttfo_s=_seconds(place.due_ns, self._fold.answer_ns),
            token_times_s=tuple((at_ns - self._sent_ns) / 1e9 for at_ns in self._fold.token_ns),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cache_read_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            finish_reason=next(iter(response.finish_reasons), None),
            queue_s=queue_s,
            queue_source=None if phases is None else phases.queue_source,
            prefill_s=None if phases is None else phases.prefill_s,
            decode_s=None if phases is None else phases.decode_s,
            prefilled_tokens=None if timings is None else timings.prompt_tokens,
            decoded_tokens=None if timings is None else timings.predicted_tokens,
            error=None if failure is None else failure.type,
            http_status=None if failure is None else failure.status_code,
            **self._span_ids(),
        )

    def _first_token_ns(self) -> int | None:
        if self._fold.token_ns:
            return self._fold.token_ns[0]
        # Of an engine that gives whole replies, one that is traced may have seen the first token.
        return None if self._call is None else self._call.first_token_ns

    def _phases(self, response: Response, first_ns: int | None, ended_ns: int) -> Phases | None:
        if response.timings is None:
            return None
        since_ns = self._sent_ns if self._leaves_ns is None else self._leaves_ns
        return measure_phases(
            response.timings,
            attempt_s=(ended_ns - since_ns) / 1e9,
            headers_s=_seconds(since_ns, self._headers_ns),
            first_token_s=_seconds(since_ns, first_ns),
            has_queue=self._request.has_queue,
        )

    def _span_ids(self) -> dict[str, str]:
        if self._call is None:
            return {}
        context = self._call.span.get_span_context()
        if not context.is_valid:
            return {}
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _seconds(since_ns: int, at_ns: int | None) -> float | None:
    return None if at_ns is None else (at_ns - since_ns) / 1e9


def _text_of(reply: Any) -> str:
    if isinstance(reply, str):
        return reply
    with suppress(LookupError, TypeError):
        return str(reply["choices"][0]["message"]["content"] or "")
    return ""
