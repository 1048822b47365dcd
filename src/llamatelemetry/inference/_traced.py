"""Tracing of custom engines.

The call of an asynchronous or streaming engine is open until its result has been awaited or read. It
is the current span while the engine works, so that a traced client in the engine enriches it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import wrapt
from opentelemetry.trace import SpanKind

from llamatelemetry import __version__
from llamatelemetry.genai import (
    AsyncStreamWrapper,
    Call,
    ChatAccumulator,
    ConfiguredInstrumenter,
    Request,
    Response,
    StreamObserver,
    StreamWrapper,
    internal_errors,
    model_name,
    parse_chat_request,
    parse_completion_request,
    parse_parameters,
    parse_response,
)
from llamatelemetry.semconv import normalize_provider
from llamatelemetry.semconv.operations import CHAT, TEXT_COMPLETION

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from llamatelemetry.genai import Content, InferenceEngine

_SCOPE: Final = "llamatelemetry.inference"
_UNKNOWN_PROVIDER: Final = "_OTHER"
_GENERATE: Final = ("prompt", "max_tokens", "temperature", "stop", "repetition_penalty")
_CHAT: Final = ("messages", "max_tokens", "temperature")


class TracedEngine:
    """Proxy of an engine that records its calls."""

    records_its_calls = True

    def __init__(self, engine: InferenceEngine, provider: str | None) -> None:
        self._engine = engine
        self._provider = _UNKNOWN_PROVIDER if provider is None else normalize_provider(provider)
        self._instrumenter = ConfiguredInstrumenter(_SCOPE, __version__)

    @property
    def model_name(self) -> str:
        """Name of the engine's model."""
        return self._engine.model_name

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Return the engine's text for a prompt. Missing arguments keep its defaults."""
        given = dict(zip(_GENERATE, args, strict=False)) | kwargs
        given["stop"] = given.pop("stop_sequences", given.get("stop"))
        call = self._start(TEXT_COMPLETION, given, parse_completion_request)
        return _run_in_call(call, lambda: self._engine.generate(*args, **kwargs))

    def chat(self, *args: Any, **kwargs: Any) -> Any:
        """Return the engine's response to messages. Missing arguments keep its defaults."""
        given = dict(zip(_CHAT, args, strict=False)) | kwargs
        call = self._start(CHAT, given, parse_chat_request)
        return _run_in_call(call, lambda: self._engine.chat(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        # `copy` looks up attributes before the copy has an engine.
        if name == "_engine":
            raise AttributeError(name)
        return getattr(self._engine, name)

    def _start(
        self,
        operation: str,
        given: Mapping[str, Any],
        read_content: Callable[[Mapping[str, Any]], Content],
    ) -> Call | None:
        try:
            request = Request(
                operation=operation,
                provider=self._provider,
                model=model_name(self._engine.model_name),
                parameters=parse_parameters(given),
                read_content=partial(read_content, given),
            )
            call = self._instrumenter.get().start(request, SpanKind.INTERNAL)
        except Exception as error:
            internal_errors.log_once("starting a call of an engine", error)
            return None
        if call is not None:
            call.start_attempt()
        return call


def _run_in_call(call: Call | None, work: Callable[[], Any]) -> Any:
    """Run the engine inside its call.

    The call ends with the result, or stays open while a coroutine or a stream runs.
    """
    if call is None:
        return work()
    token = call.activate()
    try:
        result = work()
    except BaseException as error:
        call.deactivate(token)
        call.fail(error)
        raise
    call.deactivate(token)
    if inspect.iscoroutine(result):
        return _await_in_call(call, result)
    return _end_with_result(call, result)


async def _await_in_call(call: Call, work: Coroutine[Any, Any, Any]) -> Any:
    token = call.activate()
    try:
        result = await work
    except GeneratorExit:
        # The garbage collector closes the coroutine in an arbitrary context: nothing may be
        # recorded here, and the context must not be restored.
        call.abandon()
        raise
    except BaseException as error:
        call.deactivate(token)
        call.fail(error)
        raise
    call.deactivate(token)
    return _end_with_result(call, result)


def _end_with_result(call: Call, result: Any) -> Any:
    """End the call with its result, or at the end of the stream that the result is."""
    if isinstance(result, (Iterator, AsyncIterator)):
        call.request.stream = True
        observer = StreamObserver(call, EngineStreamAccumulator(call.content_max_chars))
        is_async = isinstance(result, AsyncIterator)
        return (_AsyncTracedStream if is_async else _TracedStream)(result, call, observer)
    call.finish(_parse_result(result))
    return result


def _parse_result(result: Any) -> Response:
    """Parse a chat completion or a plain text."""
    try:
        if isinstance(result, str):
            return parse_response(_as_completion(result))
        is_completion = isinstance(result, dict) or hasattr(result, "choices")
        return parse_response(result) if is_completion else Response()
    except Exception as error:
        internal_errors.log_once("parsing the response of an engine", error)
        return Response()


def _as_completion(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text}]}


