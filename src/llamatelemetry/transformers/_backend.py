"""A Transformers model as an inference engine, traced."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from llamatelemetry.semconv.operations import CHAT, EMBEDDINGS, TEXT_COMPLETION
from llamatelemetry.transformers._loading import load
from llamatelemetry.transformers._recording import Recording, now_s
from llamatelemetry.transformers._running import Answer, Run, Sampling, embed
from llamatelemetry.transformers._streaming import TextStream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Messages = Sequence[Mapping[str, Any]]


class TransformersBackend:
    """Inference engine for a Transformers model in this process.

    It satisfies `llamatelemetry.inference.InferenceEngine`. Each call is one span with token counts and
    phases, with or without the plugin for transformers. With the plugin, the span also describes the
    model.

    Args:
        model_name_or_path: Name on the Hub, directory, or GGUF file.
        device: `"cpu"`, `"cuda"` or `"cuda:1"`; a GPU by default if there is one.
        dtype: `"float16"`, `"bfloat16"`, `"auto"` or a `torch.dtype`; the library's default if `None`.
        stop_sequences: Texts before which a generated text ends, unless a call sets its own.
        repetition_penalty: Values over 1 make repeated tokens less likely, unless a call sets its own.
        trust_remote_code: Whether to run code that comes with the model.

    Raises:
        ImportError: transformers or torch is not installed, or `gguf` for a GGUF file.
        FileNotFoundError: The GGUF file does not exist.
    """

    records_its_calls = True

    def __init__(
        self,
        model_name_or_path: str | Path,
        *,
        device: Any = None,
        dtype: Any = None,
        stop_sequences: Sequence[str] | None = None,
        repetition_penalty: float = 1.0,
        trust_remote_code: bool = False,
    ) -> None:
        self._stop_sequences = stop_sequences
        self._repetition_penalty = repetition_penalty
        self._sampling(1, 0.0, None, None)  # fail before minutes of loading
        self._loaded = load(
            model_name_or_path, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        )
        self._recording = Recording(self._loaded.name)

    @property
    def model_name(self) -> str:
        """Name of the model on the Hub, or of its directory or file."""
        return self._loaded.name

    @property
    def model(self) -> Any:
        """The model."""
        return self._loaded.model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self._loaded.tokenizer

    @property
    def device(self) -> Any:
        """Device of the model."""
        return self._loaded.device

    def generate(
        self,
        prompt: str,
        max_tokens: int = 256,
        temperature: float = 0.7,
        stop_sequences: list[str] | None = None,
        repetition_penalty: float | None = None,
    ) -> str:
        """Continue a text and return the generated text.

        Args:
            prompt: Text to continue.
            max_tokens: Maximum number of generated tokens.
            temperature: Sampling temperature; 0 always picks the most likely token.
            stop_sequences: Texts before which the generated text ends; the constructor's if `None`.
            repetition_penalty: Repetition penalty; the constructor's if `None`.
        """
        sampling = self._sampling(max_tokens, temperature, stop_sequences, repetition_penalty)
        given = _described(sampling, prompt=prompt)
        return self._answers(TEXT_COMPLETION, given, self._encode([prompt]), sampling)[0].text

    def generate_many(
        self,
        prompts: Sequence[str],
        max_tokens: int = 256,
        temperature: float = 0.7,
        stop_sequences: list[str] | None = None,
        repetition_penalty: float | None = None,
    ) -> list[str]:
        """Continue several texts in one batch and return the generated texts.

        It is one call, with token counts for each text. The arguments are those of `generate`.
        """
        if isinstance(prompts, str):
            raise ValueError(
                "prompts must be a list of texts, got a string. Use generate() for one text"
            )
        sampling = self._sampling(max_tokens, temperature, stop_sequences, repetition_penalty)
        if not prompts:
            return []
        given = _described(sampling, prompt=list(prompts))
        inputs = self._encode(prompts)
        return [each.text for each in self._answers(TEXT_COMPLETION, given, inputs, sampling)]

    def chat(
        self,
        messages: list[dict[str, Any]],
        max_tokens: int = 256,
        temperature: float = 0.7,
        *,
        stop_sequences: list[str] | None = None,
        repetition_penalty: float | None = None,
    ) -> dict[str, Any]:
        """Generate a response to messages, in the format of a chat completion.

        Uses the model's chat template. A model without one receives lines of `role: content`.
        """
        sampling = self._sampling(max_tokens, temperature, stop_sequences, repetition_penalty)
        inputs = self._encode_chat(messages)
        (answer,) = self._answers(CHAT, _described(sampling, messages=messages), inputs, sampling)
        return self._completion(answer, int(inputs["attention_mask"].sum()))

    def stream(
        self,
        prompt: str | Messages,
        max_tokens: int = 256,
        temperature: float = 0.7,
        stop_sequences: list[str] | None = None,
        repetition_penalty: float | None = None,
    ) -> TextStream:
        """Return an iterator over the generated text. It ends before a stop sequence.

        Args:
            prompt: Text to continue, or messages.
            max_tokens: See `generate`.
            temperature: See `generate`.
            stop_sequences: See `generate`.
            repetition_penalty: See `generate`.
        """
        sampling = self._sampling(max_tokens, temperature, stop_sequences, repetition_penalty)
        self._check_that_it_generates()
        if isinstance(prompt, str):
            inputs = self._encode([prompt])
            call = self._recording.start(
                TEXT_COMPLETION, _described(sampling, prompt=prompt), stream=True
            )
        else:
            inputs = self._encode_chat(prompt)
            call = self._recording.start(
                CHAT, _described(sampling, messages=list(prompt)), stream=True
            )

        def make_run(show: Callable[[str], None]) -> Run:
            return Run(self._loaded, inputs, sampling, show)

        return TextStream(make_run, call)

    def embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """Return a normalized vector for each text: the mean over its tokens in the last layer."""
        # Padding on the right moves no token: some models count positions from the left.
        inputs = self._encode([texts] if isinstance(texts, str) else texts, padding_side="right")
        call = self._recording.start(EMBEDDINGS, {})
        try:
            with call:
                vectors = embed(self._loaded, inputs)
        except BaseException as error:
            call.fail(error)
            raise
        counts = [int(count) for count in inputs["attention_mask"].sum(-1).tolist()]
        call.finish_embedding(counts, len(vectors[0]))
        return vectors

    def _sampling(
        self,
        max_tokens: int,
        temperature: float,
        stop_sequences: Sequence[str] | None,
        repetition_penalty: float | None,
    ) -> Sampling:
        return Sampling.checked(
            max_tokens,
            temperature,
            self._stop_sequences if stop_sequences is None else stop_sequences,
            self._repetition_penalty if repetition_penalty is None else repetition_penalty,
        )

    def _answers(
        self,
        operation: str,
        given: Mapping[str, Any],
        inputs: Mapping[str, Any],
        sampling: Sampling,
    ) -> list[Answer]:
        self._check_that_it_generates()
        call = self._recording.start(operation, given)
        run = Run(self._loaded, inputs, sampling)
        try:
            with call:
                answers = run.execute()
        except BaseException as error:
            call.fail(error, run)
            raise
        call.finish(run)
        return answers

    def _check_that_it_generates(self) -> None:
        if not self._loaded.generates:
            kind = type(self._loaded.model).__name__
            raise TypeError(
                f"model must be a generative model, got {self.model_name} ({kind}). Use embed()"
            )

    def _encode(self, texts: Sequence[str], padding_side: str = "left") -> Mapping[str, Any]:
        inputs = self._loaded.tokenizer(
            list(texts), return_tensors="pt", padding=True, padding_side=padding_side
        )
        return _only_tokens(inputs)

    def _encode_chat(self, messages: Messages) -> Mapping[str, Any]:
        tokenizer = self._loaded.tokenizer
        if tokenizer.chat_template is None:
            lines = [f"{message['role']}: {message['content']}" for message in messages]
            return self._encode(["\n".join([*lines, "assistant:"])])
        inputs = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return _only_tokens(inputs)

    def _completion(self, answer: Answer, input_tokens: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text}
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": now_s(),
            "model": self.model_name,
            "choices": [{"index": 0, "message": message, "finish_reason": answer.reason}],
            "usage": {
                "prompt_tokens": input_tokens,
                "completion_tokens": answer.tokens,
                "total_tokens": input_tokens + answer.tokens,
            },
        }


def _only_tokens(inputs: Any) -> Mapping[str, Any]:
    # Some tokenizers return token types, which not every model accepts.
    return cast("Mapping[str, Any]", {n: inputs[n] for n in ("input_ids", "attention_mask")})


def _described(sampling: Sampling, **given: Any) -> Mapping[str, Any]:
    """Return the request that a server would receive for the same call."""
    return {
        **given,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature if sampling.temperature > 0 else None,
        "stop": list(sampling.stop_sequences) or None,
        "repetition_penalty": sampling.repetition_penalty,
    }
