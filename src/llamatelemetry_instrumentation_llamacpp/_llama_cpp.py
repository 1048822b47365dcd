"""Patch points of llama-cpp-python: `Llama`, an in-process model that serves one caller at a time.

Its responses have token counts but no timings, and its streams have neither. Both are taken from
`Llama.generate`, which every completion uses: its argument is the tokens of the prompt, and it
yields those of the output. llama.cpp's performance counters have the time of each evaluation.
"""

from __future__ import annotations

import sys
from functools import partial
from inspect import signature
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from weakref import ref

from opentelemetry.trace import SpanKind

from llamatelemetry.genai import (
    Call,
    ChatAccumulator,
    EngineTimings,
    PatchPoint,
    Response,
    StreamObserver,
    StreamWrapper,
    as_dict,
    internal_errors,
    model_name,
)
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP
from llamatelemetry_instrumentation_llamacpp._routes import (
    InferenceRoute,
    match_path,
    parse_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry.genai import Request
    from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor

    _Wrapped = Callable[..., Any]
    _Arguments = tuple[Any, ...]
    _Keywords = Mapping[str, Any]

_MODULE = "llama_cpp.llama"
# Each method, and the path of the same endpoint of a server.
_METHODS = (
    ("create_completion", "/v1/completions"),
    ("create_chat_completion", "/v1/chat/completions"),
    ("create_embedding", "/v1/embeddings"),
)


def patch_points(instrumentor: LlamaCppInstrumentor, _library: str) -> tuple[PatchPoint, ...]:
    """Return the patch table. The wrappers read `instrumentor` at each call: it can change."""
    points = [PatchPoint(_MODULE, "Llama.generate", _wrap_generate, optional=True)]
    for method, path in _METHODS:
        match = match_path(path)
        if match is not None:
            wrapper = _CreateWrapper(instrumentor, match.route)
            points.append(PatchPoint(_MODULE, f"Llama.{method}", wrapper))
    return tuple(points)


class _Counters(NamedTuple):
    """llama.cpp's performance counters of a context. A batch of one token counts as decoding."""

    evaluated_tokens: int
    elapsed_ms: float


def _read_counters(llama: Any) -> _Counters | None:
    try:
        library: Any = sys.modules["llama_cpp"]
        # `llama_get_timings` is the name before version 0.3.
        read = getattr(library, "llama_perf_context", None) or library.llama_get_timings
        counters = read(llama._ctx.ctx)
        # The counts are at least 1, even if nothing was evaluated.
        prompt: int = counters.n_p_eval if counters.t_p_eval_ms else 0
        decoded: int = counters.n_eval if counters.t_eval_ms else 0
        return _Counters(prompt + decoded, counters.t_p_eval_ms + counters.t_eval_ms)
    except Exception as error:  # An unsupported version of the binding: record no timings.
        internal_errors.raise_if_from_signal_handler(error)
        return None


def _is_end_token(llama: Any, token: Any) -> bool:
    try:
        library: Any = sys.modules["llama_cpp"]
        is_end = getattr(library, "llama_vocab_is_eog", None)
        if is_end is None:  # Before version 0.3.7 the function took the model.
            return bool(library.llama_token_is_eog(llama._model.model, token))
        return bool(is_end(llama._model.vocab, token))
    except Exception as error:
        internal_errors.raise_if_from_signal_handler(error)
        return False


class _LlamaRun:
    """The token counts and counters of one call."""

    def __init__(self, call: Call, llama: Any) -> None:
        self.call = call
        key = id(llama)
        # Weak: `_runs` keeps the run as long as the model exists.
        self._llama = ref(llama, lambda _: _runs.pop(key, None))
        self.is_in_call = True
        self.generations = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self._before: _Counters | None = None
        self._at_first: _Counters | None = None
        self._at_last: _Counters | None = None
        self._is_end = False

    def resume(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Run the generator of a chat handler, which may call `create_completion` only now."""
        self.is_in_call = True
        try:
            return method(*arguments)
        finally:
            self.is_in_call = False

    def on_prompt(self, tokens: Any) -> None:
        """Record the tokens of a prompt, before their evaluation."""
        self.generations += 1
        self.input_tokens = len(tokens)
        self._before = _read_counters(self._llama())

    def on_token(self, token: Any) -> None:
        """Record a generated token."""
        self.output_tokens += 1
        if self.output_tokens == 1:
            self.call.first_token_ns = perf_counter_ns()
        # Not at the end of the stream: until then the model can be closed, or serve another call.
        llama = self._llama()
        self._is_end = _is_end_token(llama, token)
        self._at_last = _read_counters(llama)
        self._at_first = self._at_first or self._at_last

    def complete(self, response: Response) -> Response:
        """Add the token counts and timings to a response."""
        if self.generations != 1:
            return response  # Some chat formats run the model several times.
        usage = response.usage
        usage.input_tokens = self.input_tokens if usage.input_tokens is None else usage.input_tokens
        if usage.output_tokens is None:
            # The library's own counts leave out the token that ends the output.
            usage.output_tokens = self.output_tokens - self._is_end
        before, first, last = self._before, self._at_first, self._at_last
        if before is None or first is None or last is None:
            return response
        evaluated = first.evaluated_tokens - before.evaluated_tokens
        response.timings = EngineTimings(
            prompt_tokens=evaluated,
            prefill_ms=first.elapsed_ms - before.elapsed_ms,
            predicted_tokens=self.output_tokens,
            decode_ms=last.elapsed_ms - first.elapsed_ms,
            cached_tokens=max(0, self.input_tokens - evaluated),
            provider=PROVIDER_LLAMA_CPP,
        )
        usage.cache_read_tokens = response.timings.cached_tokens
        return response


# By the `id` of the model: a subclass of `Llama` may not be hashable.
_runs: Final[dict[int, _LlamaRun]] = {}


class _LlamaChunkAccumulator(ChatAccumulator):
    """Accumulates the chunks of a stream, and adds the counts that are not in them."""

    def __init__(self, run: _LlamaRun) -> None:
        super().__init__(run.call.content_max_chars)
        self._run = run

    def response(self) -> Response:
        """Return the response that the chunks so far amount to."""
        return self._run.complete(super().response())


class _GeneratorWrapper(StreamWrapper):
    """A stream wrapper with the methods of a generator."""

    def __init__(self, source: Any, observer: StreamObserver, run: _LlamaRun) -> None:
        super().__init__(source, observer)
        self._next = self._resume = partial(run.resume, source.__next__)
        self._run = run

    def send(self, value: Any) -> Any:
        """Send a value to the generator. Return its next chunk."""
        return self._resume_by(self._source.send, value)

    def throw(self, *error: Any) -> Any:
        """Raise an error in the generator. The stream ends here, unless it handles the error."""
        return self._resume_by(self._source.throw, *error)

    def _resume_by(self, method: Callable[..., Any], *arguments: Any) -> Any:
        self._next = partial(self._run.resume, method, *arguments)
        try:
            return self.__next__()
        finally:
            self._next = self._resume

    def close(self) -> None:
        """Close the generator. The stream ends here."""
        self._observer.on_close()
        self._source.close()


class _CreateWrapper:
    """The wrapper of one `create_*` method."""

    def __init__(self, instrumentor: LlamaCppInstrumentor, route: InferenceRoute) -> None:
        self._instrumentor = instrumentor
        self._route = route

    def __call__(self, wrapped: _Wrapped, llama: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        run = self._start(wrapped, llama, args, kwargs)
        if run is None:
            return wrapped(*args, **kwargs)
        token = run.call.activate()
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            run.call.deactivate(token)
            run.call.fail(error)
            raise
        finally:
            run.is_in_call = False
        run.call.deactivate(token)
        return self._record(run, result)

    def _start(
        self, wrapped: _Wrapped, llama: Any, args: _Arguments, kwargs: _Keywords
    ) -> _LlamaRun | None:
        try:
            running = _runs.get(id(llama))
            if running is not None and running.is_in_call and not running.call.ended:
                return None  # A chat calls `create_completion`.
            body = kwargs
            if args:
                body = dict(zip(signature(wrapped).parameters, args, strict=False), **kwargs)
            request = _parse_request(self._route, body, llama)
            call = self._instrumentor.instrumenter.start(request, SpanKind.INTERNAL)
            if call is None:
                return None
            run = _runs[id(llama)] = _LlamaRun(call, llama)
            return run
        except Exception as error:
            internal_errors.log_once("starting a call of llama_cpp", error)
            return None

    def _record(self, run: _LlamaRun, result: Any) -> Any:
        try:
            if not isinstance(result, dict):
                run.call.request.stream = True
                observer = StreamObserver(run.call, _LlamaChunkAccumulator(run))
                return _GeneratorWrapper(result, observer, run)
            body = as_dict(result)
            response = self._route.parse_response(body, run.call.request)
            if "choices" in body:
                run.complete(response)
            run.call.finish(response)
        except Exception as error:
            internal_errors.log_once("reading a response of llama_cpp", error)
            run.call.finish(Response())
        return cast("Any", result)


def _parse_request(route: InferenceRoute, body: Mapping[str, Any], llama: Any) -> Request:
    request = parse_request(route, body, None)
    request.model = request.model or model_name(llama.model_path)
    request.has_queue = False
    request.parameters[names.SERVER_MODEL_FILE] = model_name(llama.model_path) or ""
    request.parameters[names.SERVER_CONTEXT_LENGTH] = llama.n_ctx()
    return request


def _wrap_generate(wrapped: _Wrapped, llama: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    tokens = wrapped(*args, **kwargs)
    run = _runs.get(id(llama))
    if run is None or run.call.ended:
        return tokens
    try:
        run.on_prompt(args[0] if args else kwargs["tokens"])
        return _TokenIterator(tokens, run)
    except Exception as error:
        internal_errors.log_once("observing Llama.generate", error)
        return tokens


class _TokenIterator:
    """The generator of the output tokens, which records each token."""

    def __init__(self, source: Any, run: _LlamaRun) -> None:
        self._source = source
        self._run = run
        self._next = source.__next__

    def __iter__(self) -> _TokenIterator:
        return self

    def __next__(self) -> Any:
        token = self._next()
        self._run.on_token(token)
        return token

    def send(self, value: Any) -> Any:
        """Send tokens to the generator, which continues after them."""
        token = self._source.send(value)
        self._run.on_token(token)
        return token

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)
