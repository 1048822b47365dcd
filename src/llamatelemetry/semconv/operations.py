"""Values of `gen_ai.operation.name` and `gen_ai.provider.name`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAT: Final = "chat"
TEXT_COMPLETION: Final = "text_completion"
EMBEDDINGS: Final = "embeddings"
GENERATE_CONTENT: Final = "generate_content"
RETRIEVAL: Final = "retrieval"
FETCH_RESPONSE: Final = "fetch_response"

WELL_KNOWN_OPERATIONS: Final = frozenset(
    {
        *(CHAT, GENERATE_CONTENT, TEXT_COMPLETION, EMBEDDINGS, RETRIEVAL, FETCH_RESPONSE),
        *("create_agent", "invoke_agent", "execute_tool", "invoke_workflow", "plan"),
        *("create_memory", "search_memory", "update_memory", "upsert_memory", "delete_memory"),
        *("create_memory_store", "delete_memory_store"),
    }
)
"""Values of `gen_ai.operation.name` in the conventions."""

INFERENCE_OPERATIONS: Final = frozenset({CHAT, GENERATE_CONTENT, TEXT_COMPLETION, EMBEDDINGS})
"""Operations that run a model.

A call inside a span of one of these operations is the same call, seen by a lower layer.
"""

# Tasks without an operation name in the conventions, with the operation that strict operation
# names use instead. None: no operation matches, and the span has no operation name.
OPERATION_OF_TASK: Final[Mapping[str, str | None]] = {
    "image_generation": GENERATE_CONTENT,
    "image_edit": GENERATE_CONTENT,
    "image_variation": GENERATE_CONTENT,
    "speech": GENERATE_CONTENT,
    "transcription": GENERATE_CONTENT,
    "speech_translation": GENERATE_CONTENT,
    "infill": TEXT_COMPLETION,
    "rerank": RETRIEVAL,
    "compaction": GENERATE_CONTENT,
    "moderation": None,
    "realtime": GENERATE_CONTENT,
    "response_cancellation": None,
    # Pipelines of Hugging Face Transformers. No operation matches those that classify, extract
    # or fill a mask, nor any task that is not listed.
    "text-generation": TEXT_COMPLETION,
    "text2text-generation": TEXT_COMPLETION,
    "summarization": TEXT_COMPLETION,
    "translation": TEXT_COMPLETION,
    "feature-extraction": EMBEDDINGS,
    "image-feature-extraction": EMBEDDINGS,
    "automatic-speech-recognition": GENERATE_CONTENT,
    "text-to-audio": GENERATE_CONTENT,
    "image-text-to-text": GENERATE_CONTENT,
    "image-to-text": GENERATE_CONTENT,
    "any-to-any": GENERATE_CONTENT,
}

_ALIASES: Final = {
    "completion": TEXT_COMPLETION,
    "embed": EMBEDDINGS,
    "embedding": EMBEDDINGS,
}

PROVIDER_OPENAI: Final = "openai"
PROVIDER_AZURE_OPENAI: Final = "azure.ai.openai"
PROVIDER_LLAMA_CPP: Final = "llama_cpp"
PROVIDER_HUGGINGFACE: Final = "huggingface"

# Providers with `openai.*` attributes. Those attributes would contradict another provider name.
OPENAI_PROVIDERS: Final = frozenset({PROVIDER_OPENAI, PROVIDER_AZURE_OPENAI})

_PROVIDER_ALIASES: Final = {
    "llamacpp": PROVIDER_LLAMA_CPP,
    "llama.cpp": PROVIDER_LLAMA_CPP,
    "llama-cpp": PROVIDER_LLAMA_CPP,
}

TOOLS_REORDERED: Final = " order"
"""End of `llamatelemetry.prompt.first_change` if the prompts have the same tools in another order."""


def normalize_operation(name: str, strict: bool = False) -> str:
    """Return the well-known operation for a name.

    | Name (in any case) | Result |
    |---|---|
    | `chat` | `chat` |
    | `Completion` | `text_completion` |
    | `embed`, `embedding` | `embeddings` |
    | Any well-known operation | The same name |
    | `summarize` | `text_completion` |
    | `summarize` with `strict=True` | `ValueError` |

    Raises:
        ValueError: `strict` is set and the name is unknown.

    Examples:
        >>> from llamatelemetry.semconv import normalize_operation
        >>> normalize_operation("Completion"), normalize_operation("embed")
        ('text_completion', 'embeddings')
        >>> normalize_operation("summarize")
        'text_completion'
        >>> normalize_operation("summarize", strict=True)
        Traceback (most recent call last):
        ValueError: GenAI operation must be one of chat, ..., got 'summarize'
    """
    key = name.strip().lower()
    known = _ALIASES.get(key, key)
    if known in WELL_KNOWN_OPERATIONS:
        return known
    if strict:
        accepted = ", ".join(sorted(WELL_KNOWN_OPERATIONS | _ALIASES.keys()))
        raise ValueError(f"GenAI operation must be one of {accepted}, got {name!r}")
    return TEXT_COMPLETION


def operation_of_task(task: str, strict: bool = True) -> str | None:
    """Return the operation name of a task that the conventions lack, such as "transcription".

    With `strict`, it is the well-known operation that matches the task, or `None`, else the task.
    """
    return OPERATION_OF_TASK.get(task) if strict else task


def normalize_provider(name: str) -> str:
    """Return the canonical spelling of a provider: `llamacpp` and `llama.cpp` are `llama_cpp`.

    Examples:
        >>> from llamatelemetry.semconv import normalize_provider
        >>> normalize_provider("llama.cpp"), normalize_provider("openai")
        ('llama_cpp', 'openai')
    """
    key = name.strip()
    return _PROVIDER_ALIASES.get(key.lower(), key)
