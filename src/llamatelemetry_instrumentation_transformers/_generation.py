"""One run of ``generate``, as it is seen from inside: its settings, its steps, what came of it.

A step's time is read where the loop has a token in hand. On the CPU that is when it asks its
stopping criteria. A GPU is still computing then; there the loop itself waits for the token when it
asks whether anything is unfinished, and the time is read right after. So no synchronisation is
added, and nothing that is as large as the logits is looked at.
"""

from __future__ import annotations

from contextvars import ContextVar
from threading import get_ident
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import STEP_EVENT, GenerationSteps
from llamatelemetry.semconv.operations import PROVIDER_HUGGINGFACE
from llamatelemetry_instrumentation_transformers._counting import (
    EndedRows,
    cached_length,
    count_prompt,
    read_rows,
    rows_of,
)
from llamatelemetry_instrumentation_transformers._parameters import read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai import Call, EngineTimings

running: Final[ContextVar[Generation | None]] = ContextVar(
    "llamatelemetry-transformers-generation", default=None
)
"""The generation whose loop runs in this context."""


def current() -> Generation | None:
    """Give the generation whose loop runs in this thread: a context may have been copied to others."""
    generation = running.get()
    return generation if generation is not None and generation.thread_id == get_ident() else None


_PLAIN_CRITERIA: Final = frozenset({"MaxLengthCriteria", "EosTokenCriteria"})


