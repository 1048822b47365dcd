"""One request to continuous batching: its times and tokens, from its submission to its last token."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import (
    STEP_EVENT,
    ErrorInfo,
    GenerationSteps,
    as_float,
    as_int,
)
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import PROVIDER_HUGGINGFACE
from llamatelemetry_instrumentation_transformers._counting import EOS, LENGTH, Row, token_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai import Call, EngineTimings
    from llamatelemetry_instrumentation_transformers._recorder import GenerationRecorder

_SAMPLING = {
    "temperature": (names.GEN_AI_REQUEST_TEMPERATURE, as_float),
    "top_p": (names.GEN_AI_REQUEST_TOP_P, as_float),
    "top_k": (names.GEN_AI_REQUEST_TOP_K, as_int),
}
_FAILED = ErrorInfo("_OTHER", "reported by the library: _OTHER")


class BatchRequest:
    """Data about one request, collected in the thread that generates.

    The library copies the state of a request, which refers to this object, for each further
    sequence, and pickles it for other ranks. All copies of a request in this process refer to
    the same object, and copies in other processes to none.

    Args:
        call: Call that the request belongs to.
        recorder: Recorder of the call, if the call is this request and ends with it.
        state: `RequestState` of transformers.
        settings: Settings of the generation as span attributes.
    """

    _recorder: GenerationRecorder | None = None

    def __init__(
        self,
        call: Call,
        recorder: GenerationRecorder | None,
        state: Any,
        settings: dict[str, AttributeValue],
    ) -> None:
        self.call = call
        self.settings = settings
        self.started_ns = self._waiting_since_ns = perf_counter_ns()
        self.steps = GenerationSteps(self.started_ns)
        self.input_tokens: list[int] | None = [len(_prompt(state))]
        self.output_tokens: list[int] | None = None
        self.cached_tokens: int | None = None
        self.causes: list[str] = []
        self.texts: list[str] = []
        self.timings: EngineTimings | None = None
        self._id = state.request_id
        self._expected = 1 + (as_int(getattr(state, "num_children", None)) or 0)
        self._longest = as_int(state.max_new_tokens)
        self._eos = token_ids(state.eos_token_id)
        self._queue_ns: int | None = None
        self._rows: dict[str, Row] = {}
        self._error: BaseException | None = None
        self._has_failed = False
        self._has_ended = False
        self._recorder = recorder  # Last: with it, `__del__` ends the call.

    def __deepcopy__(self, _memo: Any) -> BatchRequest:
        return self

    def __reduce__(self) -> Any:
        return type(None), ()

    def on_token(self, state: Any) -> None:
        """Handle a new token. The times are those of the first sequence."""
        if state.request_id != self._id:
            return
        if not self.steps.times_ns:
            # Both times are seconds of the same clock, which depends on the version.
            waited_s = state.lifespan[0] - state.created_time
            waited_before_ns = self._waiting_since_ns - self.started_ns
            self._queue_ns = max(0, waited_before_ns + round(waited_s * 1e9))
        self.steps.add(perf_counter_ns(), len(self.steps.times_ns) + 1)

    def on_requeued(self) -> None:
        """Handle that the request lost its cache and waits again, with its tokens as prompt."""
        self._waiting_since_ns = perf_counter_ns()

    def on_error(self, error: BaseException) -> None:
        """Store the exception that fails the request. Its output contains only the message."""
        self._error = error

    def on_end(self, output: Any) -> None:
        """Handle the last output of one sequence of the request."""
        generated = output.generated_tokens
        self._has_failed = self._has_failed or output.error is not None
        self._rows[output.request_id] = Row(len(generated), self._cause(generated))
        if self._has_failed or len(self._rows) >= self._expected:
            self.end()

    def end(self) -> None:
        """End the request: it is complete, has failed, or was canceled."""
        if self._has_ended:
            return
        self._has_ended = True
        recorder, self._recorder = self._recorder, None
        rows = list(self._rows.values())
        if rows:
            self.output_tokens = [row.tokens for row in rows]
        elif self.steps.times_ns:
            self.output_tokens = [len(self.steps.times_ns)]
        if not self._has_failed:
            self.causes = [row.cause for row in rows if row.cause is not None]
        self._set_times()
        if recorder is None:
            return
        recorder.requests.append(self)
        if self._error is not None:
            recorder.fail(self._error)
        else:
            recorder.finish(_FAILED if self._has_failed else None)

    def fail(self, error: BaseException) -> None:
        """End the request with an exception."""
        self._error, self._has_failed = error, True
        self.end()

    def __del__(self) -> None:
        # A manager that is stopped may drop requests without an output.
        if self._recorder is not None:
            self.call.abandon(self)

    def finalize(self) -> None:
        """End a request that the library has dropped."""
        self.fail(GeneratorExit())

    def _cause(self, generated: list[int]) -> str | None:
        if generated and generated[-1] in self._eos:
            return EOS
        return LENGTH if self._longest is not None and len(generated) >= self._longest else None

    def _set_times(self) -> None:
        self.steps.end()
        times_ns, call = self.steps.times_ns, self.call
        if not times_ns or self._queue_ns is None:
            return
        if call.first_token_ns is None or times_ns[0] < call.first_token_ns:
            call.first_token_ns = times_ns[0]
            if call.request.stream:
                call.first_chunk_ns = times_ns[0]
        timings = self.steps.timings(
            PROVIDER_HUGGINGFACE,
            input_tokens=None if self.input_tokens is None else sum(self.input_tokens),
            output_tokens=None if self.output_tokens is None else sum(self.output_tokens),
        )
        if timings is not None:
            waited_and_prefilled_ns = times_ns[0] - self.started_ns
            queue_ns = min(self._queue_ns, waited_and_prefilled_ns)
            self.timings = timings._replace(
                prefill_ms=(waited_and_prefilled_ns - queue_ns) / 1e6,
                queue_ms=queue_ns / 1e6,
            )

    def record_events(self) -> None:
        """Record one span event per token of the first sequence."""
        for index, at_ns in enumerate(self.steps.times_ns):
            self.call.add_event(STEP_EVENT, {"index": index, "tokens": 1}, at_ns)


def _prompt(state: Any) -> list[int]:
    # The name in versions 4.57 and 5.
    prompt = getattr(state, "initial_tokens", None)
    return getattr(state, "full_prompt_ids", None) or () if prompt is None else prompt  # type: ignore[return-value]


def request_settings(
    config: Any, state: Any, read_settings: Callable[[Any], Mapping[str, AttributeValue]]
) -> dict[str, AttributeValue]:
    """Return the settings of a request as span attributes.

    Continuous batching ignores beams and stop strings.

    Args:
        config: `GenerationConfig` of the manager.
        state: `RequestState` of transformers.
        read_settings: Returns the settings of a `GenerationConfig`.
    """
    ignored = (names.GENERATION_BEAMS, names.GENERATION_MODE, names.GEN_AI_REQUEST_STOP_SEQUENCES)
    settings = {name: value for name, value in read_settings(config).items() if name not in ignored}
    longest = as_int(state.max_new_tokens)
    if longest is not None:
        settings[names.GEN_AI_REQUEST_MAX_TOKENS] = longest
    given: Mapping[str, Any] = getattr(state, "logit_processor_kwargs", None) or {}
    for name, (attribute, read) in _SAMPLING.items():
        value = read(given.get(name))
        if value is not None:
            settings[attribute] = value
    return settings