class EngineStreamAccumulator(ChatAccumulator):
    """Accumulator for an engine's stream: chunks of a completion, or plain text."""

    __slots__ = ()

    def add(self, chunk: Any) -> bool:
        """Add one chunk. Return whether it carries a token."""
        return super().add(_as_completion(chunk) if isinstance(chunk, str) else chunk)


# The type parameters of wrapt's class are not those of the wrapped object.
_ObjectProxy: Any = wrapt.ObjectProxy


class _TracedStream(_ObjectProxy):
    """Proxy of a stream that observes its chunks."""

    def __init__(self, source: Any, call: Call, observer: StreamObserver) -> None:
        super().__init__(source)  # pyright: ignore[reportUnknownMemberType] - see above
        self._self_observer = observer
        self._self_chunks = StreamWrapper(_IteratorInCall(source, call), observer)

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self._self_chunks)

    def close(self) -> Any:
        """Close the stream."""
        try:
            return self.__wrapped__.close()
        finally:
            self._self_observer.on_close()

    def __enter__(self) -> Any:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> Any:
        try:
            return self.__wrapped__.__exit__(kind, error, traceback)
        finally:
            _end_observer(self._self_observer, error)


class _AsyncTracedStream(_ObjectProxy):
    """Asynchronous version of `_TracedStream`."""

    def __init__(self, source: Any, call: Call, observer: StreamObserver) -> None:
        super().__init__(source)  # pyright: ignore[reportUnknownMemberType] - see above
        self._self_observer = observer
        self._self_chunks = AsyncStreamWrapper(_AsyncIteratorInCall(source, call), observer)

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._self_chunks)

    async def aclose(self) -> Any:
        """Close the stream."""
        try:
            return await self.__wrapped__.aclose()
        finally:
            self._self_observer.on_close()

    async def __aenter__(self) -> Any:
        await self.__wrapped__.__aenter__()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> Any:
        try:
            return await self.__wrapped__.__aexit__(kind, error, traceback)
        finally:
            _end_observer(self._self_observer, error)


def _end_observer(observer: StreamObserver, error: BaseException | None) -> None:
    if error is None:
        observer.on_close()
    else:
        observer.on_error(error)


class _IteratorInCall:
    """Iterator that runs each step of a stream inside its call."""

    __slots__ = ("_call", "_source")

    def __init__(self, source: Any, call: Call) -> None:
        self._source = source
        self._call = call

    def __next__(self) -> Any:
        token = self._call.activate()
        try:
            return next(self._source)
        finally:
            self._call.deactivate(token)


class _AsyncIteratorInCall:
    """Asynchronous version of `_IteratorInCall`."""

    __slots__ = ("_call", "_source")

    def __init__(self, source: Any, call: Call) -> None:
        self._source = source
        self._call = call

    async def __anext__(self) -> Any:
        token = self._call.activate()
        try:
            chunk = await anext(self._source)
        except GeneratorExit:
            # As in `_await_in_call`, the context must not be restored.
            raise
        except BaseException:
            self._call.deactivate(token)
            raise
        self._call.deactivate(token)
        return chunk
