"""Wrappers of continuous batching: `ContinuousBatchingManager` and the state of its requests.

`generate_batch`, `cache_implementation="paged"` and `transformers serve` all submit their requests
with `add_request`. Each request is a call of its own, except those that a `generate` or a pipeline
submits, which are part of that call. A thread of the manager generates the tokens. There, each
request is a `RequestState`, to which this module attaches its `BatchRequest`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanKind

from llamatelemetry.genai import Request, internal_errors
from llamatelemetry.semconv.operations import PROVIDER_HUGGINGFACE, TEXT_COMPLETION
from llamatelemetry_instrumentation_transformers._batch_request import (
    BatchRequest,
    request_settings,
)
from llamatelemetry_instrumentation_transformers._generation import (
    current_generation,
    settings_of,
)
from llamatelemetry_instrumentation_transformers._model import name_of
from llamatelemetry_instrumentation_transformers._recorder import GenerationRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry_instrumentation_transformers import TransformersInstrumentor

    _Wrapped = Callable[..., Any]
    _Arguments = tuple[Any, ...]
    _Keywords = Mapping[str, Any]

_ATTRIBUTE: Final = "_llamatelemetry_request"
_ENDED: Final = frozenset({"FINISHED", "FAILED"})


class _Submission:
    """One run of `add_request`, which creates the state of its request."""

    def __init__(self, instrumentor: TransformersInstrumentor, manager: Any) -> None:
        self._instrumentor = instrumentor
        self._manager = manager
        self.request: BatchRequest | None = None

    def start(self, state: Any) -> None:
        """Start recording the request with this state."""
        generation = current_generation()
        settings = request_settings(
            self._manager.generation_config, state, lambda config: settings_of(config, None, None)
        )
        if generation is not None:
            request = BatchRequest(generation.call, None, state, settings)
            generation.requests.append(request)
        else:
            recorder = self._start_recorder(state)
            if recorder is None:
                return
            try:
                request = BatchRequest(recorder.call, recorder, state, settings)
                recorder.start_request(request)
            except Exception:
                recorder.finish()
                raise
        self.request = request
        setattr(state, _ATTRIBUTE, request)

    def _start_recorder(self, state: Any) -> GenerationRecorder | None:
        model = self._manager.model
        request = Request(
            operation=TEXT_COMPLETION,
            provider=PROVIDER_HUGGINGFACE,
            model=name_of(model),
            stream=bool(getattr(state, "streaming", False)),
        )
        call = self._instrumentor.instrumenter.start(request, SpanKind.INTERNAL)
        return None if call is None else GenerationRecorder(self._instrumentor, call, model)


_submission: Final[ContextVar[_Submission | None]] = ContextVar(
    "llamatelemetry-transformers-submission", default=None
)
"""The `add_request` that runs in this context."""


class ContinuousWrappers:
    """Wrappers of the patched methods, with their names."""

    def __init__(self, instrumentor: TransformersInstrumentor) -> None:
        self._instrumentor = instrumentor

    def add_request(
        self, wrapped: _Wrapped, manager: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap `ContinuousBatchingManager.add_request`."""
        submission = _Submission(self._instrumentor, manager)
        token = _submission.set(submission)
        try:
            return wrapped(*args, **kwargs)
        except BaseException as error:
            # The queue is full.
            if submission.request is not None:
                _guarded(submission.request.fail, error)
            raise
        finally:
            _submission.reset(token)

    def init(self, wrapped: _Wrapped, state: Any, args: _Arguments, kwargs: _Keywords) -> None:
        """Wrap `RequestState.__init__`."""
        wrapped(*args, **kwargs)
        submission = _submission.get()
        if submission is not None and submission.request is None:
            _guarded(submission.start, state)

    def update_and_check_completion(
        self, wrapped: _Wrapped, state: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap the method of `RequestState` that receives each token."""
        request = _request_of(state)
        if request is None:
            return wrapped(*args, **kwargs)
        before = state.generated_len()
        is_done = wrapped(*args, **kwargs)
        if state.generated_len() > before:
            _guarded(request.on_token, state)
        return is_done

    # Its name before version 5.
    update_with_token = update_and_check_completion

    def to_generation_output(
        self, wrapped: _Wrapped, state: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap the method of `RequestState` that creates what the application receives."""
        output = wrapped(*args, **kwargs)
        request = _request_of(state)
        if request is not None and state.status.name in _ENDED:
            _guarded(request.on_end, output)
        return output

    def create_equivalent_initial_request(
        self, wrapped: _Wrapped, state: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap the method of `RequestState` that replaces it when its cache is needed elsewhere."""
        replacement = wrapped(*args, **kwargs)
        request = _request_of(state)
        if request is not None:
            setattr(replacement, _ATTRIBUTE, request)
            request.on_requeued()
        return replacement

    def handle_request_error(
        self, wrapped: _Wrapped, _processor: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap `ContinuousBatchProcessor._handle_request_error`, which receives the exception."""
        error, state = (*args, kwargs.get("error"), kwargs.get("state"))[:2]
        request = _request_of(state)
        if request is not None and isinstance(error, BaseException):
            request.on_error(error)
        return wrapped(*args, **kwargs)

    def set_request_cancellation(
        self, wrapped: _Wrapped, scheduler: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap `Scheduler.set_request_cancellation`. A canceled request has no output."""
        result = wrapped(*args, **kwargs)
        _guarded(_end_canceled, (scheduler, args[0] if args else kwargs.get("request_id")))
        return result


def _request_of(state: Any) -> BatchRequest | None:
    return getattr(state, _ATTRIBUTE, None)


def _end_canceled(canceled: tuple[Any, Any]) -> None:
    scheduler, request_id = canceled
    for states in (scheduler.active_requests, scheduler.waiting_requests):
        request = _request_of(states.get(request_id))
        if request is not None:
            request.end()


def _guarded(record: Callable[[Any], None], value: Any) -> None:
    try:
        record(value)
    except Exception as error:
        internal_errors.log_once("recording a request to continuous batching", error)
