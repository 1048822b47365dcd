"""Normalization of operation and provider names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.semconv import (
    INFERENCE_OPERATIONS,
    WELL_KNOWN_OPERATIONS,
    normalize_operation,
    normalize_provider,
)

# Spelled out here, so that a name that is missing in the module fails the test.
WELL_KNOWN = [
    "chat",
    "create_agent",
    "create_memory",
    "create_memory_store",
    "delete_memory",
    "delete_memory_store",
    "embeddings",
    "execute_tool",
    "fetch_response",
    "generate_content",
    "invoke_agent",
    "invoke_workflow",
    "plan",
    "retrieval",
    "search_memory",
    "text_completion",
    "update_memory",
    "upsert_memory",
]


def test_well_known_operations_match_conventions():
    assert sorted(WELL_KNOWN_OPERATIONS) == WELL_KNOWN


def test_inference_operations_are_those_that_run_a_model():
    assert sorted(INFERENCE_OPERATIONS) == [
        "chat",
        "embeddings",
        "generate_content",
        "text_completion",
    ]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", WELL_KNOWN)
def test_normalize_operation_keeps_well_known_name_in_any_case(name, strict):
    assert normalize_operation(name, strict=strict) == name
    assert normalize_operation(name.upper(), strict=strict) == name
    assert normalize_operation(f" {name.title()}\n", strict=strict) == name


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("loose", "known"),
    [
        ("completion", "text_completion"),
        ("Completion", "text_completion"),
        ("embed", "embeddings"),
        ("EMBED", "embeddings"),
        ("embedding", "embeddings"),
        ("Embedding", "embeddings"),
    ],
)
def test_normalize_operation_accepts_alias_even_when_strict(loose, known, strict):
    assert normalize_operation(loose, strict=strict) == known


@pytest.mark.parametrize("name", ["", "summarize", "chat completion", "rerank", "chats", "text"])
def test_normalize_operation_maps_unknown_name_or_raises_when_strict(name):
    assert normalize_operation(name) == "text_completion"
    with pytest.raises(ValueError, match="GenAI operation must be one of") as raised:
        normalize_operation(name, strict=True)
    assert repr(name) in str(raised.value)
    for accepted in [*WELL_KNOWN, "completion", "embed", "embedding"]:
        assert accepted in str(raised.value)


@given(st.text())
def test_normalize_operation_always_returns_well_known_name(name):
    assert normalize_operation(name) in WELL_KNOWN


@pytest.mark.parametrize(
    ("loose", "provider"),
    [
        ("llama_cpp", "llama_cpp"),
        ("llamacpp", "llama_cpp"),
        ("llama.cpp", "llama_cpp"),
        ("LLaMA.cpp", "llama_cpp"),
        ("llama-cpp", "llama_cpp"),
        (" llamacpp ", "llama_cpp"),
        ("openai", "openai"),
        ("azure.ai.openai", "azure.ai.openai"),
        ("MyCompany", "MyCompany"),
        ("huggingface", "huggingface"),
    ],
)
def test_normalize_provider_unifies_llama_cpp_spellings(loose, provider):
    assert normalize_provider(loose) == provider
