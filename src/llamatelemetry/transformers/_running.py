"""Running a model for one batch of prompts: its texts, its counts, and when each token came."""

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
    """How the next token is chosen, and when there are enough."""

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
        """Take what a caller gives.

        Raises:
            ValueError: it cannot be done; the message says what is accepted.
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens} is not accepted; expected 1 or more")
        if temperature < 0:
            raise ValueError(
                f"temperature={temperature} is not accepted; expected 0 (always the likeliest "
                "token) or more"
            )
        if repetition_penalty <= 0:
            raise ValueError(
                f"repetition_penalty={repetition_penalty} is not accepted; expected more than 0, "
                "where 1 is no penalty"
            )
        if isinstance(stop_sequences, str):
            raise ValueError("stop_sequences is a text; expected a list of texts")
        stops = tuple(stop for stop in stop_sequences or () if stop)
        return cls(max_tokens, temperature, stops, repetition_penalty)

    def arguments(self) -> dict[str, Any]:
        """Give what ``generate`` is told."""
        arguments: dict[str, Any] = {
            "max_new_tokens": self.max_tokens,
            "do_sample": self.temperature > 0,
        }
        if self.temperature > 0:
            arguments["temperature"] = self.temperature
        else:  # what the model's own settings say of sampling would be warned about
            arguments |= {"temperature": None, "top_p": None, "top_k": None}
        if self.repetition_penalty != 1:
            arguments["repetition_penalty"] = self.repetition_penalty
        return arguments


@dataclass(slots=True)
class Answer:
    """What a model said to one prompt, as far as it has got."""

    row: RowText
    pieces: list[str] = field(default_factory=list[str])
    tokens: int = 0
    reason: str | None = None

    @property
    def text(self) -> str:
        """What it has said, up to the stop sequence."""
        return "".join(self.pieces)

    def take(self, token: int, ends: frozenset[int]) -> str:
        """Take the next token; give the text that can be shown by now."""
        self.tokens += 1
        piece = "" if token in ends else self.row.feed((token,))
        if token in ends or self.row.stopped:
            self.reason = STOP
        self.pieces.append(piece)
        return piece

    def close(self, *, is_whole: bool) -> str:
        """There are no more tokens; give the rest of the text.

        Without a reason the answer ``is_whole`` as far as it was to go; else it was broken off.
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
        loaded: the model and its tokenizer.
        inputs: of the tokenizer, a row for each prompt.
        sampling: how it is to go on.
        show: is told each piece of text of the first row as it comes.
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
        # A plain list: a finaliser may add to it, and takes no lock.
        self.cancelled: list[None] = []

    def execute(self) -> list[Answer]:
        """Generate. The answers are there as far as they have got also when this fails."""
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
        """Take the next token of each row; say which rows have ended."""
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
        """Ends each row with its stop sequence, and all of them when nobody listens any more."""

        def __init__(self, run: Run) -> None:
            self._run = run

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:  # noqa: ARG002
            ended = self._run.step(input_ids[:, -1].tolist())
            return torch.tensor(ended, device=input_ids.device)

    return EndsWithItsText


def embed(loaded: Loaded, inputs: Mapping[str, Any]) -> list[list[float]]:
    """Give a vector of length one for each row: the mean of what the last layer makes of its tokens."""
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
