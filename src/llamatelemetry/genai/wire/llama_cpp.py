"""Reading what llama.cpp's server has beside OpenAI's formats: its native replies, and Anthropic's.

Native are ``/completion`` and ``/infill``: a flat object, or a list of them when several prompts
or several answers were asked for. ``/v1/messages`` speaks Anthropic's format.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from llamatelemetry.genai.content_readers import fold_choices, read_choices
from llamatelemetry.genai.errors import describe_reported_error
from llamatelemetry.genai.json_access import count, get, integer, items, model_name, text
from llamatelemetry.genai.model import Response, Usage
from llamatelemetry.genai.usage import read_usage
from llamatelemetry.genai.wire.openai_chat import read_timings
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llamatelemetry.genai.errors import ErrorInfo
    from llamatelemetry.genai.model import Content, EngineTimings

# In the words of chat completions; ``none`` is a reply that has not come to its end.
_FINISH_REASON_BY_STOP_TYPE: Final = {"eos": "stop", "word": "stop", "limit": "length"}


_COUNTED: Final = frozenset({"n_cmpl", "n", "prompt"})


def read_choice_count(body: Mapping[str, Any]) -> int:
    """Say how many answers a request asks for: ``n`` of them to each of its prompts."""
    if _COUNTED.isdisjoint(body):
        return 1
    wanted = count(body.get("n_cmpl")) or count(body.get("n")) or 1
    prompts = items(body.get("prompt"))
    # A list that holds numbers is one prompt, of tokens.
    is_one = not prompts or any(isinstance(part, int) for part in prompts)
    return wanted if is_one else wanted * len(prompts)


def read_native(reply: Any, answers_per_prompt: int = 1) -> Response:
    """Read a native completion, or a list of them.

    Args:
        reply: the object or the list.
        answers_per_prompt: how many of a list have the same prompt, which was evaluated once.
    """
    results = items(reply) or (reply,)
    first = results[0]
    timings = read_timings(get(first, "timings"))
    response = Response(
        model=next((name for one in results if (name := model_name(get(one, "model")))), None),
        finish_reasons=_native_finish_reasons(results),
        usage=_native_usage(results, answers_per_prompt, timings),
        timings=timings,
        read_content=partial(_read_native_content, results),
    )
    slot = count(get(first, "id_slot"))
    if slot is not None:
        response.attributes[names.SLOT] = slot
    if any(get(one, "truncated") is True for one in results):
        response.attributes[names.TRUNCATED] = True
    return response


def _read_native_content(results: Sequence[Any]) -> Content:
    """Read the answers as those of a text completion."""
    reasons = [
        _FINISH_REASON_BY_STOP_TYPE.get(text(get(one, "stop_type")) or "") for one in results
    ]
    return read_choices(
        [
            {"text": get(one, "content"), "finish_reason": reason}
            for one, reason in zip(results, reasons, strict=True)
        ]
    )


def _native_finish_reasons(results: Sequence[Any]) -> tuple[str, ...]:
    told = [text(get(one, "stop_type")) for one in results]
    reasons = [_FINISH_REASON_BY_STOP_TYPE.get(stop or "") for stop in told]
    return tuple(reason or "error" for reason in reasons) if any(reasons) else ()


def _native_usage(
    results: Sequence[Any], answers_per_prompt: int, timings: EngineTimings | None
) -> Usage:
    if len(results) == 1:
        usage = Usage(
            input_tokens=count(get(results[0], "tokens_evaluated")),
            output_tokens=count(get(results[0], "tokens_predicted")),
        )
        if timings is not None:
            usage.cache_read_tokens = timings.cached_tokens
        return usage
    cached = [get(get(one, "timings"), "cache_n") for one in results]
    return Usage(
        input_tokens=_of_prompts(
            [get(one, "tokens_evaluated") for one in results], answers_per_prompt
        ),
        output_tokens=_sum([get(one, "tokens_predicted") for one in results]),
        cache_read_tokens=_of_prompts(cached, answers_per_prompt),
    )


def _sum(values: Sequence[Any]) -> int | None:
    counts = [count(value) for value in values]
    return None if None in counts else sum(cast("list[int]", counts))


def _of_prompts(values: Sequence[Any], answers_per_prompt: int) -> int | None:
    total = _sum(values)
    if total is None or total % answers_per_prompt:
        return None
    return total // answers_per_prompt


class NativeFold:
    """The events of a native completion: a piece of text each, and one at each answer's end.

    Args:
        answers_per_prompt: as of `read_native`.
        content_max_chars: up to where each text is kept; ``None`` keeps nothing of what is said.
    """

    __slots__ = ("_answers_per_prompt", "_content", "_error", "_last", "_model")

    def __init__(self, answers_per_prompt: int = 1, content_max_chars: int | None = None) -> None:
        self._answers_per_prompt = answers_per_prompt
        self._content = None if content_max_chars is None else fold_choices(content_max_chars)
        self._last: dict[int, Any] = {}
        self._model: Any = None
        self._error: ErrorInfo | None = None

    def add(self, event: Any) -> bool:
        """Take in one event; say whether it carries a token."""
        error = get(event, "error")
        if error is not None:
            self._error = describe_reported_error(error)
            return False
        # What counts of an answer is its last event: the counts in it are of the whole answer.
        index = integer(get(event, "index")) or 0
        self._last[index] = _counts_of(event)
        if self._content is not None:
            self._content.add(index, {"text": get(event, "content")})
        if self._model is None:
            self._model = get(event, "model")
        return bool(get(event, "content"))

    @property
    def model(self) -> Any:
        """The model that has been named so far: only an answer's last event does."""
        return self._model

    def response(self) -> Response:
        """Give what the events so far add up to."""
        said = {} if self._content is None else self._content.results()
        last = [
            {**self._last[index], "content": get(said.get(index), "text")}
            for index in sorted(self._last)
        ]
        response = read_native(last, self._answers_per_prompt) if last else Response()
        response.error = self._error
        return response


