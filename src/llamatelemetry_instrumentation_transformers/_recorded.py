"""One call: the generations of the model, its memory, and the end of the call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from llamatelemetry.genai import Call, Content, Response, Usage, internal_errors, spans, text_part
from llamatelemetry.genai.model import Outcome
from llamatelemetry.genai.phases import phases_of
from llamatelemetry.semconv import attributes as names
from llamatelemetry_instrumentation_transformers._counting import finish_reason
from llamatelemetry_instrumentation_transformers._generation import Generation
from llamatelemetry_instrumentation_transformers._memory import MemoryPeak, memory_watch
from llamatelemetry_instrumentation_transformers._model import describe, devices_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry_instrumentation_transformers._patches import Owner


class Recorded:
    """Recorder of one call and of the model's work in it.

    Args:
        owner: State of the instrumentor.
        call: Call that was just started.
        model: Model that works; not kept.
    """

    def __init__(self, owner: Owner, call: Call, model: Any) -> None:
        self.call = call
        self.generations: list[Generation] = []
        self.input_tokens: list[int] = []
        self.attributes: dict[str, AttributeValue] = {}
        self.texts: list[str] = []
        self._record_events = owner.record_events
        self._memory: MemoryPeak | None = None
        try:
            self._memory = memory_watch.start(devices_of(model))
            if call.recording:
                self.attributes = describe(model)
        except Exception as error:  # the call is open and must be ended
            internal_errors.log_once("describing a model", error)

    @property
    def wants_content(self) -> bool:
        """Whether the generated texts are kept."""
        return self.call.content_max_chars is not None

    def generate(self, model: Any, kwargs: Mapping[str, Any]) -> Generation:
        """Start a generation of the model."""
        call = self.call
        if kwargs.get("streamer") is not None:
            call.request.stream = True
        generation = Generation(model, call, kwargs)
        if call.request.stream:
            generation.steps.stream_to(call)
        if not self.generations:
            call.start_attempt(generation.started_ns)
        self.generations.append(generation)
        return generation

    def finish(self) -> None:
        """Finish the call."""
        self.call.finish(self._response())

    def fail(self, error: BaseException) -> None:
        """Fail the call."""
        self.call.fail(error, self._response())

    def _response(self) -> Response:
        try:
            if self._memory is not None:
                self._memory.stop()
            response = self._read()
            if len(self.generations) > 1:
                _record_several(self.call, self.generations)
            if self._record_events:
                for generation in self.generations:
                    generation.record_events(self.call.span)
            return response
        except Exception as error:
            internal_errors.log_once("reading the result of a model of transformers", error)
            return Response()

    def _read(self) -> Response:
        generations = self.generations
        causes = [cause for each in generations for cause in each.causes]
        inputs = _joined([each.input_tokens for each in generations]) or self.input_tokens
        outputs = _joined([each.output_tokens for each in generations])
        response = Response(
            model=self.call.request.model,
            finish_reasons=tuple(finish_reason(cause) for cause in causes),
            usage=_usage(inputs, outputs, generations),
            # Phases of several generations do not follow each other: see `_record_several`.
            timings=generations[0].timings if len(generations) == 1 else None,
            attributes=self.attributes,
        )
        response.attributes |= _batch(inputs, outputs)
        response.attributes |= dict(_generation_attributes(generations))
        if causes:
            response.attributes[names.GENERATION_FINISH_CAUSES] = tuple(causes)
        if self._memory is not None:
            response.attributes[names.CUDA_DEVICES] = tuple(map(str, self._memory.devices))
            response.attributes[names.CUDA_MEMORY_ALLOCATED] = tuple(self._memory.allocated)
            response.attributes[names.CUDA_MEMORY_PEAK] = tuple(self._memory.peaks.values())
        texts = [text for each in generations for text in each.texts] or self.texts
        if texts:
            response.read_content = lambda: _answers(texts, causes)
        return response


def _joined(counts: Sequence[list[int] | None]) -> list[int] | None:
    """Return the counts of all generations; `None` if those of one are unknown."""
    joined: list[int] = []
    for each in counts:
        if each is None:
            return None
        joined += each
    return joined if counts else None


def _usage(
    inputs: list[int] | None, outputs: list[int] | None, generations: Sequence[Generation]
) -> Usage:
    cached = [each.cached_tokens for each in generations if each.cached_tokens is not None]
    return Usage(
        input_tokens=sum(inputs) if inputs else None,
        output_tokens=None if outputs is None else sum(outputs),
        cache_read_tokens=sum(cached) if cached else None,
    )


def _batch(
    inputs: list[int] | None, outputs: list[int] | None
) -> Iterator[tuple[str, AttributeValue]]:
    if max(len(inputs or ()), len(outputs or ())) < 2:
        return
    if inputs:
        yield names.BATCH_SIZE, len(inputs)
        yield names.BATCH_INPUT_TOKENS, tuple(inputs)
    if outputs:
        yield names.BATCH_OUTPUT_TOKENS, tuple(outputs)


def _generation_attributes(
    generations: Sequence[Generation],
) -> Iterator[tuple[str, AttributeValue]]:
    if not generations:
        return
    yield from generations[0].settings.items()
    steps = sum(len(each.steps.times_ns) for each in generations)
    if steps:
        yield names.GENERATION_STEPS, steps
    timings = [each.timings for each in generations if each.timings is not None]
    decode_ms = sum(each.decode_ms for each in timings)
    decoded = sum(each.decoded_tokens or 0 for each in timings)
    if decode_ms and decoded:
        yield names.GENERATION_TOKENS_PER_SECOND, decoded * 1000 / decode_ms
    if len(timings) > 1:
        yield names.PREFILL_MS, sum(each.prefill_ms for each in timings)
        yield names.DECODE_MS, decode_ms
        if decoded:
            yield names.TPOT_MS, decode_ms / decoded


def _answers(texts: Sequence[str], causes: Sequence[str]) -> Content:
    reasons = [finish_reason(cause) for cause in causes]
    if len(reasons) != len(texts):
        reasons = [""] * len(texts)
    return Content(
        outputs=[
            {"role": "assistant", "parts": text_part(text)}
            | ({"finish_reason": reason} if reason else {})
            for text, reason in zip(texts, reasons, strict=True)
        ]
    )


def _record_several(call: Call, generations: Sequence[Generation]) -> None:
    """Record each generation of a call as a request to the engine with its own phases."""
    instrumenter = call.instrumenter
    context = trace.set_span_in_context(call.span)
    for each in generations:
        if each.timings is None:
            continue
        ended_ns = each.steps.times_ns[-1]
        took_s = (ended_ns - each.started_ns) / 1e9
        outcome = Outcome(
            request=call.request,
            response=Response(model=call.request.model, timings=each.timings),
            error=None,
            duration_s=took_s,
            attempt_s=took_s,
            attempt_wall_ns=each.wall_ns(each.started_ns),
            ended_wall_ns=each.wall_ns(ended_ns),
            resend_count=0,
        )
        outcome.phases = phases_of(outcome, each.timings)
        instrumenter.metrics.record(outcome, call.span, client=False)
        if instrumenter.config.phase_spans and call.span.is_recording():
            spans.record_phase_spans(instrumenter.tracer, context, outcome)
