"""Running a model on one batch of prompts: texts, token counts, token times and embeddings."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from functools import cache
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llamatelemetry.genai import GenerationSteps, as_list
from llamatelemetry.transformers._text import IncrementalDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llamatelemetry.transformers._loading import LoadedModel

STOP: Final = "stop"
LENGTH: Final = "length"


class Sampling(NamedTuple):
    """Sampling settings and limits."""

    max_tokens: int
    temperature: float
    stop_sequences: tuple[str, ...]
    repetition_penalty: float

    @classmethod
    def validated(
        cls,
        max_tokens: int,
        temperature: float,
        stop_sequences: Sequence[str] | None,
        repetition_penalty: float,
    ) -> Sampling:
        """Validate the arguments of a caller.

        Raises:
            ValueError: An argument is invalid. The message states the accepted values.
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, got {max_tokens}")
        if not 0 <= temperature < math.inf:
            raise ValueError(
                f"temperature must be 0 (most likely token) or more, got {temperature}"
            )
        if not 0 < repetition_penalty < math.inf:
            raise ValueError(
                f"repetition_penalty must be greater than 0 (1 is no penalty), got {repetition_penalty}"
            )
        if isinstance(stop_sequences, str):
            raise ValueError("stop_sequences must be a list of texts, got a string")
        stops = tuple(stop for stop in stop_sequences or () if stop)
        return cls(max_tokens, temperature, stops, repetition_penalty)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `generate`."""
        # The defaults of a model may differ, and a step with several beams has several tokens.
        arguments: dict[str, Any] = {
            "max_new_tokens": self.max_tokens,
            "do_sample": self.temperature > 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "repetition_penalty": self.repetition_penalty,
            # `GenerationRun` ends texts at them. The library would need the tokenizer.
            "stop_strings": None,
        }
        if self.temperature > 0:
            arguments["temperature"] = self.temperature
        else:
            # Otherwise the library warns that the model's sampling settings have no effect.
            arguments |= {"temperature": None, "top_p": None, "top_k": None}
        return arguments


@dataclass(slots=True)
class GeneratedText:
    """The text generated for one prompt so far.

    `tokens` is their number. `reason` is `None` while it runs and if it was interrupted.
    """

    decoder: IncrementalDecoder
    chunks: list[str] = field(default_factory=list[str])
    tokens: int = 0
    reason: str | None = None

    @property
    def text(self) -> str:
        """The text, up to the stop sequence."""
        return "".join(self.chunks)

    def add_token(self, token: int, end_tokens: frozenset[int]) -> str:
        """Add a token. Return the text that it completes, which may be empty."""
        self.tokens += 1
        chunk = "" if token in end_tokens else self.decoder.feed((token,))
        if token in end_tokens or self.decoder.stopped:
            self.reason = STOP
        self.chunks.append(chunk)
        return chunk

    def close(self, *, is_complete: bool) -> str:
        """End the text, without a finish reason if it is not complete. Return the rest of it."""
        chunk = self.decoder.finish()
        self.chunks.append(chunk)
        if self.decoder.stopped:
            self.reason = STOP
        elif self.reason is None and is_complete:
            self.reason = LENGTH
        return chunk


class GenerationRun:
    """One run of the model on a batch of prompts.

    `inputs` is the output of the tokenizer. `on_chunk` receives the text of the first prompt.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        inputs: Mapping[str, Any],
        sampling: Sampling,
        on_chunk: Callable[[str], None] | None = None,
    ) -> None:
        self._loaded = loaded
        self._inputs = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
        self._sampling = sampling
        self._on_chunk = on_chunk
        model_stops = _stop_strings_of(loaded)
        self._end_tokens = _end_tokens_of(loaded, model_stops)
        self.input_tokens: list[int] = [int(n) for n in inputs["attention_mask"].sum(-1).tolist()]
        stops = (*sampling.stop_sequences, *model_stops)
        self.outputs = [
            GeneratedText(IncrementalDecoder(loaded.tokenizer, stops)) for _ in self.input_tokens
        ]
        self.steps = GenerationSteps(perf_counter_ns())
        # Not empty if the run is canceled. A list, because `__del__` can append without a lock.
        self.canceled: list[None] = []

    def execute(self) -> list[GeneratedText]:
        """Run the model and return the texts. If this raises, `outputs` has the partial texts."""
        self.steps.started_ns = perf_counter_ns()
        is_complete = False
        transformers: Any = sys.modules["transformers"]
        try:
            self._loaded.model.generate(
                **self._inputs,
                **self._sampling.arguments(),
                pad_token_id=self._loaded.tokenizer.pad_token_id,
                stopping_criteria=transformers.StoppingCriteriaList([_criterion()(self)]),
            )
            is_complete = not self.canceled
        finally:
            for index, output in enumerate(self.outputs):
                self._emit(index, output.close(is_complete=is_complete))
        return self.outputs

    def step(self, tokens: Sequence[int]) -> list[bool]:
        """Add the next token of each row. Return which rows have ended."""
        self.steps.add(perf_counter_ns(), len(self.steps.times_ns) + 1)
        for index, (output, token) in enumerate(zip(self.outputs, tokens, strict=True)):
            if output.reason is None:
                self._emit(index, output.add_token(token, self._end_tokens))
        return [output.reason is not None or bool(self.canceled) for output in self.outputs]

    def _emit(self, index: int, chunk: str) -> None:
        if self._on_chunk is not None and index == 0 and chunk:
            self._on_chunk(chunk)


