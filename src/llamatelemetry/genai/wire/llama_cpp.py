"""Parser of llama.cpp's native completions: `/completion` and `/infill`.

A response is a flat object, or a list of objects for several prompts or several choices.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from llamatelemetry.genai.content.chat_accumulator import ChoicesContentAccumulator
from llamatelemetry.genai.content.messages import parse_choices
from llamatelemetry.genai.engines.llama_cpp import parse_timings
from llamatelemetry.genai.errors import find_reported_error
from llamatelemetry.genai.json_access import (
    as_count,
    as_int,
    as_list,
    as_str,
    get_field,
    model_name,
)
from llamatelemetry.genai.model import Response, Usage
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.genai.errors import ErrorInfo
    from llamatelemetry.genai.model import Content, EngineTimings

# Finish reasons of chat completions. `none` means an unfinished response.
_FINISH_REASON_BY_STOP_TYPE: Final = {"eos": "stop", "word": "stop", "limit": "length"}


def parse_native_completion(reply: Any, answers_per_prompt: int = 1) -> Response:
    """Parse a native completion, or a list of them.

    Choices with the same prompt, `answers_per_prompt` of them, evaluate it once.
    """
    results = as_list(reply) or (reply,)
    first = results[0]
    timings = parse_timings(get_field(first, "timings"))
    response = Response(
        model=next(
            (name for one in results if (name := model_name(get_field(one, "model")))), None
        ),
        finish_reasons=_native_finish_reasons(results),
        usage=_native_usage(results, answers_per_prompt, timings),
        timings=timings,
        provider=None if timings is None else timings.provider,
        error=find_reported_error(reply),
        read_content=partial(_parse_native_content, results),
    )
    slot = as_count(get_field(first, "id_slot"))
    if slot is not None:
        response.attributes[names.SLOT] = slot
    if any(get_field(one, "truncated") is True for one in results):
        response.attributes[names.TRUNCATED] = True
    return response


def _parse_native_content(results: Sequence[Any]) -> Content:
    """Parse the choices as those of a text completion."""
    return parse_choices(
        [
            {"text": get_field(one, "content"), "finish_reason": _finish_reason(one)}
            for one in results
        ]
    )


def _finish_reason(result: Any) -> str | None:
    return _FINISH_REASON_BY_STOP_TYPE.get(as_str(get_field(result, "stop_type")) or "")


def _native_finish_reasons(results: Sequence[Any]) -> tuple[str, ...]:
    reasons = [_finish_reason(one) for one in results]
    return tuple(reason or "error" for reason in reasons) if any(reasons) else ()


def _native_usage(
    results: Sequence[Any], answers_per_prompt: int, timings: EngineTimings | None
) -> Usage:
    if len(results) == 1:
        usage = Usage(
            input_tokens=as_count(get_field(results[0], "tokens_evaluated")),
            output_tokens=as_count(get_field(results[0], "tokens_predicted")),
        )
        if timings is not None:
            usage.cache_read_tokens = timings.cached_tokens
        return usage
    cached = [get_field(get_field(one, "timings"), "cache_n") for one in results]
    return Usage(
        input_tokens=_of_prompts(
            [get_field(one, "tokens_evaluated") for one in results], answers_per_prompt
        ),
        output_tokens=_sum([get_field(one, "tokens_predicted") for one in results]),
        cache_read_tokens=_of_prompts(cached, answers_per_prompt),
    )


def _sum(values: Sequence[Any]) -> int | None:
    counts = [as_count(value) for value in values]
    return None if None in counts else sum(cast("list[int]", counts))


def _of_prompts(values: Sequence[Any], answers_per_prompt: int) -> int | None:
    total = _sum(values)
    if total is None or total % answers_per_prompt:
        return None
    return total // answers_per_prompt


class LlamaCppAccumulator:
    """Accumulator for the events of a native completion: texts, and one event that ends a choice.

    Args:
        answers_per_prompt: Number of choices with the same prompt.
        content_max_chars: Maximum number of characters to keep of each text; `None` keeps no text.
    """

    __slots__ = ("_answers_per_prompt", "_content", "_error", "_last", "_model")

    def __init__(self, answers_per_prompt: int = 1, content_max_chars: int | None = None) -> None:
        self._answers_per_prompt = answers_per_prompt
        self._content = (
            None if content_max_chars is None else ChoicesContentAccumulator(content_max_chars)
        )
        self._last: dict[int, Any] = {}
        self._model: Any = None
        self._error: ErrorInfo | None = None

    def add(self, event: Any) -> bool:
        """Add one event. Return whether it carries a token."""
        error = find_reported_error(event)
        if error is not None:
            self._error = error
            return False
        # The last event of a choice has the counts of the whole choice.
        index = as_int(get_field(event, "index")) or 0
        self._last[index] = _counts_of(event)
        if self._content is not None:
            self._content.add(index, {"text": get_field(event, "content")})
        if self._model is None:
            self._model = get_field(event, "model")
        return bool(get_field(event, "content"))

    @property
    def model(self) -> Any:
        """Model named so far. Only the last event of a choice names it."""
        return self._model

    def response(self) -> Response:
        """Return the response accumulated so far."""
        last = [self._last[index] for index in sorted(self._last)]
        response = parse_native_completion(last, self._answers_per_prompt) if last else Response()
        response.error = self._error
        # Read by itself, so that a failure there cannot lose the counts.
        response.read_content = self._read_content
        return response

    def _read_content(self) -> Content:
        contents = {} if self._content is None else self._content.results()
        return _parse_native_content(
            [
                {**self._last[index], "content": get_field(contents.get(index), "text")}
                for index in sorted(self._last)
            ]
        )


_KEPT_FIELDS: Final = (
    *("model", "id_slot", "stop_type", "tokens_evaluated", "tokens_predicted"),
    *("truncated", "timings"),
)


def _counts_of(event: Any) -> dict[str, Any]:
    # The last event itself is not kept: it contains the prompt and all settings. Before the end
    # `id_slot` is -1, which is not a slot.
    return {name: get_field(event, name) for name in _KEPT_FIELDS}
