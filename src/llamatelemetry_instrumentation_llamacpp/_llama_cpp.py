"""What is wrapped in llama-cpp-python: ``Llama``, a model in this process that serves one caller.

Its replies count tokens but time nothing, and its streams do not even count. Both are taken
from ``Llama.generate``, which every completion runs through: it is given the prompt's tokens,
yields the answer's, and llama.cpp's own counters tell how long it evaluated each.
"""

from __future__ import annotations

import sys
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from weakref import WeakKeyDictionary, ref

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
from llamatelemetry_instrumentation_llamacpp._routes import Route, match_path, read_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry.genai import Request
    from llamatelemetry_instrumentation_llamacpp._owner import Owner

    _Wrapped = Callable[..., Any]
    _Arguments = tuple[Any, ...]
    _Keywords = Mapping[str, Any]

_MODULE = "llama_cpp.llama"
# The method, the path at which a server does the same, and its first parameter.
_METHODS = (
    ("create_completion", "/v1/completions", "prompt"),
    ("create_chat_completion", "/v1/chat/completions", "messages"),
    ("create_embedding", "/v1/embeddings", "input"),
)


def patch_points(owner: Owner) -> tuple[PatchPoint, ...]:
    """The patch table. What ``owner`` holds is looked up per call: it changes with re-instrumenting."""
    points = [PatchPoint(_MODULE, "Llama.generate", _generate, optional=True)]
    for method, path, first in _METHODS:
        match = match_path(path)
        if match is not None:
            wrapper = _Method(owner, match.route, first)
            points.append(PatchPoint(_MODULE, f"Llama.{method}", wrapper))
    return tuple(points)


class _Counters(NamedTuple):
    """llama.cpp's counters of a context; it counts a batch of one token as decoding."""

    evaluated_tokens: int
    elapsed_ms: float


def _read_counters(llama: Any) -> _Counters | None:
    try:
        library: Any = sys.modules["llama_cpp"]
        # The second is its name before version 0.3.
        read = getattr(library, "llama_perf_context", None) or library.llama_get_timings
        told = read(llama._ctx.ctx)
        # The counts are never below 1, also where nothing was evaluated.
        prompt: int = told.n_p_eval if told.t_p_eval_ms else 0
        decoded: int = told.n_eval if told.t_eval_ms else 0
        return _Counters(prompt + decoded, told.t_p_eval_ms + told.t_eval_ms)
    except Exception:  # an older or newer binding: no timings
        return None


def _ends_an_answer(llama: Any, token: Any) -> bool:
    try:
        library: Any = sys.modules["llama_cpp"]
        is_end = getattr(library, "llama_vocab_is_eog", None)
        if is_end is None:  # before version 0.3.7 the model itself has the vocabulary
            return bool(library.llama_token_is_eog(llama._model.model, token))
        return bool(is_end(llama._model.vocab, token))
    except Exception:
        return False


class _Run:
    """One call, while ``Llama`` works on it."""

    def __init__(self, call: Call, llama: Any) -> None:
        self.call = call
        self._llama = ref(llama)  # the run may be kept as long as that: see _runs
        self.is_in_call = True
        self.generations = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self._before: _Counters | None = None
        self._at_first: _Counters | None = None
        self._last_token: Any = None

    def generating(self, tokens: Any) -> None:
        """It is about to evaluate a prompt."""
        self.generations += 1
        self.input_tokens = len(tokens)
        self._before = _read_counters(self._llama())

    def generated(self, token: Any) -> None:
        """A token has come."""
        self.output_tokens += 1
        self._last_token = token
        if self.output_tokens == 1:
            self.call.first_token_ns = perf_counter_ns()
            self._at_first = _read_counters(self._llama())

    def complete(self, response: Response) -> Response:
        """Fill in what the reply does not say."""
        if self.generations != 1:
            return response  # a chat format that asks the model several times
        usage = response.usage
        usage.input_tokens = self.input_tokens if usage.input_tokens is None else usage.input_tokens
        if usage.output_tokens is None:
            # As the library counts where it does: without the token that ends the answer.
            ends = _ends_an_answer(self._llama(), self._last_token)
            usage.output_tokens = self.output_tokens - ends
        before, first, after = self._before, self._at_first, _read_counters(self._llama())
        if before is None or first is None or after is None:
            return response
        evaluated = first.evaluated_tokens - before.evaluated_tokens
        response.timings = EngineTimings(
            prompt_tokens=evaluated,
            prefill_ms=first.elapsed_ms - before.elapsed_ms,
            predicted_tokens=self.output_tokens,
            decode_ms=after.elapsed_ms - first.elapsed_ms,
            cached_tokens=max(0, self.input_tokens - evaluated),
        )
        usage.cache_read_tokens = response.timings.cached_tokens
        return response


