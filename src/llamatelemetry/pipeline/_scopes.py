"""Context managers for ``with`` and ``async with`` that put something into the context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from opentelemetry import context as context_api

from llamatelemetry.otel._sdk_private import detach_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from llamatelemetry.pipeline._work import Work

T_co = TypeVar("T_co", covariant=True)


def detach(token: Token[Context]) -> None:
    """Take out of the context what was put in, wherever that was.

    An asynchronous generator that is closed late is closed by another task, whose context never
    had it: then there is nothing to take out.
    """
    detach_context(token)


class Scope(Generic[T_co]):
    """Something that holds for the block of one ``with`` or ``async with``. It cannot be used twice.

    Args:
        enter: is called at the start of the block; gives the context, and what ``as`` binds.
        leave: is called at its end, with the exception that ended it.
    """

    def __init__(
        self,
        enter: Callable[[], tuple[Context, T_co]],
        leave: Callable[[BaseException | None], None] = lambda _: None,
    ) -> None:
        self._enter = enter
        self._leave = leave
        self._token: Token[Context] | None = None

    def __enter__(self) -> T_co:
        if self._token is not None:
            raise RuntimeError("this block was entered before: make a new one for each `with`")
        context, value = self._enter()
        self._token = context_api.attach(context)
        return value

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._token is not None:
            detach(self._token)
        self._leave(error)

    async def __aenter__(self) -> T_co:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)


class WorkScope(Scope["Span"]):
    """The block of one piece of work, which starts with the block and ends with it."""

    def __init__(self, start: Callable[[], Work]) -> None:
        self._start = start
        self._work: Work | None = None
        super().__init__(self._open, self._close)

    def _open(self) -> tuple[Context, Span]:
        self._work = work = self._start()
        return work.context, work.span

    def _close(self, error: BaseException | None) -> None:
        if self._work is not None:
            self._work.finish(error)
