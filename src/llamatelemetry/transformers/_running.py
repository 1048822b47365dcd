"""Running of a model for one batch of prompts: texts, token counts and token times."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cache
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llamatelemetry.genai import GenerationSteps, as_list
from llamatelemetry.transformers._text import RowText

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llamatelemetry.transformers._loading import Loaded

STOP: Final = "stop"
LENGTH: Final = "length"


class Sampling(NamedTuple):
    """Sampling settings and limits."""

    max_tokens: int
    temperature: float
    stop_sequences: tuple[str, ...]
    repetition_penalty: float

    @classmethod
    def checked(
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
        if temperature < 0:
            raise ValueError(
                f"temperature must be 0 (most likely token) or more, got {temperature}"
            )
        if repetition_penalty <= 0:
            raise ValueError(
                f"repetition_penalty must be greater than 0 (1 is no penalty), got {repetition_penalty}"
            )
        if isinstance(stop_sequences, str):
            raise ValueError("stop_sequences must be a list of texts, got a string")
        stops = tuple(stop for stop in stop_sequences or () if stop)
        return cls(max_tokens, temperature, stops, repetition_penalty)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `generate`."""
        arguments: dict[str, Any] = {
            "max_new_tokens": self.max_tokens,
            "do_sample": self.temperature > 0,
        }
        if self.temperature > 0:
            arguments["temperature"] = self.temperature
        else:  # otherwise the library warns about sampling settings of the model
            arguments |= {"temperature": None, "top_p": None, "top_k": None}
        if self.repetition_penalty != 1:
            arguments["repetition_penalty"] = self.repetition_penalty
        return arguments


@dataclass(slots=True)
class Answer:
    """Generated text of one prompt so far."""

    row: RowText
    pieces: list[str] = field(default_factory=list[str])
    tokens: int = 0
    reason: str | None = None

    @property
    def text(self) -> str:
        """Text up to the stop sequence."""
        return "".join(self.pieces)

    def take(self, token: int, ends: frozenset[int]) -> str:
        """Add a token and return the text that can be shown now."""
        self.tokens += 1
        piece = "" if token in ends else self.row.feed((token,))
        if token in ends or self.row.stopped:
            self.reason = STOP
        self.pieces.append(piece)
        return piece

    def close(self, *, is_whole: bool) -> str:
        """Finish the text and return its rest.

        Args:
            is_whole: Without a finish reason, whether the text is complete or was interrupted.
        """
        piece = self.row.finish()
        self.pieces.append(piece)
        if self.row.stopped:
            self.reason = STOP
        elif self.reason is None and is_whole:
            self.reason = LENGTH
        return piece


class Run:
    """One run of the model.

    Args:
        loaded: Model and tokenizer.
        inputs: Output of the tokenizer, one row per prompt.
        sampling: Sampling settings.
        show: Function that receives each chunk of text of the first row.
    """

    def __init__(
        self,
        loaded: Loaded,
        inputs: Mapping[str, Any],
        sampling: Sampling,
        show: Callable[[str], None] | None = None,
    ) -> None:
        self._loaded = loaded
        self._inputs = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
        self._sampling = sampling
        self._show = show
        self._ends = _ending_tokens(loaded)
        self.input_tokens: list[int] = [int(n) for n in inputs["attention_mask"].sum(-1).tolist()]
        self.answers = [
            Answer(RowText(loaded.tokenizer, sampling.stop_sequences)) for _ in self.input_tokens
        ]
        self.steps = GenerationSteps(perf_counter_ns())
        # A list, because a finalizer may append to it without a lock.
        self.cancelled: list[None] = []

    def execute(self) -> list[Answer]:
        """Generate. The texts generated so far are available also if this raises."""
        self.steps.started_ns = perf_counter_ns()
        is_whole = False
        try:
            self._loaded.model.generate(
                **self._inputs,
                **self._sampling.arguments(),
                pad_token_id=self._loaded.tokenizer.pad_token_id,
                stopping_criteria=_criteria()([_criterion()(self)]),
            )
            is_whole = not self.cancelled
        finally:
            for index, answer in enumerate(self.answers):
                self._tell(index, answer.close(is_whole=is_whole))
        return self.answers

    def step(self, tokens: Sequence[int]) -> list[bool]:
        """Add the next token of each row. Return which rows have ended."""
        self.steps.add(perf_counter_ns(), len(self.steps.times_ns) + 1)
        for index, (answer, token) in enumerate(zip(self.answers, tokens, strict=True)):
            if answer.reason is None:
                self._tell(index, answer.take(token, self._ends))
        return [answer.reason is not None or bool(self.cancelled) for answer in self.answers]

    def _tell(self, index: int, piece: str) -> None:
        if self._show is not None and index == 0 and piece:
            self._show(piece)


def _ending_tokens(loaded: Loaded) -> frozenset[int]:
    known = loaded.model.generation_config.eos_token_id
    tokens = (loaded.tokenizer.eos_token_id, *(as_list(known) or (known,)))
    return frozenset(token for token in tokens if token is not None)


def _criteria() -> Any:
    transformers: Any = sys.modules["transformers"]
    return transformers.StoppingCriteriaList


@cache
def _criterion() -> Any:
    torch: Any = sys.modules["torch"]
    transformers: Any = sys.modules["transformers"]

    class EndsWithItsText(transformers.StoppingCriteria):
        """Stopping criterion: ends each row at its stop sequence, and all rows if the reader is gone."""

        def __init__(self, run: Run) -> None:
            self._run = run

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:  # noqa: ARG002
            ended = self._run.step(input_ids[:, -1].tolist())
            return torch.tensor(ended, device=input_ids.device)

    return EndsWithItsText


def embed(loaded: Loaded, inputs: Mapping[str, Any]) -> list[list[float]]:
    """Return a normalized vector for each row: the mean over its tokens in the last layer."""
    torch: Any = sys.modules["torch"]
    placed = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
    with torch.no_grad():
        output = loaded.model(**placed, output_hidden_states=True)
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None:
        layers = getattr(output, "hidden_states", None) or output.encoder_hidden_states
        hidden = layers[-1]
    mask = placed["attention_mask"].unsqueeze(-1)
    means = (hidden.float() * mask).sum(1) / mask.sum(1).clamp(min=1)
    return torch.nn.functional.normalize(means, dim=-1).tolist()
