"""The interface of an inference engine, in this process or behind a server."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class InferenceEngine(Protocol):
    """Interface of an object that generates text with a model.

    `LlamaCppClient` and `TransformersBackend` implement it. Any class with these three members does;
    it need not derive from this one.
    """

    @property
    def model_name(self) -> str:
        """Name of the model."""
        ...

    def generate(
        self,
        prompt: str,
        max_tokens: int = 256,
        temperature: float = 0.7,
        stop_sequences: list[str] | None = None,
        repetition_penalty: float = 1.0,
    ) -> str:
        """Continue a text and return the generated text."""
        ...

    def chat(
        self, messages: list[dict[str, Any]], max_tokens: int = 256, temperature: float = 0.7
    ) -> dict[str, Any]:
        """Generate a response to messages and return it in the format of a chat completion."""
        ...
