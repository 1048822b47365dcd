"""Decorated functions: each call is an operation.

Handles plain functions, coroutine functions and generators of both kinds. A decorated function
keeps its signature, its kind for `inspect`, and its pickling by name.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from wrapt import BoundFunctionWrapper, FunctionWrapper

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.content.limits import compact_json, limit_parts
from llamatelemetry.genai.content.parts import plain_json
from llamatelemetry.genai.streams import open_streams
from llamatelemetry.genai.streams.abandoned_calls import finalizer
from llamatelemetry.otel._sdk_private import detach_context
from llamatelemetry.pipeline._instruments import TOOL, content_max_chars
from llamatelemetry.pipeline._scopes import OperationScope
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from llamatelemetry.pipeline._instruments import OperationKind
    from llamatelemetry.pipeline._operation_span import OperationSpan


class _BoundTracedFunction(BoundFunctionWrapper[Any, Any]):
    """A decorated method of an instance or a class."""

    @property
    def _owner(self) -> Any:
        return getattr(self, "__self__", self._self_owner)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Pickle by owner and name, as methods are.
        return getattr, (self._owner, self.__name__)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return getattr(copy.deepcopy(self._owner, memo), self.__name__)


class TracedFunction(FunctionWrapper[Any, Any]):
    """A function that starts an operation on each call, by `start`."""

    __bound_function_wrapper__ = _BoundTracedFunction

    def __init__(
        self,
        function: Callable[..., Any],
        kind: OperationKind,
        start: Callable[[], OperationSpan],
    ) -> None:
        method = _call_method(function)

        def run(
            wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            code = wrapped if method is None else method
            # Create generators and coroutines here, so that invalid arguments raise at the call.
            # Their code has not started yet; the operation starts when it does.
            if inspect.isgeneratorfunction(code):
                return _named(_generator(start, wrapped(*args, **kwargs)), wrapped)
            if inspect.isasyncgenfunction(code):
                return _named(_async_generator(start, wrapped(*args, **kwargs)), wrapped)
            if inspect.iscoroutinefunction(code):
                coroutine = wrapped(*args, **kwargs)
                call = _await(start, wrapped, args, kwargs, coroutine, kind=kind)
                return _named(call, wrapped)
            return _call(start, kind, wrapped, args, kwargs)

        super().__init__(function, run)

    def __reduce_ex__(self, protocol: Any) -> str:
        # Pickle by qualified name, as functions are.
        return self.__wrapped__.__qualname__

    # A function is its own copy.
    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self


def _call_method(function: Any) -> Any:
    """Return the method of an object that can be called; `None` for a function."""
    is_function = inspect.isroutine(function) or isinstance(function, partial)
    return None if is_function else function.__call__


def _named(lazy: Any, function: Callable[..., Any]) -> Any:
    """Set the name of the function, for warnings and for lists of running tasks."""
    lazy.__name__ = getattr(function, "__name__", lazy.__name__)
    lazy.__qualname__ = getattr(function, "__qualname__", lazy.__qualname__)
    return lazy


def _call(
    start: Callable[[], OperationSpan],
    kind: OperationKind,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    with OperationScope(start) as span:
        _record_arguments(kind, span, function, args, kwargs)
        result = function(*args, **kwargs)
        _record_result(kind, span, result)
    return result


async def _await(
    start: Callable[[], OperationSpan],
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    coroutine: Coroutine[Any, Any, Any],
    *,
    kind: OperationKind,
) -> Any:
    with OperationScope(start) as span:
        _record_arguments(kind, span, function, args, kwargs)
        result = await coroutine
        _record_result(kind, span, result)
    return result


class _GeneratorScope:
    """The `with` block of a generator's operation. A generator that is closed early is abandoned."""

    def __init__(self, start: Callable[[], OperationSpan]) -> None:
        # A finalizer must not start a thread.
        finalizer.start()
        self._operation = start()
        open_streams.add(self._operation)

    def __enter__(self) -> Context:
        return self._operation.context

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        open_streams.remove(self._operation)
        if isinstance(error, GeneratorExit):
            self._operation.abandon()
        else:
            self._operation.finish(error)


def _generator(
    start: Callable[[], OperationSpan], generator: Generator[Any, Any, Any]
) -> Generator[Any, Any, Any]:
    step: Callable[[Any], Any] = generator.send
    value: Any = None
    with _GeneratorScope(start) as context:
        while True:
            # Attach only while the generator runs: between items, the caller's context applies.
            token = context_api.attach(context)
            try:
                item = step(value)
            except StopIteration as stop:
                return stop.value
            finally:
                detach_context(token)
            try:
                value = yield item
                step = generator.send
            except BaseException as error:
                step, value = generator.throw, error


async def _async_generator(
    start: Callable[[], OperationSpan], generator: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    step: Callable[[Any], Any] = generator.asend
    value: Any = None
    with _GeneratorScope(start) as context:
        while True:
            token = context_api.attach(context)
            try:
                item = await step(value)
            except StopAsyncIteration:
                return
            finally:
                detach_context(token)
            try:
                value = yield item
                step = generator.asend
            except BaseException as error:
                step, value = generator.athrow, error


def _record_arguments(
    kind: OperationKind,
    span: Span,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Record the arguments of a tool on its span, by parameter name."""
    max_chars = content_max_chars() if kind is TOOL else None
    if max_chars is None or not span.is_recording():
        return
    try:
        try:
            given = inspect.signature(function).bind(*args, **kwargs).arguments
        except (TypeError, ValueError):  # a builtin without a signature, or invalid arguments
            given = {"args": list(args), **kwargs}
        span.set_attribute(names.GEN_AI_TOOL_CALL_ARGUMENTS, _json(given, max_chars))
    except Exception as error:
        internal_errors.log_once("recording the arguments of a tool", error)


def _record_result(kind: OperationKind, span: Span, result: Any) -> None:
    """Record the result of a tool on its span."""
    max_chars = content_max_chars() if kind is TOOL else None
    if max_chars is None or not span.is_recording():
        return
    try:
        span.set_attribute(names.GEN_AI_TOOL_CALL_RESULT, _json(result, max_chars))
    except Exception as error:
        internal_errors.log_once("recording the result of a tool", error)


def _json(value: Any, max_chars: int) -> str:
    (part,) = limit_parts([{"value": plain_json(value)}], max_chars)
    return compact_json(part["value"])
