"""Wrappers for `GenerationMixin`; `_patches` installs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanKind

from llamatelemetry.genai import Content, Request, as_int, internal_errors, text_part
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import (
    GENERATE_CONTENT,
    PROVIDER_HUGGINGFACE,
    TEXT_COMPLETION,
)
from llamatelemetry_instrumentation_transformers._criteria import observed
from llamatelemetry_instrumentation_transformers._generation import (
    Generation,
    current,
    running,
)
from llamatelemetry_instrumentation_transformers._model import name_of
from llamatelemetry_instrumentation_transformers._recorded import Recorded
from llamatelemetry_instrumentation_transformers._work import working

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry_instrumentation_transformers._patches import Owner

    _Wrapped = Callable[..., Any]
    _Arguments = tuple[Any, ...]
    _Keywords = Mapping[str, Any]

# The order is the same in every supported version.
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
_NO_TEXT = ("input_features", "input_values", "pixel_values", "pixel_values_videos")


class GenerateWrappers:
    """Wrappers of `generate`, and of the methods that it calls."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def generate(self, wrapped: _Wrapped, model: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        """Wrap `GenerationMixin.generate`."""
        outer = current()
        if outer is not None:
            return _inside(outer, wrapped, model, args, kwargs)
        given = {**dict(zip(_POSITIONAL, args, strict=False)), **kwargs} if args else kwargs
        work = working.get()
        recorded = None if work is None else work.at_work
        is_own = recorded is None
        if recorded is None:
            recorded = self._begin(model, given)
        if recorded is None:
            return wrapped(*args, **kwargs)
        run = _Run(recorded, model, given, is_own)
        run.enter()
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            run.failed(error)
            raise
        run.returned(result)
        return result

    def prompt_is_known(
        self, wrapped: _Wrapped, _model: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap `_get_logits_processor`, which receives the length of the prompt."""
        generation = _unmasked()
        if generation is not None:
            length = kwargs.get("input_ids_seq_length", args[1] if len(args) > 1 else None)
            generation.prefix_tokens = as_int(length)
        return wrapped(*args, **kwargs)

    def criteria_are_known(
        self, wrapped: _Wrapped, _model: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap `_get_stopping_criteria`, when the settings are complete."""
        criteria = wrapped(*args, **kwargs)
        generation = _unmasked()
        if generation is None:
            return criteria
        try:
            generation.configured(args[0] if args else kwargs["generation_config"], criteria)
            return observed(criteria, generation)
        except Exception as error:
            internal_errors.log_once("reading the settings of a generation", error)
            return criteria

    def step_has_ended(
        self, wrapped: _Wrapped, _model: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap `_has_unfinished_sequences`, in which the loop waits for the token of its last step."""
        result = wrapped(*args, **kwargs)
        generation = _unmasked()
        if generation is not None:
            try:
                generation.on_loop_check()
            except Exception as error:
                internal_errors.log_once("timing a step of a generation", error)
        return result

    def _begin(self, model: Any, given: _Keywords) -> Recorded | None:
        try:
            request = _request(model, given)
            call = self._owner.instrumenter.start(request, SpanKind.INTERNAL)
            return None if call is None else Recorded(self._owner, call, model)
        except Exception as error:
            internal_errors.log_once("starting a call of generate", error)
            return None


def _unmasked() -> Generation | None:
    generation = current()
    return None if generation is None or generation.masked else generation


def _inside(
    outer: Generation, wrapped: _Wrapped, model: Any, args: _Arguments, kwargs: _Keywords
) -> Any:
    """Return whether a `generate` runs inside another one: a nested call, or an assistant's."""
    if outer.model_id == id(model) and not outer.looping:
        return wrapped(*args, **kwargs)
    outer.masked += 1
    try:
        return wrapped(*args, **kwargs)
    finally:
        outer.masked -= 1


class _Run:
    """One recorded `generate`, with its own call or as part of a pipeline's."""

    def __init__(self, recorded: Recorded, model: Any, given: _Keywords, is_own: bool) -> None:
        self._recorded = recorded
        self._given = given
        self._is_own = is_own
        self._generation: Generation | None = None
        self._token: Any = None
        self._context: Any = None
        try:
            self._generation = recorded.generate(model, given)
        except Exception as error:
            internal_errors.log_once("starting to watch a generation", error)

    def enter(self) -> None:
        """Start before the library runs."""
        self._token = running.set(self._generation)
        if self._is_own:
            self._context = self._recorded.call.activate()

    def _leave(self) -> None:
        running.reset(self._token)
        if self._is_own:
            self._recorded.call.deactivate(self._context)

    def returned(self, result: Any) -> None:
        """Finish after the library has returned."""
        self._leave()
        if self._generation is not None:
            try:
                self._generation.returned(result, self._given, self._wanted_tokenizer())
            except Exception as error:
                internal_errors.log_once("reading the result of a generation", error)
        if self._is_own:
            self._recorded.finish()

    def _wanted_tokenizer(self) -> Any:
        if not self._recorded.wants_content:
            return None
        work = None if self._is_own else working.get()
        return _tokenizer(self._given) if work is None else work.tokenizer

    def failed(self, error: BaseException) -> None:
        """Finish after the library has raised."""
        self._leave()
        if self._generation is not None:
            try:
                self._generation.failed(self._given)
            except Exception as failure:
                internal_errors.log_once("reading what a generation left", failure)
        if self._is_own:
            self._recorded.fail(error)


def _request(model: Any, given: _Keywords) -> Request:
    request = Request(
        operation=TEXT_COMPLETION if _is_text(given) else GENERATE_CONTENT,
        provider=PROVIDER_HUGGINGFACE,
        model=name_of(model),
        stream=given.get("streamer") is not None,
        has_queue=False,
    )
    longest = as_int(given.get("max_new_tokens"))
    if longest is not None:
        request.parameters[names.GEN_AI_REQUEST_MAX_TOKENS] = longest
    tokenizer = _tokenizer(given)
    if tokenizer is not None:
        request.read_content = lambda: _prompts(given, tokenizer)
    return request


def _is_text(given: _Keywords) -> bool:
    inputs: Any = given.get("inputs")  # token ids, or another main input of the model
    has_numbers = hasattr(inputs, "is_floating_point") and inputs.is_floating_point()
    return not has_numbers and all(given.get(name) is None for name in _NO_TEXT)


def _tokenizer(given: _Keywords) -> Any:
    """Return the tokenizer, which `generate` itself does not have."""
    tokenizer = given.get("tokenizer")
    return getattr(given.get("streamer"), "tokenizer", None) if tokenizer is None else tokenizer


def _prompts(given: _Keywords, tokenizer: Any) -> Content:
    tokens = given.get("inputs")
    tokens = given.get("input_ids") if tokens is None else tokens
    if tokens is None or tokens.ndim != 2 or tokens.is_floating_point():
        return Content()
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in tokens.tolist()]
    return Content(inputs=[{"role": "user", "parts": text_part(text)} for text in texts])
