"""The values of ``gen_ai.operation.name`` and ``gen_ai.provider.name``."""

from __future__ import annotations

from typing import Final

CHAT: Final = "chat"
TEXT_COMPLETION: Final = "text_completion"
EMBEDDINGS: Final = "embeddings"
GENERATE_CONTENT: Final = "generate_content"
RETRIEVAL: Final = "retrieval"

WELL_KNOWN_OPERATIONS: Final = frozenset(
    {
        CHAT,
        GENERATE_CONTENT,
        TEXT_COMPLETION,
        EMBEDDINGS,
        RETRIEVAL,
        "fetch_response",
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

_ALIASES: Final = {
    "completion": TEXT_COMPLETION,
    "embed": EMBEDDINGS,
    "embedding": EMBEDDINGS,
}

PROVIDER_OPENAI: Final = "openai"
PROVIDER_LLAMA_CPP: Final = "llama_cpp"
PROVIDER_HUGGINGFACE: Final = "huggingface"

# The openai.* attributes belong to these; with another provider's name they would contradict it.
OPENAI_PROVIDERS: Final = frozenset({PROVIDER_OPENAI, "azure.ai.openai"})

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


def normalize_provider(name: str) -> str:
    """Give the one spelling of a provider: ``llamacpp`` and ``llama.cpp`` are ``llama_cpp``."""
    key = name.strip()
    return _PROVIDER_ALIASES.get(key.lower(), key)