class Generation:
    """What is learned while ``generate`` runs. It holds no tensor once it has ended.

    Args:
        model: whose generation it is; not kept.
        call: that it is recorded with.
        kwargs: what ``generate`` is called with; not kept.
    """

    def __init__(self, model: Any, call: Call, kwargs: Mapping[str, Any]) -> None:
        self.model_id = id(model)
        self.thread_id = get_ident()
        self.call = call
        self._cached_length = cached_length(kwargs)
        self.started_ns = perf_counter_ns()
        self._wall_offset_ns = time_ns() - self.started_ns
        self.steps = GenerationSteps(self.started_ns)
        self.masked = 0
        self.looping = False
        self.assistant: Any = kwargs.get("assistant_model")
        self.prefix_tokens: int | None = None
        self.timings: EngineTimings | None = None
        self.input_tokens: list[int] | None = None
        self.output_tokens: list[int] | None = None
        self.cached_tokens: int | None = None
        self.causes: list[str] = []
        self.texts: list[str] = []
        self.settings: dict[str, AttributeValue] = {}
        self._config: Any = None
        self._criteria: Any = None
        self._ended: EndedRows | None = None
        self._pending_ns = 0
        self._length = 0
        self._is_async = False

    # --- while it runs ----------------------------------------------------------------

    def configured(self, config: Any, criteria: Any) -> None:
        """The settings are complete: the model's, the caller's, and the criteria made of both."""
        self._config, self._criteria = config, criteria
        self.settings = read_settings(config, self.prefix_tokens, self.assistant)
        others = any(type(each).__name__ not in _PLAIN_CRITERIA for each in criteria)
        stops_at_eos = any(hasattr(each, "eos_token_id") for each in criteria)
        # Rows that end early are filled up, often with the very token that ends an answer: by
        # the result alone they could not be told from rows that ended with that token.
        if others and stops_at_eos and (config.num_beams or 1) == 1:
            self._ended = EndedRows()

    def criteria_asked(self, input_ids: Any, now_ns: int) -> None:
        """The loop has a token and asks whether that ends it."""
        if self._pending_ns and not self.looping:
            self._commit(self._pending_ns)  # a loop of somebody else's, which only asks this
        if not self._length:
            self._is_async = input_ids.device.type != "cpu"
        self._pending_ns = now_ns
        self._length = input_ids.shape[-1]

    def criteria_answered(self, is_done: Any) -> None:
        """What the criteria said, a flag for each row."""
        if self._ended is not None:
            self._ended.add(is_done)

    def loop_goes_on(self) -> None:
        """The loop has asked whether anything is unfinished: before its first step, and after each."""
        if not self.looping:
            self.looping = True
        elif self._pending_ns:
            self._commit(perf_counter_ns() if self._is_async else self._pending_ns)
        else:  # beams that are all finished are not shown to the criteria any more
            self._length += 1
            self._commit(perf_counter_ns())

    def _commit(self, at_ns: int) -> None:
        self._pending_ns = 0
        self.steps.add(at_ns, self._length)

    # --- afterwards -------------------------------------------------------------------

    def returned(self, result: Any, kwargs: Mapping[str, Any], tokenizer: Any) -> None:
        """Read what it has returned.

        Args:
            result: of ``generate``.
            kwargs: what it was called with.
            tokenizer: makes text of the tokens, when content is wanted and there is one.
        """
        self._end_steps()
        try:
            self._read_prompt(kwargs)
            self._read_result(result, tokenizer)
        finally:
            self._end()

    def failed(self, kwargs: Mapping[str, Any]) -> None:
        """It was broken off: what had been generated by then was generated all the same."""
        self._end_steps()
        try:
            self._read_prompt(kwargs)
            one_row = rows_of(kwargs) == 1 and (getattr(self._config, "num_beams", 0) or 1) == 1
            if one_row and self.steps.tokens and self.prefix_tokens is not None:
                self.output_tokens = [self.steps.tokens[-1] - self.prefix_tokens]
        finally:
            self._end()

    def _end_steps(self) -> None:
        if self._pending_ns:
            self._commit(self._pending_ns)
        self.steps.end()
        if self.steps.times_ns and self.call.first_token_ns is None:
            self.call.first_token_ns = self.steps.times_ns[0]
            if self.call.request.stream:
                self.call.first_chunk_ns = self.steps.times_ns[0]

    def _read_prompt(self, kwargs: Mapping[str, Any]) -> None:
        self.input_tokens = count_prompt(kwargs, self._config, self.prefix_tokens)
        if self._cached_length is not None:
            cached = count_prompt(kwargs, self._config, self.prefix_tokens, self._cached_length)
            self.cached_tokens = None if cached is None else sum(cached)

    def _read_result(self, result: Any, tokenizer: Any) -> None:
        sequences = result if hasattr(result, "shape") else getattr(result, "sequences", None)
        prefix = self.prefix_tokens
        if prefix is None or getattr(sequences, "ndim", 0) != 2:
            return  # of a loop of somebody else's, which may return anything
        rows = read_rows(sequences, prefix, self._config, self._criteria, self._ended)
        self.output_tokens = [row.tokens for row in rows]
        self.causes = [row.cause for row in rows if row.cause is not None]
        if tokenizer is not None:
            self._decode(sequences, prefix, tokenizer)

    def _decode(self, sequences: Any, prefix: int, tokenizer: Any) -> None:
        for row, tokens in zip(sequences.tolist(), self.output_tokens or (), strict=False):
            answer = row[prefix : prefix + tokens]
            self.texts.append(tokenizer.decode(answer, skip_special_tokens=True))

    def _end(self) -> None:
        self.timings = self.steps.timings(
            PROVIDER_HUGGINGFACE,
            input_tokens=None if self.input_tokens is None else sum(self.input_tokens),
            output_tokens=None if self.output_tokens is None else sum(self.output_tokens),
            cached_tokens=self.cached_tokens,
        )
        # Whoever asks the generation from now on asks for numbers: the tensors go.
        self._config = self._criteria = self._ended = self.assistant = None

    def wall_ns(self, at_ns: int) -> int:
        """Give a reading of `perf_counter_ns` as time of day."""
        return self._wall_offset_ns + at_ns

    def record_events(self, span: Span) -> None:
        """Write one event for each step."""
        before = 0
        for index, (at_ns, length) in enumerate(
            zip(self.steps.times_ns, self.steps.tokens, strict=True)
        ):
            tokens = length - before if before else length - (self.prefix_tokens or length - 1)
            before = length
            span.add_event(STEP_EVENT, {"index": index, "tokens": tokens}, self.wall_ns(at_ns))
