"""One run of `generate`: its settings, its steps and its result.

The time of a step is read when its token is available. On a CPU, that is when the loop evaluates
the stopping criteria. A GPU is still computing then: the loop waits for the token when it checks for
unfinished sequences, and the time is read right after that. No synchronization is added, and no
tensor of the size of the logits is accessed.
"""

from __future__ import annotations

from contextvars import ContextVar
from threading import get_ident
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import STEP_EVENT, GenerationSteps, as_float, as_int, as_list, as_str
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import PROVIDER_HUGGINGFACE
from llamatelemetry_instrumentation_transformers._counting import (
    EndedRows,
    cached_length,
    count_prompt,
    read_rows,
    rows_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai import Call, EngineTimings

generation_variable: Final[ContextVar[Generation | None]] = ContextVar(
    "llamatelemetry-transformers-generation", default=None
)
"""The generation whose loop runs in this context."""


def current_generation() -> Generation | None:
    """Return the generation whose loop runs in this thread."""
    generation = generation_variable.get()
    # The context may be a copy in another thread.
    return generation if generation is not None and generation.thread_id == get_ident() else None


# Criteria whose effect on a row is visible in the result.
_PLAIN_CRITERIA: Final = frozenset({"MaxLengthCriteria", "EosTokenCriteria"})


class Generation:
    """Data about one `generate`, collected while it runs. It holds no tensor after the end.

    Attributes:
        nested_calls: Number of open `generate` calls inside this one that are not observed.
        in_loop: Whether the loop of transformers has started.
        prefix_tokens: Number of tokens that each row starts with.
        causes: Why each row ended.
        texts: Generated texts; empty if content is not recorded.
    """

    def __init__(self, model: Any, call: Call, kwargs: Mapping[str, Any]) -> None:
        self.model_id = id(model)
        self.thread_id = get_ident()
        self.call = call
        self._cached_length = cached_length(kwargs)
        self.started_ns = perf_counter_ns()
        self.steps = GenerationSteps(self.started_ns)
        self.nested_calls = 0
        self.in_loop = False
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

    def set_config(self, config: Any, criteria: Any) -> None:
        """Store the complete settings and stopping criteria."""
        self._config, self._criteria = config, criteria
        self.settings = _settings_of(config, self.prefix_tokens, self.assistant)
        others = any(type(each).__name__ not in _PLAIN_CRITERIA for each in criteria)
        stops_at_eos = any(hasattr(each, "eos_token_id") for each in criteria)
        # Rows that end early are padded, often with the token that ends a text. The result alone
        # does not show where such a row ended.
        if others and stops_at_eos and (config.num_beams or 1) == 1:
            self._ended = EndedRows()

    def on_criteria_called(self, input_ids: Any, now_ns: int) -> None:
        """Handle an evaluation of the stopping criteria: the loop has a new token."""
        if self._pending_ns and not self.in_loop:
            # A custom loop, which evaluates the criteria but never checks for unfinished sequences.
            self._add_step(self._pending_ns)
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
        if not self.in_loop:
            self.in_loop = True
        elif self._pending_ns:
            self._add_step(perf_counter_ns() if self._is_async else self._pending_ns)
        else:
            # If all beams are finished, the loop does not evaluate the criteria.
            self._length += 1
            self._add_step(perf_counter_ns())

    def _add_step(self, at_ns: int) -> None:
        self._pending_ns = 0
        self.steps.add(at_ns, self._length)

    def finish(self, result: Any, kwargs: Mapping[str, Any], tokenizer: Any) -> None:
        """Read the result. The tokenizer decodes its texts; `None` if content is not recorded."""
        self._end_steps()
        try:
            self._read_prompt(kwargs)
            self._read_result(result, tokenizer)
        finally:
            self._end()

    def fail(self, kwargs: Mapping[str, Any]) -> None:
        """Read the prompt, and the number of tokens that were generated before an error."""
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
            self._add_step(self._pending_ns)
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
            return  # A custom loop may return anything.
        rows = read_rows(sequences, prefix, self._config, self._criteria, self._ended)
        self.output_tokens = [row.tokens for row in rows]
        self.causes = [row.cause for row in rows if row.cause is not None]
        if tokenizer is not None:
            self._decode(sequences, prefix, tokenizer)

    def _decode(self, sequences: Any, prefix: int, tokenizer: Any) -> None:
        for row, tokens in zip(sequences.tolist(), self.output_tokens or (), strict=False):
            new = row[prefix : prefix + tokens]
            self.texts.append(tokenizer.decode(new, skip_special_tokens=True))

    def _end(self) -> None:
        self.timings = self.steps.timings(
            PROVIDER_HUGGINGFACE,
            input_tokens=None if self.input_tokens is None else sum(self.input_tokens),
            output_tokens=None if self.output_tokens is None else sum(self.output_tokens),
            cached_tokens=self.cached_tokens,
        )
        # From here on only numbers are needed, so release the tensors.
        self._config = self._criteria = self._ended = self.assistant = None

    def record_events(self) -> None:
        """Record one span event per step."""
        before = 0
        for index, (at_ns, length) in enumerate(
            zip(self.steps.times_ns, self.steps.tokens, strict=True)
        ):
            tokens = length - before if before else length - (self.prefix_tokens or length - 1)
            before = length
            self.call.add_event(STEP_EVENT, {"index": index, "tokens": tokens}, at_ns)


def _settings_of(config: Any, prefix: int | None, assistant: Any) -> dict[str, AttributeValue]:
    """Return the settings of a `GenerationConfig` that `generate` has completed.

    `max_length` includes `prefix`, the number of tokens that each row starts with.
    """
    settings = _read_settings(config, prefix, assistant)
    return {name: value for name, value in settings if value is not None}


def _read_settings(
    config: Any, prefix: int | None, assistant: Any
) -> Iterator[tuple[str, AttributeValue | None]]:
    longest = as_int(getattr(config, "max_length", None))
    if longest is not None and prefix is not None:
        yield names.GEN_AI_REQUEST_MAX_TOKENS, longest - prefix
    if getattr(config, "do_sample", None):
        yield names.GEN_AI_REQUEST_TEMPERATURE, as_float(config.temperature)
        yield names.GEN_AI_REQUEST_TOP_P, as_float(config.top_p)
        yield names.GEN_AI_REQUEST_TOP_K, as_int(config.top_k) or None
    stop_strings = getattr(config, "stop_strings", None)
    stops = [stop_strings] if isinstance(stop_strings, str) else as_list(stop_strings)
    yield names.GEN_AI_REQUEST_STOP_SEQUENCES, tuple(s for s in stops if as_str(s)) or None
    choices = as_int(getattr(config, "num_return_sequences", None)) or 1
    yield names.GEN_AI_REQUEST_CHOICE_COUNT, choices if choices != 1 else None
    beams = as_int(getattr(config, "num_beams", None)) or 1
    yield names.GENERATION_BEAMS, beams if beams != 1 else None
    penalty = as_float(getattr(config, "repetition_penalty", None))
    yield names.GENERATION_REPETITION_PENALTY, penalty if penalty != 1 else None
    mode = config.get_generation_mode(assistant)
    yield names.GENERATION_MODE, str(getattr(mode, "value", mode))
