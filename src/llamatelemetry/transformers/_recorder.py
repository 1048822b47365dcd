"""Recorder of the calls of `TransformersBackend`, through `genai.Call`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanKind

from llamatelemetry import __version__
from llamatelemetry.genai import (
    Call,
    ConfiguredInstrumenter,
    Content,
    Request,
    Response,
    Usage,
    internal_errors,
    parse_chat_request,
    parse_choices,
    parse_completion_request,
    parse_parameters,
)
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import EMBEDDINGS, PROVIDER_HUGGINGFACE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamatelemetry.transformers._running import GenerationRun

_SCOPE: Final = "llamatelemetry.transformers"


class BackendRecorder:
    """Starts the calls of one backend."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._instrumenter = ConfiguredInstrumenter(_SCOPE, __version__)

    def start(
        self, operation: str, given: Mapping[str, Any], *, stream: bool = False
    ) -> BackendCall:
        """Start a call. `given` is the request as a server would receive it."""
        try:
            request = Request(
                operation=operation,
                provider=PROVIDER_HUGGINGFACE,
                model=self._model,
                stream=stream,
                parameters=parse_parameters(given),
                has_queue=False,
            )
            penalty = given.get("repetition_penalty", 1.0)
            if penalty != 1:
                request.parameters[names.GENERATION_REPETITION_PENALTY] = float(penalty)
            if operation != EMBEDDINGS:
                request.read_content = lambda: _content(given)
            return BackendCall(self._instrumenter.get().start(request, SpanKind.INTERNAL))
        except Exception as error:
            internal_errors.log_once("starting a call of TransformersBackend", error)
            return BackendCall(None)


class BackendCall:
    """One call, or a no-op if the call is not recorded."""

    def __init__(self, call: Call | None) -> None:
        self._call = call
        self._token: Any = None

    def __enter__(self) -> BackendCall:
        """Make the call current, so that the model's work belongs to it."""
        if self._call is not None:
            self._token = self._call.activate()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous context."""
        if self._call is not None:
            self._call.deactivate(self._token)

    def observe_stream(self, run: GenerationRun) -> None:
        """Record the intervals between the chunks of a stream."""
        if self._call is not None:
            run.steps.stream_to(self._call)

    def finish(self, run: GenerationRun) -> None:
        """End the call with the result of a run."""
        if self._call is not None:
            self._call.finish(self._read(run))

    def finish_embedding(self, input_tokens: list[int], dimensions: int) -> None:
        """End a call that returned vectors."""
        if self._call is not None:
            response = Response(model=self._call.request.model)
            response.usage.input_tokens = sum(input_tokens)
            response.attributes[names.GEN_AI_EMBEDDINGS_DIMENSION_COUNT] = dimensions
            self._call.finish(response)

    def fail(self, error: BaseException, run: GenerationRun | None = None) -> None:
        """End the call with an error, and with the tokens generated before it."""
        if self._call is not None:
            self._call.fail(error, None if run is None else self._read(run))

    def _read(self, run: GenerationRun) -> Response:
        call = self._call
        if call is None:
            return Response()
        try:
            run.steps.end()
            call.start_attempt(run.steps.started_ns)
            if run.steps.times_ns:
                call.first_token_ns = run.steps.times_ns[0]
                call.first_chunk_ns = call.first_token_ns if call.request.stream else None
            return _response(run, call.request.model)
        except Exception as error:
            internal_errors.log_once("reading the result of TransformersBackend", error)
            return Response()


def _response(run: GenerationRun, model: str | None) -> Response:
    counts = [output.tokens for output in run.outputs]
    response = Response(
        model=model,
        finish_reasons=tuple(each.reason for each in run.outputs if each.reason is not None),
        usage=Usage(input_tokens=sum(run.input_tokens), output_tokens=sum(counts)),
        timings=run.steps.timings(
            PROVIDER_HUGGINGFACE,
            input_tokens=sum(run.input_tokens),
            output_tokens=sum(counts),
        ),
    )
    if len(counts) > 1:
        response.attributes[names.BATCH_SIZE] = len(counts)
        response.attributes[names.BATCH_INPUT_TOKENS] = tuple(run.input_tokens)
        response.attributes[names.BATCH_OUTPUT_TOKENS] = tuple(counts)
    choices = [
        {"message": {"role": "assistant", "content": each.text}, "finish_reason": each.reason}
        for each in run.outputs
    ]
    response.read_content = lambda: parse_choices(choices)
    return response


def _content(given: Mapping[str, Any]) -> Content:
    return parse_chat_request(given) if "messages" in given else parse_completion_request(given)
