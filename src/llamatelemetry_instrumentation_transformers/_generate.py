"""Wrappers of `GenerationMixin.generate` and of the methods that it calls."""

from __future__ import annotations

from inspect import signature
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanKind

from llamatelemetry.genai import as_int, internal_errors
from llamatelemetry_instrumentation_transformers._criteria import observe_criteria
from llamatelemetry_instrumentation_transformers._generate_request import (
    parse_generate_request,
    tokenizer_of,
)
from llamatelemetry_instrumentation_transformers._generation import (
    Generation,
    current_generation,
    generation_variable,
)
from llamatelemetry_instrumentation_transformers._own_generate import is_model
from llamatelemetry_instrumentation_transformers._pipeline import current_pipeline_call
from llamatelemetry_instrumentation_transformers._recorder import GenerationRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry_instrumentation_transformers import TransformersInstrumentor

    _Wrapped = Callable[..., Any]
    _Arguments = tuple[Any, ...]
    _Keywords = Mapping[str, Any]

# Parameters of `generate` in order, the same in every supported version of transformers.
_POSITIONAL = (
    "inputs",
    "generation_config",
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "synced_gpus",
    "assistant_model",
    "streamer",
)


class GenerateWrappers:
    """Wrappers of the patched methods, with their names."""

    def __init__(self, instrumentor: TransformersInstrumentor) -> None:
        self._instrumentor = instrumentor

    def __reduce__(self) -> Any:
        # A copy of a model class, as `PatchSwitch` describes it, does not call the wrapper.
        return SimpleNamespace, (), {"own_generate": None}

    def generate(self, wrapped: _Wrapped, model: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        """Wrap `GenerationMixin.generate`."""
        outer = current_generation()
        if outer is not None:
            return _run_nested(outer, wrapped, model, args, kwargs, is_own=False)
        given = _with_positional(args, kwargs)
        return self._record(wrapped, model, args, kwargs, given, is_own=False)

    def own_generate(
        self, wrapped: _Wrapped, model: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap a `generate` that a model's class defines itself."""
        if not is_model(model):
            return wrapped(*args, **kwargs)
        outer = current_generation()
        if outer is not None:
            return _run_nested(outer, wrapped, model, args, kwargs, is_own=True)
        given = _bound(wrapped, args, kwargs)
        return self._record(wrapped, model, args, kwargs, given, is_own=True)

    def _record(
        self,
        wrapped: _Wrapped,
        model: Any,
        args: _Arguments,
        kwargs: _Keywords,
        given: _Keywords,
        *,
        is_own: bool,
    ) -> Any:
        pipeline_call = current_pipeline_call.get()
        recorder = None if pipeline_call is None else pipeline_call.active_recorder
        is_own_call = recorder is None
        if recorder is None:
            recorder = self._start_recorder(model, given)
        if recorder is None:
            return wrapped(*args, **kwargs)
        run = _GenerateRun(recorder, model, given, is_own_call=is_own_call, is_own=is_own)
        return run.run(lambda: wrapped(*args, **kwargs))

    def get_logits_processor(
        self, wrapped: _Wrapped, _model: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap `_get_logits_processor`, which receives the length of the prompt."""
        generation = _observed_generation()
        if generation is not None:
            length = kwargs.get("input_ids_seq_length", args[1] if len(args) > 1 else None)
            generation.prefix_tokens = as_int(length)
        return wrapped(*args, **kwargs)

    def get_stopping_criteria(
        self, wrapped: _Wrapped, _model: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap `_get_stopping_criteria`, which receives the complete settings."""
        criteria = wrapped(*args, **kwargs)
        generation = _observed_generation()
        if generation is None:
            return criteria
        try:
            generation.set_config(args[0] if args else kwargs["generation_config"], criteria)
            return observe_criteria(criteria, generation)
        except Exception as error:
            internal_errors.log_once("reading the settings of a generation", error)
            return criteria

    def has_unfinished_sequences(
        self, wrapped: _Wrapped, _model: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap `_has_unfinished_sequences`, where the loop waits for the token of the last step."""
        result = wrapped(*args, **kwargs)
        generation = _observed_generation()
        if generation is not None:
            try:
                generation.on_loop_check()
            except Exception as error:
                internal_errors.log_once("timing a step of a generation", error)
        return result

    def _start_recorder(self, model: Any, given: _Keywords) -> GenerationRecorder | None:
        try:
            request = parse_generate_request(model, given)
            call = self._instrumentor.instrumenter.start(request, SpanKind.INTERNAL)
            return None if call is None else GenerationRecorder(self._instrumentor, call, model)
        except Exception as error:
            internal_errors.log_once("starting a call of generate", error)
            return None


def _observed_generation() -> Generation | None:
    generation = current_generation()
    return None if generation is None or generation.nested_calls else generation


def _with_positional(args: _Arguments, kwargs: _Keywords) -> _Keywords:
    return {**dict(zip(_POSITIONAL, args, strict=False)), **kwargs} if args else kwargs


def _bound(wrapped: _Wrapped, args: _Arguments, kwargs: _Keywords) -> _Keywords:
    """Return the arguments of a method by their names, whatever its parameters are."""
    if not args:
        return kwargs
    try:
        return {**signature(wrapped).bind_partial(*args).arguments, **kwargs}
    except TypeError:  # Too many arguments: the method itself raises.
        return kwargs


def _run_nested(
    outer: Generation,
    wrapped: _Wrapped,
    model: Any,
    args: _Arguments,
    kwargs: _Keywords,
    *,
    is_own: bool,
) -> Any:
    """Run a `generate` inside another one.

    Before the outer loop starts, a nested call with the same model is the same generation, passed
    on by the library. Inside a model's own `generate`, a nested call is a part of the outer one.
    Any other nested call, such as that of an assistant model, is not observed.
    """
    is_same_model = outer.model_id == id(model)
    if not outer.in_loop and not outer.nested_calls:
        if is_same_model and (is_own or not outer.is_own):
            return wrapped(*args, **kwargs)
        if outer.is_own:
            given = _bound(wrapped, args, kwargs) if is_own else _with_positional(args, kwargs)
            return _run_part(outer, lambda: wrapped(*args, **kwargs), model, given, is_own=is_own)
    outer.nested_calls += 1
    try:
        return wrapped(*args, **kwargs)
    finally:
        outer.nested_calls -= 1


def _run_part(
    outer: Generation,
    generate: Callable[[], Any],
    model: Any,
    given: _Keywords,
    *,
    is_own: bool,
) -> Any:
    part: Generation | None = None
    try:
        part = Generation(model, outer.call, given, is_own=is_own, outer=outer)
    except Exception as error:
        internal_errors.log_once("starting to observe a part of a generation", error)
    token = generation_variable.set(part or outer)
    try:
        result = generate()
    except BaseException:
        if part is not None:
            _finish_part(outer, part, lambda: part.fail(given))
        raise
    finally:
        generation_variable.reset(token)
    if part is not None:
        _finish_part(outer, part, lambda: part.finish(model, result, given, None))
    return result


def _finish_part(outer: Generation, part: Generation, finish: Callable[[], None]) -> None:
    try:
        finish()
        outer.parts.append(part)
    except Exception as error:
        internal_errors.log_once("reading a part of a generation", error)


class _GenerateRun:
    """One recorded `generate`. Its call covers a whole pipeline call unless `is_own_call`."""

    def __init__(
        self,
        recorder: GenerationRecorder,
        model: Any,
        given: _Keywords,
        *,
        is_own_call: bool,
        is_own: bool,
    ) -> None:
        self._recorder = recorder
        self._model = model
        self._given = given
        self._is_own_call = is_own_call
        self._generation: Generation | None = None
        try:
            self._generation = recorder.generate(model, given, is_own=is_own)
        except Exception as error:
            internal_errors.log_once("starting to observe a generation", error)

    def run(self, generate: Callable[[], Any]) -> Any:
        """Run the library with the generation and its call as the current ones."""
        token = generation_variable.set(self._generation)
        call = self._recorder.call
        context = call.activate() if self._is_own_call else None
        try:
            try:
                result = generate()
            finally:
                generation_variable.reset(token)
                if context is not None:
                    call.deactivate(context)
        except BaseException as error:
            self._fail(error)
            raise
        self._finish(result)
        return result

    def _finish(self, result: Any) -> None:
        if self._generation is not None:
            try:
                tokenizer = self._content_tokenizer()
                self._generation.finish(self._model, result, self._given, tokenizer)
            except Exception as error:
                internal_errors.log_once("reading the result of a generation", error)
        if self._is_own_call:
            self._recorder.finish()

    def _content_tokenizer(self) -> Any:
        if not self._recorder.wants_content:
            return None
        pipeline_call = None if self._is_own_call else current_pipeline_call.get()
        if pipeline_call is None:
            return tokenizer_of(self._given)
        return getattr(pipeline_call.pipeline, "tokenizer", None)

    def _fail(self, error: BaseException) -> None:
        if self._generation is not None:
            try:
                self._generation.fail(self._given)
            except Exception as failure:
                internal_errors.log_once("reading a failed generation", failure)
        if self._is_own_call:
            self._recorder.fail(error)