def _stop_strings_of(loaded: LoadedModel) -> Sequence[str]:
    """Return the stop strings of the model's generation settings."""
    known = loaded.model.generation_config.stop_strings
    return [known] if isinstance(known, str) else known or ()


def _end_tokens_of(loaded: LoadedModel, stop_strings: Sequence[str]) -> frozenset[int]:
    known = loaded.model.generation_config.eos_token_id
    tokens = (loaded.tokenizer.eos_token_id, *(as_list(known) or (known,)))
    # A stop string can be a special token, which the text does not contain.
    added: Mapping[str, int] = loaded.tokenizer.get_added_vocab()
    tokens += tuple(added.get(stop) for stop in stop_strings)
    return frozenset(token for token in tokens if token is not None)


@cache
def _criterion() -> Any:
    torch: Any = sys.modules["torch"]
    transformers: Any = sys.modules["transformers"]

    class StopCriterion(transformers.StoppingCriteria):
        """Stops each row at its stop sequence, and all rows if the run is canceled."""

        def __init__(self, run: GenerationRun) -> None:
            self._run = run

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:  # noqa: ARG002
            ended = self._run.step(input_ids[:, -1].tolist())
            return torch.tensor(ended, device=input_ids.device)

    return StopCriterion


def padded_batch(
    rows: Sequence[Sequence[int]], pad_token: int | None, *, on_left: bool
) -> Mapping[str, Any]:
    """Return the inputs of a model for the tokens of some texts, padded to one length.

    Raises:
        ValueError: A text has no token.
    """
    torch: Any = sys.modules["torch"]
    if not all(rows):
        raise ValueError("each text must have at least one token, got an empty text")
    longest = max(map(len, rows))

    def padded(row: Sequence[int], filler: int) -> list[int]:
        padding = [filler] * (longest - len(row))
        return [*padding, *row] if on_left else [*row, *padding]

    return {
        "input_ids": torch.tensor([padded(row, pad_token or 0) for row in rows]),
        "attention_mask": torch.tensor([padded([1] * len(row), 0) for row in rows]),
    }


def embed(loaded: LoadedModel, inputs: Mapping[str, Any]) -> list[list[float]]:
    """Return a normalized vector for each row: the mean over its tokens in the last layer."""
    torch: Any = sys.modules["torch"]
    tensors = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
    with torch.no_grad():
        output = loaded.model(**tensors, output_hidden_states=True)
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None:
        layers = getattr(output, "hidden_states", None) or output.encoder_hidden_states
        hidden = layers[-1]
    mask = tensors["attention_mask"].unsqueeze(-1)
    means = (hidden.float() * mask).sum(1) / mask.sum(1).clamp(min=1)
    return torch.nn.functional.normalize(means, dim=-1).tolist()
