"""Inputs of pipelines as messages, parsed only if content is captured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import Content, as_list, as_str, get_field, parse_chat_request, text_part
from llamatelemetry_instrumentation_transformers._tasks import chats_in, task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Tasks with an operation that has content.
_WITHOUT_CONTENT: Final = frozenset({"feature-extraction", "image-feature-extraction"})
_TEXT_FIELDS: Final = ("text", "prompt", "question", "context")


def inputs_reader(
    pipeline: Any, inputs: Any, kwargs: Mapping[str, Any]
) -> Callable[[], Content] | None:
    """Return a function that parses the messages; `None` for a task without any."""
    if task_of(pipeline) in _WITHOUT_CONTENT:
        return None
    return lambda: _read(pipeline, inputs, kwargs)


def _read(pipeline: Any, inputs: Any, kwargs: Mapping[str, Any]) -> Content:
    tokens = getattr(inputs, "token_ids", None)
    chats = chats_in(inputs)
    if chats:
        read = parse_chat_request({"messages": chats[0], "tools": kwargs.get("tools")})
        for messages in chats[1:]:
            read.inputs += parse_chat_request({"messages": messages}).inputs
        return read
    if tokens is not None and tokens.ndim == 2:
        decode = pipeline.tokenizer.decode
        texts = [decode(row, skip_special_tokens=True) for row in tokens.tolist()]
    else:
        texts = _texts(inputs)
    return Content(inputs=[{"role": "user", "parts": text_part(each)} for each in texts])


def _texts(inputs: Any) -> list[str]:
    one = as_str(inputs)
    if one is not None:
        return [one]
    if isinstance(inputs, dict):
        found = (as_str(get_field(inputs, name)) for name in _TEXT_FIELDS)
        return [each for each in found if each is not None]
    return [each for item in as_list(inputs) for each in _texts(item)]
