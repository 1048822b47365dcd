"""One run of `generate`: its settings, its steps and its result.

Some models have a `generate` of their own, which runs `generate` of a part, such as the language
model behind a vision encoder, or runs it several times, such as once per window of a recording.
These runs are parts of the outer one. Their steps are its steps, and its tokens are those of its
own result (`_own_result`), because a part's tokens may be discarded, repeated or decoded to sound.

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
    Row,
    cached_length,
    count_prompt,
    has_non_text_input,
    padding_of,
    read_rows,
    rows_of,
)
from llamatelemetry_instrumentation_transformers._own_result import read_own_result, token_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai import Call, EngineTimings
    from llamatelemetry_instrumentation_transformers._batch_request import BatchRequest

generation_variable: Final[ContextVar[Generation | None]] = ContextVar(
    "llamatelemetry-transformers-generation", default=None
)
"""The generation whose loop runs in this context."""


def current_generation() -> Generation | None:
    """Return the generation whose loop runs in this thread."""
    generation = generation_variable.get()
    # The context may be a copy, in another thread or in a task that lives longer.
    if generation is None or generation.thread_id != get_ident() or generation.call.ended:
        return None
    return generation


# Criteria whose effect on a row is visible in the result.
_PLAIN_CRITERIA: Final = frozenset({"MaxLengthCriteria", "EosTokenCriteria"})


class Generation:
    """Data about one `generate`, collected while it runs. It holds no tensor after the end.

    Attributes:
        is_own: Whether this is the `generate` that a model's class defines itself.
        nested_calls: Number of open `generate` calls inside this one that are not observed.
        in_loop: Whether the loop of transformers has started.
        prefix_tokens: Number of tokens that each row starts with.
        parts: Finished runs inside this one, if `is_own`.
        requests: Requests to continuous batching that this run has submitted.
        sequences: Rows of token ids of the result of a part, until the outer run ends.
        rows: Tokens and finish cause of each row of the result; `None` if unknown.
        starts: Index of the first new token of each row.
        padding: Token that pads the rows of a part.
        causes: Why each row ended.
        texts: Generated texts; empty if content is not recorded.

    Args:
        model: The model.
        call: Call that the run belongs to.
        kwargs: Arguments of `generate`.
        is_own: Whether a model's class defines this `generate`.
        outer: The run that this one is a part of.
    """

    def __init__(
        self,
        model: Any,
        call: Call,
        kwargs: Mapping[str, Any],
        *,
        is_own: bool = False,
        outer: Generation | None = None,
    ) -> None:
        self.model_id = id(model)
        self.thread_id = get_ident()
        self.call = call
        self.is_own = is_own
        self._cached_length = cached_length(kwargs)
        self.started_ns = perf_counter_ns()
        self._is_part = outer is not None
        self.steps = GenerationSteps(self.started_ns) if outer is None else outer.steps
        self._steps_before = len(self.steps.times_ns)
        self.parts: list[Generation] = []
        self.requests: list[BatchRequest] = [] if outer is None else outer.requests
        self.sequences: Any = None
        self.rows: list[Row] | None = None
        self.starts: list[int] = []
        self.padding: tuple[int, ...] = ()
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
        self._offset = 0
        self._is_async = False

    def set_config(self, config: Any, criteria: Any) -> None:
        """Store the complete settings and stopping criteria."""
        self._config, self._criteria = config, criteria
        self.settings = settings_of(config, self.prefix_tokens, self.assistant)
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
        if not self._is_part:
            self.steps.add(at_ns, self._length)
            return
        if len(self.steps.times_ns) == self._steps_before:
            # The first step of this part. The rows of the parts before it have another length.
            before = self.steps.tokens[-1] if self.steps.tokens else 0
            self._offset = before - (self.prefix_tokens or 0)
        self.steps.add(at_ns, self._offset + self._length)

    @property
    def loops(self) -> int:
        """Number of loops whose steps this run has: its own, and those of its parts."""
        parts = sum(part.loops for part in self.parts)
        return parts or int(len(self.steps.times_ns) > self._steps_before)

    def finish(self, model: Any, result: Any, kwargs: Mapping[str, Any], tokenizer: Any) -> None:
        """Read the result. The tokenizer decodes its texts; `None` if content is not recorded."""
        self._end_steps()
        try:
            if self.is_own:
                self._read_own_result(model, result, kwargs, tokenizer)
            else:
                self._read_prompt(kwargs)
                self._read_result(result, tokenizer)
            if self._is_part:
                self.sequences = token_rows(result)
                self.padding = padding_of(self._config)
        finally:
            self._end()

    def fail(self, kwargs: Mapping[str, Any]) -> None:
        """Read the prompt, and the number of tokens that were generated before an error."""
        self._end_steps()
        try:
            self._read_prompt(kwargs)
            several = ("num_beams", "num_return_sequences")
            one_row = rows_of(kwargs) == 1 and all(
                (getattr(self._config, name, None) or 1) == 1 for name in several
            )
            if one_row and self.steps.tokens and self.prefix_tokens is not None:
                self.output_tokens = [self.steps.tokens[-1] - self.prefix_tokens]
        finally:
            self._end()

    def _end_steps(self) -> None:
        if self._pending_ns:
            self._add_step(self._pending_ns)
        if self._is_part:
            return
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
        self._set_rows(rows, [prefix] * len(rows))
        if tokenizer is not None:
            self._decode(sequences, tokenizer)

    def _read_own_result(
        self, model: Any, result: Any, kwargs: Mapping[str, Any], tokenizer: Any
    ) -> None:
        found = read_own_result(self, model, result, kwargs)
        self.settings = self.settings or _common_settings(self.parts)
        self.input_tokens = count_prompt(kwargs, getattr(model, "generation_config", None), 0)
        if found is None:
            return
        self._set_rows(found.rows, found.starts)
        if self.input_tokens is None and found.part is not None and not has_non_text_input(kwargs):
            self.input_tokens = found.part.input_tokens
        if tokenizer is not None:
            self._decode(found.sequences, tokenizer)

    def _set_rows(self, rows: list[Row], starts: list[int]) -> None:
        self.rows, self.starts = rows, starts
        self.output_tokens = [row.tokens for row in rows]
        self.causes = [row.cause for row in rows if row.cause is not None]

    def _decode(self, sequences: Any, tokenizer: Any) -> None:
        counts = self.output_tokens or ()
        for row, start, tokens in zip(sequences.tolist(), self.starts, counts, strict=False):
            new = row[start : start + tokens]
            self.texts.append(tokenizer.decode(new, skip_special_tokens=True))

    def _end(self) -> None:
        if not self._is_part:
            self.timings = self._timings()
        # From here on only numbers are needed, so release the tensors.
        self._config = self._criteria = self._ended = self.assistant = None
        for part in self.parts:
            part.sequences = None

    def _timings(self) -> EngineTimings | None:
        timings = self.steps.timings(
            PROVIDER_HUGGINGFACE,
            input_tokens=None if self.input_tokens is None else sum(self.input_tokens),
            output_tokens=None if self.output_tokens is None else sum(self.output_tokens),
            cached_tokens=self.cached_tokens,
        )
        if timings is None or self.loops < 2:
            return timings
        # The result may contain fewer tokens than the loops have generated.
        return timings._replace(decoded_tokens=max(max(self.output_tokens or [0]) - 1, 0))

    @property
    def config(self) -> Any:
        """Complete settings of the loop that runs in this `generate` itself, until its end."""
        return self._config

    @property
    def length(self) -> int:
        """Length of the rows at the last step."""
        return self._length

    def read_loop(self, sequences: Any) -> list[Row]:
        """Return the rows that the loop in this `generate` itself has returned."""
        prefix = self.prefix_tokens or 0
        return read_rows(sequences, prefix, self._config, self._criteria, self._ended)

    def record_events(self) -> None:
        """Record one span event per step."""
        before = 0
        for index, (at_ns, length) in enumerate(
            zip(self.steps.times_ns, self.steps.tokens, strict=True)
        ):
            first = length if self.parts else length - (self.prefix_tokens or length - 1)
            tokens = length - before if before else first
            before = length
            self.call.add_event(STEP_EVENT, {"index": index, "tokens": tokens}, at_ns)


def _common_settings(parts: Sequence[Generation]) -> dict[str, AttributeValue]:
    """Return the settings that are the same in all parts."""
    first, *others = [part.settings for part in parts] or [{}]
    return {
        name: value
        for name, value in first.items()
        if all(each.get(name) == value for each in others)
    }


def settings_of(config: Any, prefix: int | None, assistant: Any) -> dict[str, AttributeValue]:
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
