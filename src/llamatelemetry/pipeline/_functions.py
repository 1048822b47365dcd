"""Functions of all four kinds, run as pieces of work: plain, asynchronous, and generators of both.

What is decorated stays what it was to whoever looks: signature, coroutine or generator function,
method, picklable by its name.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from wrapt import FunctionWrapper

from llamatelemetry.genai.streams.abandoned_calls import finalizer
from llamatelemetry.pipeline._content import record_arguments, record_result
from llamatelemetry.pipeline._kinds import TOOL
from llamatelemetry.pipeline._scopes import detach
from llamatelemetry.pipeline._work import Work

if TYPE_CHECKING:
    from llamatelemetry.pipeline._kinds import Kind


class TracedFunction(FunctionWrapper[Any, Any]):
    """A function, each call of which is a piece of work.

    Args:
        function: a function, coroutine function, generator function of either kind, or method.
        kind: of the work.
        start: starts the work.
    """

    def __init__(self, function: Callable[..., Any], kind: Kind, start: Callable[[], Work]) -> None:
        def run(
            wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            # What is lazy is made at once, so that wrong arguments fail where they are given;
            # nothing of it runs yet, and the work starts when it does.
            if inspect.isgeneratorfunction(wrapped):
                return _named(_generator(start, wrapped(*args, **kwargs)), wrapped)
            if inspect.isasyncgenfunction(wrapped):
                return _named(_async_generator(start, wrapped(*args, **kwargs)), wrapped)
            call = _Call(start, wrapped, args, kwargs, content=kind is TOOL)
            if inspect.iscoroutinefunction(wrapped):
                return _named(call.run_coroutine(wrapped(*args, **kwargs)), wrapped)
            return call.run()

        super().__init__(function, run)

    def __reduce_ex__(self, protocol: Any) -> str:
        # As functions are: by where they are found.
        return self.__wrapped__.__qualname__


def _named(lazy: Any, function: Callable[..., Any]) -> Any:
    """Give it the name of the function, for warnings and for who looks at running tasks."""
    lazy.__name__ = getattr(function, "__name__", lazy.__name__)
    lazy.__qualname__ = getattr(function, "__qualname__", lazy.__qualname__)
    return lazy


class _Call:
    """One call of a plain or a coroutine function."""

    __slots__ = ("_args", "_content", "_function", "_kwargs", "_start")

    def __init__(
        self,
        start: Callable[[], Work],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        content: bool,
    ) -> None:
        self._start = start
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._content = content

    def run(self) -> Any:
        work = self._open()
        token = context_api.attach(work.context)
        try:
            result = self._function(*self._args, **self._kwargs)
        except BaseException as error:
            work.finish(error)
            raise
        finally:
            detach(token)
        self._close(work, result)
        return result

    async def run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        work = self._open()
        token = context_api.attach(work.context)
        try:
            result = await coroutine
        except BaseException as error:
            work.finish(error)
            raise
        finally:
            detach(token)
        self._close(work, result)
        return result

    def _open(self) -> Work:
        work = self._start()
        if self._content:
            record_arguments(work.span, self._function, self._args, self._kwargs)
        return work

    def _close(self, work: Work, result: Any) -> None:
        if self._content:
            record_result(work.span, result)
        work.finish()


def _generator(
    start: Callable[[], Work], generator: Generator[Any, Any, Any]
) -> Generator[Any, Any, Any]:
    finalizer.start()  # a finaliser must not have to
    work = start()
    step: Callable[[Any], Any] = generator.send
    value: Any = None
    try:
        while True:
            # Between two items whoever iterates has a context of its own.
            token = context_api.attach(work.context)
            try:
                item = step(value)
            finally:
                detach(token)
            try:
                value = yield item
                step = generator.send
            except BaseException as error:
                step, value = generator.throw, error
    except StopIteration as stop:
        work.finish()
        return stop.value
    except GeneratorExit:
        work.abandon()
        raise
    except BaseException as error:
        work.finish(error)
        raise


async def _async_generator(
    start: Callable[[], Work], generator: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    finalizer.start()  # a finaliser must not have to
    work = start()
    step: Callable[[Any], Any] = generator.asend
    value: Any = None
    try:
        while True:
            token = context_api.attach(work.context)
            try:
                item = await step(value)
            finally:
                detach(token)
            try:
                value = yield item
                step = generator.asend
            except BaseException as error:
                step, value = generator.athrow, error
    except StopAsyncIteration:
        work.finish()
    except GeneratorExit:
        work.abandon()
        raise
    except BaseException as error:
        work.finish(error)
        raise
