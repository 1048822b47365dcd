"""Recorder of one call: the generations of its model, its memory, and its response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import Call, Content, Response, Usage, internal_errors, text_part
from llamatelemetry.semconv import attributes as names
from llamatelemetry_instrumentation_transformers._counting import finish_reason
from llamatelemetry_instrumentation_transformers._generation import Generation
from llamatelemetry_instrumentation_transformers._memory import MemoryPeak, memory_tracker
from llamatelemetry_instrumentation_transformers._model import describe, devices_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry_instrumentation_transformers import TransformersInstrumentor


class GenerationRecorder:
    """Records one call and the generations of its model.

    Attributes:
        input_tokens: Tokens of each prompt of a call without a generation.
        attributes: Span attributes that describe the model.
        texts: Texts of a result without a generation, if content is recorded.
    """

    def __init__(self, instrumentor: TransformersInstrumentor, call: Call, model: Any) -> None:
        self.call = call
        self.generations: list[Generation] = []
        self.input_tokens: list[int] = []
        self.attributes: dict[str, AttributeValue] = {}
        self.texts: list[str] = []
        self._record_events = instrumentor.record_events
        self._memory: MemoryPeak | None = None
        try:
            self._memory = memory_tracker.start(devices_of(model))
            if call.recording:
                self.attributes = describe(model)
        except Exception as error:
            # The call is open, so go on: it must be ended.
            internal_errors.log_once("describing a model", error)

    @property
    def wants_content(self) -> bool:
        """Whether generated texts are recorded."""
        return self.call.content_max_chars is not None

    def generate(self, model: Any, kwargs: Mapping[str, Any]) -> Generation:
        """Start to observe a generation of the model."""
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
        """End the call with the response so far."""
        self.call.finish(self._response())

    def fail(self, error: BaseException) -> None:
        """End the call with an error, and the response before it."""
        self.call.fail(error, self._response())

    def _response(self) -> Response:
        try:
            if self._memory is not None:
                memory_tracker.stop(self._memory)
            response = self._read()
            self._record_generations()
            return response
        except Exception as error:
            internal_errors.log_once("reading the result of a model of transformers", error)
            return Response()

    def _record_generations(self) -> None:
        is_one_of_several = len(self.generations) > 1
        for generation in self.generations:
            if is_one_of_several and generation.timings is not None:
                self.call.record_engine_request(
                    generation.timings, generation.started_ns, generation.steps.times_ns[-1]
                )
            if self._record_events:
                generation.record_events()

    def _read(self) -> Response:
        generations = self.generations
        causes = [cause for each in generations for cause in each.causes]
        inputs = _concatenated([each.input_tokens for each in generations]) or self.input_tokens
        outputs = _concatenated([each.output_tokens for each in generations])
        response = Response(
            model=self.call.request.model,
            finish_reasons=tuple(finish_reason(cause) for cause in causes),
            usage=_usage(inputs, outputs, generations),
            # Several generations have phases of their own: see `_record_generations`.
            timings=generations[0].timings if len(generations) == 1 else None,
            attributes=self.attributes,
        )
        response.attributes |= dict(_batch_attributes(inputs, outputs))
        response.attributes |= dict(_generation_attributes(generations))
        if causes:
            response.attributes[names.GENERATION_FINISH_CAUSES] = tuple(causes)
        if self._memory is not None:
            response.attributes[names.CUDA_DEVICES] = tuple(map(str, self._memory.peaks))
            response.attributes[names.CUDA_MEMORY_ALLOCATED] = tuple(self._memory.allocated)
            response.attributes[names.CUDA_MEMORY_PEAK] = tuple(self._memory.peaks.values())
        texts = [text for each in generations for text in each.texts] or self.texts
        if texts:
            response.read_content = lambda: _output_content(texts, causes)
        return response


def _concatenated(counts: Sequence[list[int] | None]) -> list[int] | None:
    """Return the counts of all generations, or `None` if those of one are unknown."""
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


def _batch_attributes(
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
    decode_ms = sum(each.decode_ms or 0.0 for each in timings)
    decoded = sum(each.decoded_tokens or 0 for each in timings)
    if decode_ms and decoded:
        yield names.GENERATION_TOKENS_PER_SECOND, decoded * 1000 / decode_ms
    if len(timings) > 1:
        yield names.PREFILL_MS, sum(each.prefill_ms or 0.0 for each in timings)
        yield names.DECODE_MS, decode_ms
        if decoded:
            yield names.TPOT_MS, decode_ms / decoded


def _output_content(texts: Sequence[str], causes: Sequence[str]) -> Content:
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
