"""What an inference engine is to this package, in this process or behind a server."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class InferenceEngine(Protocol):
    """Anything that continues texts and answers messages with a model.

    `LlamaCppClient` and `TransformersBackend` are two; a class of one's own with these three
    members is another, without deriving from this one.
    """

    @property
    def model_name(self) -> str:
        """The model that is used."""
        ...

    def generate(
        self,
        prompt: str,
        max_tokens: int = 256,
        temperature: float = 0.7,
        stop_sequences: list[str] | None = None,
        repetition_penalty: float = 1.0,
    ) -> str:
        """Continue a text, and give what was added."""
        ...

    def chat(
        self, messages: list[dict[str, Any]], max_tokens: int = 256, temperature: float = 0.7
    ) -> dict[str, Any]:
        """Answer messages, and give the answer in the form of a chat completion."""
        ...
