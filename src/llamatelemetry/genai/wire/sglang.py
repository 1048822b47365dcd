"""Parser of SGLang's native route `/generate`.

A response is an object with `text` and `meta_info`, or a list of them for several prompts or choices.
An event of a stream has the whole text so far, or only the new text if the server was started with
`--incremental-streaming-output`. Sources: `sglang/srt/managers/io_struct.py` and
`sglang/srt/managers/tokenizer_manager.py` of version 0.5.23.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.content.chat_accumulator import GrowingText
from llamatelemetry.genai.content.messages import parse_choices, parse_completion_request
from llamatelemetry.genai.engines import read_engine
from llamatelemetry.genai.errors import describe_reported_error, find_reported_error
from llamatelemetry.genai.json_access import (
    as_count,
    as_dict,
    as_fields,
    as_int,
    as_list,
    as_str,
    get_field,
)
from llamatelemetry.genai.model import Response, Usage
from llamatelemetry.genai.wire.openai_chat import parse_choice_count, parse_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.errors import ErrorInfo
    from llamatelemetry.genai.model import Content

_RENAMED: Final = {"max_new_tokens": "max_tokens", "sampling_seed": "seed"}


def parse_sglang_parameters(body: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """Return the `sampling_params` as span attributes. Those of each prompt differ: then none."""
    sampling = as_dict(body.get("sampling_params"))
    return parse_parameters({_RENAMED.get(name, name): value for name, value in sampling.items()})


def parse_sglang_choice_count(body: Mapping[str, Any]) -> int:
    """Return the number of requested choices: `n` for each prompt."""
    return parse_choice_count(
        {"prompt": _prompts_of(body), "n": as_dict(body.get("sampling_params")).get("n")}
    )


def parse_sglang_request(body: Mapping[str, Any]) -> Content:
    """Parse the prompts. Tokens are not text."""
    return parse_completion_request({"prompt": body.get("text")})


def _prompts_of(body: Mapping[str, Any]) -> Any:
    return body.get("text") or body.get("input_ids")


def parse_sglang_response(reply: Any, choices_per_prompt: int = 1) -> Response:
    """Parse a response. Choices of the same prompt, `choices_per_prompt` of them, evaluate it once."""
    results = [as_fields(one) for one in as_list(reply) or (reply,)]
    metas = [as_fields(fields.get("meta_info")) for fields in results]
    provider, timings = read_engine(results[0], None)
    reasons = [_finish_reason(meta) for meta in metas]
    return Response(
        id=as_str(metas[0].get("id")) if len(metas) == 1 else None,
        finish_reasons=tuple(reason or "error" for reason in reasons) if any(reasons) else (),
        usage=Usage(
            input_tokens=_sum(metas, "prompt_tokens", choices_per_prompt),
            output_tokens=_sum(metas, "completion_tokens"),
            cache_read_tokens=_sum(metas, "cached_tokens") if len(metas) == 1 else None,
        ),
        timings=timings if len(metas) == 1 else None,
        provider=provider,
        error=find_reported_error(reply) or _abort_error(metas),
        read_content=partial(_parse_content, results),
    )


def _parse_content(results: Sequence[Mapping[str, Any]]) -> Content:
    return parse_choices(
        [
            {
                "text": fields.get("text"),
                "finish_reason": _finish_reason(as_fields(fields.get("meta_info"))),
            }
            for fields in results
        ]
    )


def _finish_reason(meta: Mapping[str, Any]) -> str | None:
    """Return the type of a finish reason. Old versions send only the type."""
    reason = meta.get("finish_reason")
    return as_str(get_field(reason, "type") if isinstance(reason, dict) else reason)


def _abort_error(metas: Sequence[Mapping[str, Any]]) -> ErrorInfo | None:
    """Describe the error that aborted a request. An abort on request has no status."""
    for meta in metas:
        status = as_int(get_field(meta.get("finish_reason"), "status_code"))
        if status is not None:
            return describe_reported_error({"code": status})
    return None


def _sum(metas: Sequence[Mapping[str, Any]], name: str, repeated: int = 1) -> int | None:
    total = 0
    for meta in metas:
        count = as_count(meta.get(name))
        if count is None:
            return None
        total += count
    return None if total % repeated else total // repeated


class SGLangAccumulator:
    """Accumulator for the events of a native stream.

    Args:
        choices_per_prompt: Number of choices with the same prompt.
        content_max_chars: Maximum number of characters to keep of each text; `None` keeps no text.
    """

    __slots__ = ("_choices_per_prompt", "_content_max_chars", "_error", "_metas", "_texts")

    def __init__(self, choices_per_prompt: int = 1, content_max_chars: int | None = None) -> None:
        self._choices_per_prompt = choices_per_prompt
        self._content_max_chars = content_max_chars
        self._error: ErrorInfo | None = None
        self._metas: dict[int, Any] = {}
        self._texts: dict[int, GrowingText] = {}

    def add(self, chunk: Any) -> bool:
        """Add one event. Return whether it carries a token."""
        error = find_reported_error(chunk)
        if error is not None:
            self._error = error
            return False
        index = as_int(get_field(chunk, "index")) or 0
        meta = as_fields(get_field(chunk, "meta_info"))
        if meta:
            self._metas[index] = _without_lists(meta)
        text = get_field(chunk, "text")
        if self._content_max_chars is not None and text:
            if index not in self._texts or not _is_incremental(chunk, meta):
                self._texts[index] = GrowingText(self._content_max_chars)
            self._texts[index].add(text)
        return bool(text or get_field(chunk, "output_ids"))

    @property
    def model(self) -> Any:
        """The model, which no event names."""
        return None

    def response(self) -> Response:
        """Return the response accumulated so far."""
        results = [
            {
                "meta_info": self._metas[index],
                "text": self._texts[index].result() if index in self._texts else None,
            }
            for index in sorted(self._metas)
        ]
        response = (
            parse_sglang_response(results, self._choices_per_prompt) if results else Response()
        )
        response.error = self._error or response.error
        return response


def _without_lists(meta: Mapping[str, Any]) -> dict[str, Any]:
    # Log probabilities of all tokens so far are in each event.
    return {name: value for name, value in meta.items() if not isinstance(value, list)}


def _is_incremental(event: Any, meta: Mapping[str, Any]) -> bool:
    """Return whether an event has fewer tokens than were generated so far."""
    tokens = as_list(get_field(event, "output_ids"))
    generated = as_count(meta.get("completion_tokens"))
    return bool(tokens) and generated is not None and len(tokens) < generated
