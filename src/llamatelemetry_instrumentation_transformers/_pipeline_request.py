"""Parsing of pipeline inputs: the operation by task, the chats, and the messages as content."""

from __future__ import annotations

import sys
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import (
    Content,
    Request,
    as_int,
    as_list,
    as_str,
    get_field,
    parse_chat_request,
    text_part,
)
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import (
    CHAT,
    EMBEDDINGS,
    PROVIDER_HUGGINGFACE,
    TEXT_COMPLETION,
)
from llamatelemetry_instrumentation_transformers._model import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Tasks with an operation, with and without strict operation names. For other tasks,
# `Instrumenter.start` finds the operation.
_OPERATIONS: Final = {
    "text-generation": TEXT_COMPLETION,
    "feature-extraction": EMBEDDINGS,
    "image-feature-extraction": EMBEDDINGS,
}
_CHAT_TASKS: Final = frozenset({"text-generation", "image-text-to-text", "any-to-any"})
_OUTPUT_TYPES: Final = {
    "automatic-speech-recognition": "text",
    "image-text-to-text": "text",
    "image-to-text": "text",
    "text-to-audio": "speech",
}
# Embeddings have no content.
_WITHOUT_CONTENT: Final = frozenset({"feature-extraction", "image-feature-extraction"})
_TEXT_FIELDS: Final = ("text", "prompt", "question", "context")


def parse_request(pipeline: Any, inputs: Any, kwargs: Mapping[str, Any]) -> Request:
    """Return the request of a pipeline call. An iterator of inputs is not consumed."""
    task = task_of(pipeline)
    chats = task in _CHAT_TASKS and bool(chats_in(inputs))
    operation = CHAT if chats else _OPERATIONS.get(task)
    request = Request(
        operation=operation,
        provider=PROVIDER_HUGGINGFACE,
        model=name_of(pipeline.model),
        task=task if operation is None else None,
        stream=kwargs.get("streamer") is not None,
        has_queue=False,
    )
    request.parameters[names.TASK] = task
    if task in _OUTPUT_TYPES:
        request.parameters[names.GEN_AI_OUTPUT_TYPE] = _OUTPUT_TYPES[task]
    longest = as_int(kwargs.get("max_new_tokens"))
    if longest is not None:
        request.parameters[names.GEN_AI_REQUEST_MAX_TOKENS] = longest
    return request


def task_of(pipeline: Any) -> str:
    """Return the task of a pipeline: `translation` for every pair of languages."""
    task = str(getattr(pipeline, "task", None) or type(pipeline).__name__)
    return "translation" if task.startswith("translation_") else task


def is_lazy(inputs: Any) -> bool:
    """Return whether the inputs are a dataset or generator, read only when outputs are pulled."""
    torch: Any = sys.modules.get("torch")
    return isinstance(inputs, GeneratorType) or (
        torch is not None and isinstance(inputs, torch.utils.data.Dataset)
    )


def chats_in(inputs: Any) -> list[list[Any]]:
    """Return the messages of each chat: one list of messages, one `Chat`, or several of these."""
    messages = _messages(inputs)
    if messages:
        return [messages]
    chats = [_messages(item) for item in as_list(inputs)]
    return chats if chats and all(chats) else []


def _messages(value: Any) -> list[Any]:
    messages = as_list(getattr(value, "messages", value))
    is_chat = bool(messages) and get_field(messages[0], "role") is not None
    return list(messages) if is_chat else []


def content_reader(
    pipeline: Any, inputs: Any, kwargs: Mapping[str, Any]
) -> Callable[[], Content] | None:
    """Return a function that parses the content; `None` for a task without content."""
    if task_of(pipeline) in _WITHOUT_CONTENT:
        return None
    return lambda: _parse_content(pipeline, inputs, kwargs)


def _parse_content(pipeline: Any, inputs: Any, kwargs: Mapping[str, Any]) -> Content:
    tokens = getattr(inputs, "token_ids", None)
    chats = chats_in(inputs)
    if chats:
        content = parse_chat_request({"messages": chats[0], "tools": kwargs.get("tools")})
        for messages in chats[1:]:
            content.inputs += parse_chat_request({"messages": messages}).inputs
        return content
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
