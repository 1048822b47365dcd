"""Operation of a pipeline by its task, and its chat inputs."""

from __future__ import annotations

import sys
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import Request, as_int, as_list, get_field
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import (
    CHAT,
    EMBEDDINGS,
    PROVIDER_HUGGINGFACE,
    TEXT_COMPLETION,
)
from llamatelemetry_instrumentation_transformers._model import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

# Tasks that are an operation in both modes. Others are found by their task.
_OPERATIONS: Final = {
    "text-generation": TEXT_COMPLETION,
    "feature-extraction": EMBEDDINGS,
    "image-feature-extraction": EMBEDDINGS,
}
_ANSWER_MESSAGES: Final = frozenset({"text-generation", "image-text-to-text", "any-to-any"})
_OUTPUT_TYPES: Final = {
    "automatic-speech-recognition": "text",
    "image-text-to-text": "text",
    "image-to-text": "text",
    "text-to-audio": "speech",
}


def read_request(pipeline: Any, inputs: Any, kwargs: Mapping[str, Any]) -> Request:
    """Return the request of a pipeline call.

    Args:
        pipeline: Pipeline with task and model.
        inputs: One or several inputs; an iterator is not consumed.
        kwargs: Other arguments.
    """
    task = task_of(pipeline)
    chats = task in _ANSWER_MESSAGES and bool(chats_in(inputs))
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
    """Return the task; `translation` for any languages."""
    task = str(getattr(pipeline, "task", None) or type(pipeline).__name__)
    return "translation" if task.startswith("translation_") else task


def is_lazy(inputs: Any) -> bool:
    """Return whether a pipeline reads its inputs only as outputs are pulled: dataset or generator."""
    torch: Any = sys.modules.get("torch")
    return isinstance(inputs, GeneratorType) or (
        torch is not None and isinstance(inputs, torch.utils.data.Dataset)
    )


def chats_in(inputs: Any) -> list[list[Any]]:
    """Return the messages of each chat: a list, the library's `Chat`, or several of these."""
    messages = _messages(inputs)
    if messages:
        return [messages]
    chats = [_messages(item) for item in as_list(inputs)]
    return chats if chats and all(chats) else []


def _messages(value: Any) -> list[Any]:
    messages = as_list(getattr(value, "messages", value))
    is_chat = bool(messages) and get_field(messages[0], "role") is not None
    return list(messages) if is_chat else []
