"""A custom engine with a span around each of its calls.

The engine may be asynchronous or streaming. Its work then runs when the result is awaited or iterated.
The call lasts until the end of that, and is current whenever the engine works, so that a traced client
inside the engine adds to it.
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
    """Wrapper of an engine that records its calls."""

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
        """Continue a text with the engine. Arguments that are not given keep the engine's defaults."""
        given = dict(zip(_GENERATE, args, strict=False)) | kwargs
        given["stop"] = given.pop("stop_sequences", given.get("stop"))
        call = self._start(TEXT_COMPLETION, given, parse_completion_request)
        return _followed(call, lambda: self._engine.generate(*args, **kwargs))

    def chat(self, *args: Any, **kwargs: Any) -> Any:
        """Respond to messages with the engine. Arguments that are not given keep the engine's defaults."""
        given = dict(zip(_CHAT, args, strict=False)) | kwargs
        call = self._start(CHAT, given, parse_chat_request)
        return _followed(call, lambda: self._engine.chat(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        if name == "_engine":  # a copy is being created and has no engine yet
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


def _followed(call: Call | None, work: Callable[[], Any]) -> Any:
    """Run the work inside its call. The call ends with the result, or continues with a stream."""
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
    return _awaited(call, result) if inspect.iscoroutine(result) else _given(call, result)


async def _awaited(call: Call, work: Coroutine[Any, Any, Any]) -> Any:
    token = call.activate()
    try:
        result = await work
    except GeneratorExit:
        # The coroutine is being destroyed, in any context. Nothing may be recorded here, and the context must
        # not be restored.
        call.abandon()
        raise
    except BaseException as error:
        call.deactivate(token)
        call.fail(error)
        raise
    call.deactivate(token)
    return _given(call, result)


def _given(call: Call, result: Any) -> Any:
    """End the call with its result, or with the stream that the result is."""
    if isinstance(result, (Iterator, AsyncIterator)):
        call.request.stream = True
        watch = StreamObserver(call, ChunkAccumulator(call.content_max_chars))
        is_async = isinstance(result, AsyncIterator)
        return (_AsyncTracedStream if is_async else _TracedStream)(result, call, watch)
    call.finish(_read(result))
    return result


def _read(result: Any) -> Response:
    """Parse a chat completion. A plain text has no other information."""
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


class ChunkAccumulator(ChatAccumulator):
    """Accumulator for an engine's stream: chunks of a completion, or plain text."""

    __slots__ = ()

    def add(self, chunk: Any) -> bool:
        """Add one chunk. Return whether it carries a token."""
        return super().add(_as_completion(chunk) if isinstance(chunk, str) else chunk)


# Its type parameters differ from those of the wrapped object.
_ObjectProxy: Any = wrapt.ObjectProxy


class _TracedStream(_ObjectProxy):
    """The stream itself, except that its chunks are observed."""

    def __init__(self, source: Any, call: Call, watch: StreamObserver) -> None:
        super().__init__(source)  # pyright: ignore[reportUnknownMemberType] - see above
        self._self_watch = watch
        self._self_tap = StreamWrapper(_Working(source, call), watch)

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self._self_tap)

    def close(self) -> Any:
        """Close the stream."""
        try:
            return self.__wrapped__.close()
        finally:
            self._self_watch.on_close()

    def __enter__(self) -> Any:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> Any:
        try:
            return self.__wrapped__.__exit__(kind, error, traceback)
        finally:
            _left(self._self_watch, error)


class _AsyncTracedStream(_ObjectProxy):
    """Asynchronous version of `_TracedStream`."""

    def __init__(self, source: Any, call: Call, watch: StreamObserver) -> None:
        super().__init__(source)  # pyright: ignore[reportUnknownMemberType] - see above
        self._self_watch = watch
        self._self_tap = AsyncStreamWrapper(_AsyncWorking(source, call), watch)

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._self_tap)

    async def aclose(self) -> Any:
        """Close the stream."""
        try:
            return await self.__wrapped__.aclose()
        finally:
            self._self_watch.on_close()

    async def __aenter__(self) -> Any:
        await self.__wrapped__.__aenter__()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> Any:
        try:
            return await self.__wrapped__.__aexit__(kind, error, traceback)
        finally:
            _left(self._self_watch, error)


def _left(watch: StreamObserver, error: BaseException | None) -> None:
    if error is None:
        watch.on_close()
    else:
        watch.on_error(error)


class _Working:
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


class _AsyncWorking:
    """Asynchronous version of `_Working`."""

    __slots__ = ("_call", "_source")

    def __init__(self, source: Any, call: Call) -> None:
        self._source = source
        self._call = call

    async def __anext__(self) -> Any:
        token = self._call.activate()
        try:
            piece = await anext(self._source)
        except GeneratorExit:  # as in `_awaited`
            raise
        except BaseException:
            self._call.deactivate(token)
            raise
        self._call.deactivate(token)
        return piece
