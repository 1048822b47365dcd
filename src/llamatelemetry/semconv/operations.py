"""The values of ``gen_ai.operation.name`` and ``gen_ai.provider.name``."""

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
        CHAT,
        GENERATE_CONTENT,
        TEXT_COMPLETION,
        EMBEDDINGS,
        RETRIEVAL,
        FETCH_RESPONSE,
        "create_agent",
        "invoke_agent",
        "execute_tool",
        "invoke_workflow",
        "plan",
        "create_memory",
        "search_memory",
        "update_memory",
        "upsert_memory",
        "delete_memory",
        "create_memory_store",
        "delete_memory_store",
    }
)

# Operations in which a model runs: a span of one of these is an inference call, so a call
# found inside it is the same call seen one layer down.
INFERENCE_OPERATIONS: Final = frozenset({CHAT, GENERATE_CONTENT, TEXT_COMPLETION, EMBEDDINGS})

# What models are asked to do that has no operation name of its own: the operation each counts
# as under strict operation names. None: it has no counterpart, and its span names no operation.
OPERATION_OF_TASK: Final[Mapping[str, str | None]] = {
    "image_generation": GENERATE_CONTENT,
    "image_edit": GENERATE_CONTENT,
    "image_variation": GENERATE_CONTENT,
    "speech": GENERATE_CONTENT,
    "transcription": GENERATE_CONTENT,
    "speech_translation": GENERATE_CONTENT,
    "infill": TEXT_COMPLETION,
    "rerank": RETRIEVAL,
    "moderation": None,
    # Pipelines of Hugging Face Transformers. Those that classify, extract or fill a mask have
    # no counterpart, and neither has a task that is not listed.
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

# The openai.* attributes belong to these; with another provider's name they would contradict it.
OPENAI_PROVIDERS: Final = frozenset({PROVIDER_OPENAI, PROVIDER_AZURE_OPENAI})

_PROVIDER_ALIASES: Final = {
    "llamacpp": PROVIDER_LLAMA_CPP,
    "llama.cpp": PROVIDER_LLAMA_CPP,
    "llama-cpp": PROVIDER_LLAMA_CPP,
}


def normalize_operation(name: str, strict: bool = False) -> str:
    """Give the well-known operation that a loose name stands for.

    ==============================  ===================
    name (in any case)              result
    ==============================  ===================
    ``chat``                        ``chat``
    ``Completion``                  ``text_completion``
    ``embed``, ``embedding``        ``embeddings``
    any well-known operation        itself
    ``summarise``                   ``text_completion``
    ``summarise``, ``strict=True``  ``ValueError``
    ==============================  ===================

    Raises:
        ValueError: ``strict`` and the name stands for no well-known operation.
    """
    key = name.strip().lower()
    known = _ALIASES.get(key, key)
    if known in WELL_KNOWN_OPERATIONS:
        return known
    if strict:
        accepted = ", ".join(sorted(WELL_KNOWN_OPERATIONS | _ALIASES.keys()))
        raise ValueError(f"{name!r} is not a well-known GenAI operation; accepted: {accepted}")
    return TEXT_COMPLETION


def operation_of_task(task: str, strict: bool = True) -> str | None:
    """Give the operation name of work that has none of its own, such as "transcription".

    Strict, it is the well-known operation that the work counts as, or ``None`` when there is no
    counterpart or the task is not known here. Not strict, the task is its own name.
    """
    return OPERATION_OF_TASK.get(task) if strict else task


def normalize_provider(name: str) -> str:
    """Give the one spelling of a provider: ``llamacpp`` and ``llama.cpp`` are ``llama_cpp``."""
    key = name.strip()
    return _PROVIDER_ALIASES.get(key.lower(), key)
