"""Wrappers of `Pipeline`. They record pipeline calls and the items pulled from their iterators."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, cast

import wrapt
from opentelemetry.trace import SpanKind

from llamatelemetry.genai import as_list, as_str, get_field, internal_errors
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import EMBEDDINGS
from llamatelemetry_instrumentation_transformers._pipeline_request import (
    content_reader,
    is_lazy,
    parse_request,
)
from llamatelemetry_instrumentation_transformers._recorder import GenerationRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry_instrumentation_transformers import TransformersInstrumentor

    _Wrapped = Callable[..., Any]
    _Arguments = tuple[Any, ...]
    _Keywords = Mapping[str, Any]


class PipelineWrappers:
    """Wrappers of a pipeline's call, and of the model's part of it."""

    def __init__(self, instrumentor: TransformersInstrumentor) -> None:
        self._instrumentor = instrumentor

    def call(self, wrapped: _Wrapped, pipeline: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        """Wrap `Pipeline.__call__`, which every kind of pipeline runs through."""
        inputs = args[0] if args else kwargs.get("inputs")
        new_call = partial(PipelineCall, self._instrumentor, pipeline, kwargs)
        pipeline_call = new_call()
        is_iterator_expected = is_lazy(inputs)
        if not is_iterator_expected:
            pipeline_call.start(inputs, is_pull=False)
            if pipeline_call.recorder is None:
                return wrapped(*args, **kwargs)
        result = pipeline_call.run(lambda: wrapped(*args, **kwargs))
        # A generator of messages is a single chat, which the pipeline runs immediately.
        if is_iterator_expected and hasattr(result, "__next__"):
            return TracedOutputs(result, new_call)
        pipeline_call.finish(result)
        return result

    def forward(self, wrapped: _Wrapped, pipeline: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        """Wrap `Pipeline.forward`, which runs the model without pre- and postprocessing."""
        pipeline_call = current_pipeline_call.get()
        if pipeline_call is None or pipeline_call.pipeline is not pipeline:
            return wrapped(*args, **kwargs)
        return pipeline_call.forward(wrapped, args, kwargs)


class TracedOutputs(wrapt.ObjectProxy):  # type: ignore[misc] - wrapt has no types
    """Proxy of the iterator that a pipeline returns for a dataset or a generator.

    Each pull that runs the model is recorded as a call. A pull that only returns the next item of a
    finished batch is not. Nothing is pulled ahead of the application.
    """

    def __init__(self, iterator: Any, new_call: Callable[[], PipelineCall]) -> None:
        super().__init__(iterator)  # pyright: ignore[reportUnknownMemberType]
        self._self_new_call = new_call

    def __iter__(self) -> Any:
        wrapped = cast("Any", self.__wrapped__)  # pyright: ignore[reportUnknownMemberType]
        iterator = iter(wrapped)
        return self if iterator is wrapped else TracedOutputs(iterator, self._self_new_call)

    def __next__(self) -> Any:
        pipeline_call = self._self_new_call()
        wrapped = cast("Any", self.__wrapped__)  # pyright: ignore[reportUnknownMemberType]
        item = pipeline_call.run(wrapped.__next__)
        pipeline_call.finish(item)
        return item


current_pipeline_call: Final[ContextVar[PipelineCall | None]] = ContextVar(
    "llamatelemetry-transformers-pipeline-call", default=None
)
"""The pipeline call that runs in this context."""


class PipelineCall:
    """One call of a pipeline, or one pull on its iterator.

    A pull need not run the model: it may return an item of a finished batch. Its call is therefore
    started when the model runs, retroactively from the time at which the pull started. Until then,
    `recorder` is `None`.
    """

    def __init__(
        self, instrumentor: TransformersInstrumentor, pipeline: Any, kwargs: Mapping[str, Any]
    ) -> None:
        self._instrumentor = instrumentor
        self.pipeline = pipeline
        self._kwargs = kwargs
        self._started_ns = perf_counter_ns()
        self.recorder: GenerationRecorder | None = None
        self._is_call = False
        self._forwarding = False

    @property
    def active_recorder(self) -> GenerationRecorder | None:
        """Recorder that a `generate` in this context belongs to, if any.

        During a pull, only what runs in `forward` belongs to it, because the application's own
        generator also runs inside the pull.
        """
        recorder = self.recorder if self._forwarding or self._is_call else None
        # A task that was created meanwhile has a copy of the context, and may live longer.
        return None if recorder is None or recorder.call.ended else recorder

    def start(self, inputs: Any, *, is_pull: bool) -> None:
        """Start recording a call with these inputs."""
        self._is_call = not is_pull
        try:
            request = parse_request(self.pipeline, inputs, self._kwargs)
            request.read_content = content_reader(self.pipeline, inputs, self._kwargs)
            call = self._instrumentor.instrumenter.start(
                request, SpanKind.INTERNAL, started_ns=self._started_ns
            )
            if call is not None:
                self.recorder = GenerationRecorder(self._instrumentor, call, self.pipeline.model)
        except Exception as error:
            internal_errors.log_once("starting a call of a pipeline", error)

    def run(self, library_call: Callable[[], Any]) -> Any:
        """Run the pipeline, or the pull, with this call as the current one."""
        token = current_pipeline_call.set(self)
        call = None if self.recorder is None else self.recorder.call
        context = None if call is None else call.activate()
        try:
            try:
                return library_call()
            finally:
                current_pipeline_call.reset(token)
                if call is not None and context is not None:
                    call.deactivate(context)
        except BaseException as error:
            # Does nothing if a pull found no more inputs: no call was started.
            self.fail(error)
            raise

    def forward(
        self, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run the pipeline's `forward`, on one input or a batch."""
        inputs = args[0] if args else kwargs.get("model_inputs")
        if self.recorder is None and not self._is_call:
            self.start(_PreparedInputs(inputs), is_pull=True)
        recorder = self.recorder
        if recorder is None:
            return wrapped(*args, **kwargs)
        tokens = _token_tensors(inputs)
        generations = len(recorder.generations)
        # A call that covers the whole pipeline call is already current.
        context = None if self._is_call else recorder.call.activate()
        self._forwarding = True
        try:
            outputs = wrapped(*args, **kwargs)
        finally:
            self._forwarding = False
            if context is not None:
                recorder.call.deactivate(context)
        if len(recorder.generations) == generations:
            self._count(recorder, tokens, outputs)
        return outputs

    def _count(self, recorder: GenerationRecorder, tokens: Any, outputs: Any) -> None:
        try:
            if tokens is not None:
                recorder.input_tokens += [int(count) for count in tokens.sum(-1).tolist()]
            if recorder.call.request.operation == EMBEDDINGS:
                first = next(iter(outputs.values())) if hasattr(outputs, "values") else outputs[0]
                recorder.attributes[names.GEN_AI_EMBEDDINGS_DIMENSION_COUNT] = first.shape[-1]
        except Exception as error:
            internal_errors.log_once("counting the tokens of a pipeline", error)

    def finish(self, result: Any) -> None:
        """Finish the call with the result of the pipeline."""
        recorder = self.recorder
        if recorder is None:
            return
        try:
            if recorder.wants_content:
                recorder.texts = _texts(result)
        except Exception as error:
            internal_errors.log_once("reading the result of a pipeline", error)
        recorder.finish()

    def fail(self, error: BaseException) -> None:
        """Finish the call with an error."""
        if self.recorder is not None:
            self.recorder.fail(error)


class _PreparedInputs:
    """Inputs of a pull after `preprocess`, for one item or a batch."""

    def __init__(self, inputs: Any) -> None:
        prompt = inputs.get("prompt_text") if hasattr(inputs, "get") else None
        self.token_ids = inputs.get("input_ids") if hasattr(inputs, "get") else None
        self.messages = getattr(_first(prompt), "messages", None)


def _first(value: Any) -> Any:
    several = as_list(value)
    return several[0] if several else value


def _token_tensors(inputs: Any) -> Any:
    """Return a mask of the tokens. Read it before `forward`, which may remove it from the inputs."""
    if not hasattr(inputs, "get"):
        return None
    mask, tokens = inputs.get("attention_mask"), inputs.get("input_ids")
    if tokens is None or getattr(tokens, "ndim", 0) != 2:
        return None  # Masks of sound and images mark frames, not tokens.
    return tokens.new_ones(tokens.shape) if mask is None or mask.ndim != 2 else mask


def _texts(result: Any) -> list[str]:
    """Return the texts of a result without a generation: a transcript, an answer or a summary."""
    found = [as_str(get_field(result, name)) for name in ("text", "answer")]
    found += [each for item in as_list(result) for each in _texts(item)]
    return [each for each in found if each is not None]
