"""One run of `generate`: its settings, its steps and its result.

The time of a step is read when its token is available. On a CPU, that is when the loop evaluates the
stopping criteria. On a GPU, the loop waits for the token when it checks for unfinished sequences, and
the time is read after that. So no synchronization is added, and no large tensor is accessed.
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
"""Generation whose loop runs in this context."""


def current() -> Generation | None:
    """Return the generation whose loop runs in this thread. Contexts may be copied to other threads."""
    generation = running.get()
    return generation if generation is not None and generation.thread_id == get_ident() else None


_PLAIN_CRITERIA: Final = frozenset({"MaxLengthCriteria", "EosTokenCriteria"})


class Generation:
    """Data collected while `generate` runs. It references no tensor after the end.

    Args:
        model: Model that generates; not kept.
        call: Call that it is recorded with.
        kwargs: Arguments of `generate`; not kept.
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

    def configured(self, config: Any, criteria: Any) -> None:
        """Store the complete settings and stopping criteria."""
        self._config, self._criteria = config, criteria
        self.settings = read_settings(config, self.prefix_tokens, self.assistant)
        others = any(type(each).__name__ not in _PLAIN_CRITERIA for each in criteria)
        stops_at_eos = any(hasattr(each, "eos_token_id") for each in criteria)
        # Rows that end early are padded, often with the token that ends a text. The result alone
        # does not show where such a row ended.
        if others and stops_at_eos and (config.num_beams or 1) == 1:
            self._ended = EndedRows()

    def on_criteria_called(self, input_ids: Any, now_ns: int) -> None:
        """Handle the evaluation of the stopping criteria: a token is available."""
        if self._pending_ns and not self.looping:
            self._commit(self._pending_ns)  # a custom loop, which evaluates only the criteria
        if not self._length:
            self._is_async = input_ids.device.type != "cpu"
        self._pending_ns = now_ns
        self._length = input_ids.shape[-1]

    def on_criteria_result(self, is_done: Any) -> None:
        """Store the result of the criteria, one flag per row."""
        if self._ended is not None:
            self._ended.add(is_done)

    def on_loop_check(self) -> None:
        """Handle the check for unfinished sequences, before the first step and after each one."""
        if not self.looping:
            self.looping = True
        elif self._pending_ns:
            self._commit(perf_counter_ns() if self._is_async else self._pending_ns)
        else:  # finished beams are not passed to the criteria
            self._length += 1
            self._commit(perf_counter_ns())

    def _commit(self, at_ns: int) -> None:
        self._pending_ns = 0
        self.steps.add(at_ns, self._length)

    def returned(self, result: Any, kwargs: Mapping[str, Any], tokenizer: Any) -> None:
        """Read the result.

        Args:
            result: Return value of `generate`.
            kwargs: Arguments of `generate`.
            tokenizer: Tokenizer for the content; `None` if content is not recorded.
        """
        self._end_steps()
        try:
            self._read_prompt(kwargs)
            self._read_result(result, tokenizer)
        finally:
            self._end()

    def failed(self, kwargs: Mapping[str, Any]) -> None:
        """Read what was generated before an error."""
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
            return  # the result of a custom loop, which may be anything
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
        # Only numbers are needed from now on. Release the tensors.
        self._config = self._criteria = self._ended = self.assistant = None

    def wall_ns(self, at_ns: int) -> int:
        """Convert a reading of `perf_counter_ns` to nanoseconds since the epoch."""
        return self._wall_offset_ns + at_ns

    def record_events(self, span: Span) -> None:
        """Record one span event per step."""
        before = 0
        for index, (at_ns, length) in enumerate(
            zip(self.steps.times_ns, self.steps.tokens, strict=True)
        ):
            tokens = length - before if before else length - (self.prefix_tokens or length - 1)
            before = length
            span.add_event(STEP_EVENT, {"index": index, "tokens": tokens}, self.wall_ns(at_ns))
