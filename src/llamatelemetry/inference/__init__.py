"""Inference engines: one way to use them, whichever they are, and to trace one of your own."""

from __future__ import annotations

from typing import Any

from llamatelemetry.genai import InferenceEngine
from llamatelemetry.inference._traced import TracedEngine
from llamatelemetry.semconv import normalize_provider
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

__all__ = ["InferenceEngine", "create_engine", "traced_engine"]


def create_engine(backend: str, **options: Any) -> InferenceEngine:
    """Make an engine that is traced.

    ====================  ==========================================================
    ``backend``           the engine, and what ``options`` are
    ====================  ==========================================================
    ``"llama.cpp"``       `LlamaCppClient`: ``base_url``, ``api_key``, ``model``, ...
    ``"transformers"``    `TransformersBackend`: ``model_name_or_path``, ``device``, ...
    ====================  ==========================================================

    Raises:
        ValueError: there is no such backend.
        ImportError: what the backend needs is not installed.
    """
    if normalize_provider(backend) == PROVIDER_LLAMA_CPP:
        from llamatelemetry.llama.client import LlamaCppClient

        return LlamaCppClient(**options)
    if backend == "transformers":
        from llamatelemetry.transformers import TransformersBackend

        return TransformersBackend(**options)
    raise ValueError(f"no backend {backend!r}; accepted: 'llama.cpp', 'transformers'")


def traced_engine(engine: InferenceEngine, *, provider: str | None = None) -> InferenceEngine:
    """Give an engine that does what ``engine`` does and records each call as one span.

    The span is that of work in this process. Tokens and timings are on it where the reply tells
    them, or a client that is traced itself and that the engine asks. A stream is recorded to its
    end, and a coroutine to its result. Everything else of the engine stays reachable. An engine
    that records its own calls (it says so with ``records_its_calls``) is given back as it is.

    Args:
        engine: any object with ``generate``, ``chat`` and ``model_name``.
        provider: who made the engine, as ``gen_ai.provider.name``.

    Raises:
        TypeError: something of an engine is missing.
    """
    missing = [name for name in ("generate", "chat", "model_name") if not hasattr(engine, name)]
    if missing:
        raise TypeError(f"{type(engine)!r} is no inference engine: it lacks {', '.join(missing)}")
    if getattr(engine, "records_its_calls", False):
        return engine
    return TracedEngine(engine, provider)
