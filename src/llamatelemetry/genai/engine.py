"""The interface of an inference engine, in this process or behind a server."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class InferenceEngine(Protocol):
    """Interface of an object that generates text with a model.

    `LlamaCppClient` and `TransformersBackend` implement it. Any class with these three members does;
    it need not derive from this one.

    Examples:
        >>> from llamatelemetry.inference import InferenceEngine
        >>> from llamatelemetry.llama import LlamaCppClient
        >>> isinstance(LlamaCppClient(), InferenceEngine)
        True
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
        """Continue a text and return the generated text.

        Args:
            prompt: The text. No chat template is applied.
            max_tokens: Maximum number of output tokens.
            temperature: Sampling temperature; 0 selects the most likely token.
            stop_sequences: Texts before which the generated text ends.
            repetition_penalty: Values above 1 make repeated tokens less likely.
        """
        ...

    def chat(
        self, messages: list[dict[str, Any]], max_tokens: int = 256, temperature: float = 0.7
    ) -> dict[str, Any]:
        """Generate a response to messages and return it in the format of a chat completion.

        Args:
            messages: Messages in OpenAI's format.
            max_tokens: Maximum number of output tokens.
            temperature: Sampling temperature; 0 selects the most likely token.
        """
        ...
