"""Inference engines: one interface for all, and tracing of custom engines."""

from __future__ import annotations

from typing import Any

from llamatelemetry.genai import InferenceEngine
from llamatelemetry.inference._traced import TracedEngine
from llamatelemetry.semconv import normalize_provider
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

__all__ = ["InferenceEngine", "create_engine", "traced_engine"]


def create_engine(backend: str, **options: Any) -> InferenceEngine:
    """Create a traced engine.

    | `backend` | Engine and its options |
    |---|---|
    | `"llama.cpp"` | `LlamaCppClient`: `base_url`, `api_key`, `model`, ... |
    | `"transformers"` | `TransformersBackend`: `model_name_or_path`, `device`, ... |

    Raises:
        ValueError: The backend is unknown.
        ImportError: A package that the backend needs is not installed.

    Examples:
        >>> from llamatelemetry.inference import create_engine
        >>> engine = create_engine("llama.cpp", base_url="http://127.0.0.1:8080")
        >>> text = engine.generate("The moon is", max_tokens=4, temperature=0)
        >>> engine.model_name
        'SmolLM2-135M-Instruct'
        >>> engine.close()
        >>> create_engine("paper")
        Traceback (most recent call last):
        ValueError: backend must be 'llama.cpp' or 'transformers', got 'paper'
    """
    if normalize_provider(backend) == PROVIDER_LLAMA_CPP:
        from llamatelemetry.llama import LlamaCppClient

        return LlamaCppClient(**options)
    if backend == "transformers":
        from llamatelemetry.transformers import TransformersBackend

        return TransformersBackend(**options)
    raise ValueError(f"backend must be 'llama.cpp' or 'transformers', got {backend!r}")


def traced_engine(engine: InferenceEngine, *, provider: str | None = None) -> InferenceEngine:
    """Return an engine that records each call of `engine` as one span.

    The span has kind `INTERNAL`. It has tokens and timings if the response contains them, or if the
    engine uses a client that is traced itself. A stream is recorded until its end, a coroutine until
    its result. All other attributes of the engine stay accessible. An engine with a true attribute
    `records_its_calls` is returned unchanged.

    Args:
        engine: Object with `generate`, `chat` and `model_name`.
        provider: Value of `gen_ai.provider.name`.

    Raises:
        TypeError: The object lacks a part of the interface.

    Examples:
        >>> from llamatelemetry.inference import traced_engine
        >>> class Echo:
        ...     model_name = "echo-1"
        ...     def generate(self, prompt, max_tokens=256, temperature=0.7):
        ...         return prompt
        ...     def chat(self, messages, max_tokens=256, temperature=0.7):
        ...         message = {"role": "assistant", "content": messages[-1]["content"]}
        ...         usage = {"prompt_tokens": 1, "completion_tokens": 1}
        ...         return {"choices": [{"message": message}], "usage": usage}
        >>> engine = traced_engine(Echo(), provider="echo")
        >>> engine.generate("Hello")  # One span: text_completion echo-1
        'Hello'
    """
    missing = [name for name in ("generate", "chat", "model_name") if not hasattr(engine, name)]
    if missing:
        raise TypeError(
            f"engine must be an inference engine, got {type(engine)!r}, which lacks {', '.join(missing)}"
        )
    if getattr(engine, "records_its_calls", False):
        return engine
    return TracedEngine(engine, provider)