_NATIVE_COUNTS: Final = (
    "model",
    "id_slot",
    "stop_type",
    "tokens_evaluated",
    "tokens_predicted",
    "truncated",
    "timings",
)


def _counts_of(event: Any) -> dict[str, Any]:
    # Not the event itself, which at the end holds the prompt and every setting. Before the
    # end `id_slot` is -1, which is no slot.
    return {name: get(event, name) for name in _NATIVE_COUNTS}


def read_messages_reply(reply: Any) -> Response:
    """Read a reply of ``POST /v1/messages``."""
    reason = text(get(reply, "stop_reason"))
    return Response(
        id=text(get(reply, "id")),
        model=model_name(get(reply, "model")),
        finish_reasons=() if reason is None else (reason,),
        usage=_messages_usage(get(reply, "usage")),
    )


def _messages_usage(usage: Any) -> Usage:
    """Anthropic's input tokens leave out those that came from the cache or went into it."""
    read = read_usage(usage)
    if read.input_tokens is not None:
        read.input_tokens += (read.cache_read_tokens or 0) + (read.cache_write_tokens or 0)
    return read


class MessagesFold:
    """The events of a stream of ``POST /v1/messages``."""

    __slots__ = ("_error", "_message", "_stop_reason", "_usage")

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._stop_reason: Any = None
        self._error: ErrorInfo | None = None

    def add(self, event: Any) -> bool:
        """Take in one event; say whether it carries a token (text, thinking or a tool's input)."""
        kind = get(event, "type")
        if kind == "content_block_delta":
            delta = get(event, "delta")
            return any(get(delta, name) for name in ("text", "thinking", "partial_json"))
        if kind == "message_start":
            message = get(event, "message")
            self._message = {name: get(message, name) for name in ("id", "model")}
            self._add_usage(get(message, "usage"))
        elif kind == "message_delta":
            self._stop_reason = get(get(event, "delta"), "stop_reason")
            self._add_usage(get(event, "usage"))
        elif kind == "error":
            self._error = describe_reported_error(get(event, "error") or event)
        return False

    def _add_usage(self, usage: Any) -> None:
        # The last event repeats only what has changed.
        if isinstance(usage, dict):
            told = cast("dict[str, Any]", usage)
            self._usage.update({name: value for name, value in told.items() if value is not None})

    @property
    def model(self) -> Any:
        """The model that the first event named."""
        return self._message.get("model")

    def response(self) -> Response:
        """Give what the events so far add up to."""
        message = {**self._message, "stop_reason": self._stop_reason, "usage": self._usage}
        response = read_messages_reply(message)
        response.error = self._error
        return response