_runs: Final[WeakKeyDictionary[Any, _Run]] = WeakKeyDictionary()


class _Fold(ChatAccumulator):
    """The chunks of a stream, and the counts that are not in them."""

    def __init__(self, run: _Run) -> None:
        super().__init__(run.call.content_max_chars)
        self._run = run

    def response(self) -> Response:
        """Give what the chunks so far add up to."""
        return self._run.complete(super().response())


class _StreamTap(StreamWrapper):
    """The tap of a generator, which can be closed."""

    def close(self) -> None:
        """The application has had enough."""
        self._watch.on_close()
        self._source.close()


class _Method:
    """The wrapper of one ``create_*`` method."""

    def __init__(self, owner: Owner, route: Route, first: str) -> None:
        self._owner = owner
        self._route = route
        self._first = first

    def __call__(self, wrapped: _Wrapped, llama: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        run = self._begin(llama, args, kwargs)
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
        return self._answered(run, result)

    def _begin(self, llama: Any, args: _Arguments, kwargs: _Keywords) -> _Run | None:
        try:
            running = _runs.get(llama)
            if running is not None and running.is_in_call and not running.call.ended:
                return None  # a chat is a completion inside
            body = {self._first: args[0], **kwargs} if args else kwargs
            request = _read_request(self._route, body, llama)
            call = self._owner.instrumenter.start(request, SpanKind.INTERNAL)
            if call is None:
                return None
            run = _runs[llama] = _Run(call, llama)
            return run
        except Exception as error:
            internal_errors.log_once("starting a call of llama_cpp", error)
            return None

    def _answered(self, run: _Run, result: Any) -> Any:
        try:
            if not isinstance(result, dict):
                run.call.request.stream = True
                return _StreamTap(result, StreamObserver(run.call, _Fold(run)))
            reply = as_dict(result)
            response = self._route.read_reply(reply, run.call.request)
            if "choices" in reply:
                run.complete(response)
            run.call.finish(response)
        except Exception as error:
            internal_errors.log_once("reading a reply of llama_cpp", error)
            run.call.finish(Response())
        return cast("Any", result)


def _read_request(route: Route, body: Mapping[str, Any], llama: Any) -> Request:
    request = read_request(route, body, None)
    request.model = request.model or model_name(llama.model_path)
    request.has_queue = False
    request.parameters[names.SERVER_MODEL_FILE] = model_name(llama.model_path) or ""
    request.parameters[names.SERVER_CONTEXT_LENGTH] = llama.n_ctx()
    return request


def _generate(wrapped: _Wrapped, llama: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    tokens = wrapped(*args, **kwargs)
    run = _runs.get(llama)
    if run is None or run.call.ended:
        return tokens
    try:
        run.generating(args[0] if args else kwargs["tokens"])
        return _TokenTap(tokens, run)
    except Exception as error:
        internal_errors.log_once("watching llama_cpp generate", error)
        return tokens


class _TokenTap:
    """The generator of an answer's tokens, which tells the run what passes."""

    def __init__(self, source: Any, run: _Run) -> None:
        self._source = source
        self._run = run
        self._next = source.__next__

    def __iter__(self) -> _TokenTap:
        return self

    def __next__(self) -> Any:
        token = self._next()
        self._run.generated(token)
        return token

    def send(self, value: Any) -> Any:
        """As a generator: the tokens that are to be taken as generated."""
        token = self._source.send(value)
        self._run.generated(token)
        return token

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)
