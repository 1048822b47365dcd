"""A Transformers model as an inference engine, traced."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from llamatelemetry.semconv.operations import CHAT, EMBEDDINGS, TEXT_COMPLETION
from llamatelemetry.transformers._loading import load
from llamatelemetry.transformers._recorder import BackendRecorder
from llamatelemetry.transformers._running import (
    GeneratedText,
    GenerationRun,
    Sampling,
    embed,
    padded_batch,
)
from llamatelemetry.transformers._text import TextStream

if TYPE_CHECKING:
    from pathlib import Path

    Messages = Sequence[Mapping[str, Any]]


class TransformersBackend:
    r"""Inference engine for a Transformers model in this process.

    It satisfies `llamatelemetry.inference.InferenceEngine`. Each call is one span with token counts
    and phases, with or without the plugin for transformers. With the plugin, the span also describes
    the model.

    Args:
        model_name_or_path: Name on the Hub, directory, or GGUF file.
        device: `"cpu"`, `"cuda"` or `"cuda:1"`; a GPU by default if there is one.
        dtype: `"float16"`, `"bfloat16"`, `"auto"` or a `torch.dtype`; the library's default if `None`.
        stop_sequences: Texts before which a generated text ends, unless a call sets its own. The
            `stop_strings` of the model's generation settings always end it.
        repetition_penalty: Values over 1 make repeated tokens less likely, unless a call sets its own.
        trust_remote_code: Whether to run code that comes with the model.

    Raises:
        ImportError: transformers or torch is not installed, or `gguf` for a GGUF file.
        FileNotFoundError: The GGUF file does not exist.
        ValueError: A setting is invalid.

    Examples:
        >>> from llamatelemetry.transformers import TransformersBackend
        >>> engine = TransformersBackend("tiny-llama", device="cpu", stop_sequences=["\n"])
        >>> engine.model_name, str(engine.device)
        ('tiny-llama', 'cpu')
        >>> text = engine.generate("The moon is", max_tokens=4, temperature=0)
        >>> len(engine.generate_many(["The moon is", "The sun is"], max_tokens=4))
        2
        >>> response = engine.chat([{"role": "user", "content": "Hello"}], max_tokens=4)
        >>> response["usage"]["completion_tokens"]
        4
        >>> [len(vector) for vector in engine.embed(["the sun", "the moon"])]
        [32, 32]
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
        # Reject invalid settings now and not after minutes of loading.
        self._sampling(1, 0.0, None, None)
        self._loaded = load(
            model_name_or_path, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        )
        self._recorder = BackendRecorder(self._loaded.name)

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
        """Generate the continuation of a text, and return it.

        Args:
            prompt: Text to continue.
            max_tokens: Maximum number of generated tokens.
            temperature: Sampling temperature; 0 always picks the most likely token.
            stop_sequences: Texts before which the generated text ends; the constructor's if `None`.
            repetition_penalty: Repetition penalty; the constructor's if `None`.
        """
        sampling = self._sampling(max_tokens, temperature, stop_sequences, repetition_penalty)
        given = _as_request(sampling, prompt=prompt)
        return self._generate(TEXT_COMPLETION, given, self._encode([prompt]), sampling)[0].text

    def generate_many(
        self,
        prompts: Sequence[str],
        max_tokens: int = 256,
        temperature: float = 0.7,
        stop_sequences: list[str] | None = None,
        repetition_penalty: float | None = None,
    ) -> list[str]:
        """Generate the continuations of several texts in one batch, and return them.

        The batch is recorded as one call, with token counts for each text. The arguments are those
        of `generate`.
        """
        if isinstance(prompts, str):
            raise ValueError(
                "prompts must be a list of texts, got a string. Use generate() for one text"
            )
        sampling = self._sampling(max_tokens, temperature, stop_sequences, repetition_penalty)
        if not prompts:
            return []
        given = _as_request(sampling, prompt=list(prompts))
        inputs = self._encode(prompts)
        return [each.text for each in self._generate(TEXT_COMPLETION, given, inputs, sampling)]

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
        (output,) = self._generate(CHAT, _as_request(sampling, messages=messages), inputs, sampling)
        return self._completion(output, int(inputs["attention_mask"].sum()))

    def stream(
        self,
        prompt: str | Messages,
        max_tokens: int = 256,
        temperature: float = 0.7,
        stop_sequences: list[str] | None = None,
        repetition_penalty: float | None = None,
    ) -> TextStream:
        """Return an iterator over the generated text. It ends before a stop sequence.

        `prompt` is a text to continue, or messages. The other arguments are those of `generate`.
        """
        sampling = self._sampling(max_tokens, temperature, stop_sequences, repetition_penalty)
        self._require_generative()
        if isinstance(prompt, str):
            operation, inputs, given = TEXT_COMPLETION, self._encode([prompt]), {"prompt": prompt}
        else:
            operation, inputs, given = CHAT, self._encode_chat(prompt), {"messages": list(prompt)}
        call = self._recorder.start(operation, _as_request(sampling, **given), stream=True)
        return TextStream(partial(GenerationRun, self._loaded, inputs, sampling), call)

    def embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """Return a normalized vector for each text: the mean over its tokens in the last layer."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            return []
        # Some models count positions from the left, so padding must not move the tokens.
        inputs = self._encode(texts, on_left=False)
        call = self._recorder.start(EMBEDDINGS, {})
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
        return Sampling.validated(
            max_tokens,
            temperature,
            self._stop_sequences if stop_sequences is None else stop_sequences,
            self._repetition_penalty if repetition_penalty is None else repetition_penalty,
        )

    def _generate(
        self,
        operation: str,
        given: Mapping[str, Any],
        inputs: Mapping[str, Any],
        sampling: Sampling,
    ) -> list[GeneratedText]:
        self._require_generative()
        call = self._recorder.start(operation, given)
        run = GenerationRun(self._loaded, inputs, sampling)
        try:
            with call:
                outputs = run.execute()
        except BaseException as error:
            call.fail(error, run)
            raise
        call.finish(run)
        return outputs

    def _require_generative(self) -> None:
        if not self._loaded.generates:
            kind = type(self._loaded.model).__name__
            raise TypeError(
                f"model must be a generative model, got {self.model_name} ({kind}). Use embed()"
            )

    def _encode(self, texts: Sequence[str], *, on_left: bool = True) -> Mapping[str, Any]:
        tokenizer = self._loaded.tokenizer
        # Padding is a state of the tokenizer, which other threads use, so it is not requested here.
        rows = tokenizer(list(texts))["input_ids"]
        return padded_batch(rows, tokenizer.pad_token_id, on_left=on_left)

    def _encode_chat(self, messages: Messages) -> Mapping[str, Any]:
        tokenizer = self._loaded.tokenizer
        if tokenizer.chat_template is None:
            lines = [f"{message['role']}: {message['content']}" for message in messages]
            return self._encode(["\n".join([*lines, "assistant:"])])
        inputs = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return _only_tokens(inputs)

    def _completion(self, output: GeneratedText, input_tokens: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": output.text}
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model_name,
            "choices": [{"index": 0, "message": message, "finish_reason": output.reason}],
            "usage": {
                "prompt_tokens": input_tokens,
                "completion_tokens": output.tokens,
                "total_tokens": input_tokens + output.tokens,
            },
        }


def _only_tokens(inputs: Any) -> Mapping[str, Any]:
    # Some tokenizers return token types, which not every model accepts.
    return cast("Mapping[str, Any]", {n: inputs[n] for n in ("input_ids", "attention_mask")})


def _as_request(sampling: Sampling, **given: Any) -> Mapping[str, Any]:
    """Return the request that a server would receive for the same call."""
    return {
        **given,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature if sampling.temperature > 0 else None,
        "stop": list(sampling.stop_sequences) or None,
        "repetition_penalty": sampling.repetition_penalty,
    }
