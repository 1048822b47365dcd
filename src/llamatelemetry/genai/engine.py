"""The interface of an inference engine, in this process or behind a server."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class InferenceEngine(Protocol):
    """A model that completes texts and answers chat messages.

    `LlamaCppClient` and `TransformersBackend` are engines. So is any class with these three
    members; it need not derive from this one.
    """

    @property
    def model_name(self) -> str:
        """The name of the model."""
        ...

    def generate(
        self,
        prompt: str,
        max_tokens: int = 256,
        temperature: float = 0.7,
        stop_sequences: list[str] | None = None,
        repetition_penalty: float = 1.0,
    ) -> str:
        """Return the completion of a text."""
        ...

    def chat(
        self, messages: list[dict[str, Any]], max_tokens: int = 256, temperature: float = 0.7
    ) -> dict[str, Any]:
        """Return the answer to chat messages, as an OpenAI chat completion."""
        ...
