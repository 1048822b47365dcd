"""`invocation()`: flush at the end of each invocation of a function."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Self, TypeVar, overload

from llamatelemetry.genai import internal_errors
from llamatelemetry.lifecycle import flush

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
_logger = logging.getLogger("llamatelemetry.lifecycle")


@overload
def invocation(function: FunctionT, /) -> FunctionT: ...
@overload
def invocation(*, timeout_s: float = 5.0) -> Invocation: ...
def invocation(function: Any = None, /, *, timeout_s: float = 5.0) -> Any:
    """Flush when a block or function ends, for runtimes that freeze the process afterwards.

    Serverless platforms may freeze the process as soon as a handler returns, so that no thread
    exports its telemetry. Use it as a decorator, with or without arguments, or in a `with` or
    `async with` statement:

    | Decorated | Flushes |
    |---|---|
    | Function | When it returns or raises |
    | Coroutine function | When it returns or raises, without blocking the event loop |
    | Generator, asynchronous generator | When it is exhausted or raises, not when it is closed |

    A failed flush is logged. It does not change the result or the exception of the block.

    Args:
        function: Function to decorate; `None` with arguments or for a block.
        timeout_s: Time limit of the flush in seconds.

    Raises:
        TypeError: The decorated object is not a function.

    Examples:
        >>> from llamatelemetry import invocation
        >>> @invocation(timeout_s=2)
        ... def handler(event, context):
        ...     return {"statusCode": 200}
        >>> handler({}, None)
        {'statusCode': 200}
        >>> with invocation():
        ...     pass
    """
    block = Invocation(timeout_s)
    return block if function is None else block(function)


class Invocation:
    """The decorator, and the context manager, that `invocation()` returns."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._has_warned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await asyncio.to_thread(self._flush)
        except RuntimeError:
            # Not an event loop of asyncio, or it does not accept work any more.
            self._flush()

    def __call__(self, function: FunctionT) -> FunctionT:
        """Decorate a function."""
        wrapper: Any
        if inspect.iscoroutinefunction(function):
            wrapper = self._coroutine_function(function)
        elif inspect.isasyncgenfunction(function):
            wrapper = self._async_generator_function(function)
        elif inspect.isgeneratorfunction(function):
            wrapper = self._generator_function(function)
        elif callable(function) and not inspect.isclass(function):
            wrapper = self._function(function)
        else:
            raise TypeError(
                f"llamatelemetry.invocation decorates functions and methods, got {function!r}. "
                "Place it below @classmethod or @staticmethod"
            )
        functools.update_wrapper(wrapper, function)
        return wrapper

    def _function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            is_coroutine = False
            try:
                result: Any = function(*args, **kwargs)
                is_coroutine = asyncio.iscoroutine(result)
            finally:
                if not is_coroutine:
                    self._flush()
            return self._await(result) if is_coroutine else result

        return call

    async def _await(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        async with self:
            return await coroutine

    def _coroutine_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            async with self:
                return await function(*args, **kwargs)

        return call

    def _generator_function(
        self, function: Callable[..., Generator[Any, Any, Any]]
    ) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            try:
                result = yield from function(*args, **kwargs)
            except GeneratorExit:
                # Perhaps closed by the garbage collector, where nothing may wait for a lock.
                raise
            except BaseException:
                self._flush()
                raise
            self._flush()
            return result

        return call

    def _async_generator_function(
        self, function: Callable[..., AsyncGenerator[Any, Any]]
    ) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            generator = function(*args, **kwargs)
            step: Callable[[Any], Any] = generator.asend
            value: Any = None
            while True:
                try:
                    item = await step(value)
                except StopAsyncIteration:
                    break
                except GeneratorExit:
                    raise
                except BaseException:
                    await self.__aexit__()
                    raise
                try:
                    value = yield item
                    step = generator.asend
                except BaseException as error:
                    step, value = generator.athrow, error
            await self.__aexit__()

        return call

    def _flush(self) -> None:
        try:
            flushed = flush(self._timeout_s)
        except Exception as error:
            internal_errors.log_once("flushing after an invocation", error)
            return
        if not flushed:
            level = logging.DEBUG if self._has_warned else logging.WARNING
            text = "Not all telemetry of this invocation was exported within %g s"
            _logger.log(level, text, self._timeout_s)
        self._has_warned = not flushed
