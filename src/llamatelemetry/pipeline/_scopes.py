"""Context managers that set the context of a block: `session()`, `suppress()`, operations."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Generic, TypeVar

from opentelemetry import baggage as baggage_api
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from llamatelemetry.otel._sdk_private import detach_context
from llamatelemetry.otel.session import session_attributes, with_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from llamatelemetry.pipeline._operation_span import OperationSpan

T_co = TypeVar("T_co", covariant=True)


class Scope(Generic[T_co]):
    """A context manager for one `with` or `async with` block. It cannot be used twice.

    `enter` returns the context of the block and the value for `as`. `leave` is called with the
    exception that ended the block.
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
            raise RuntimeError("Scope was already entered. Create a new one for each `with` block")
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
            detach_context(self._token)
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


class OperationScope(Scope["Span"]):
    """The block of one operation: `start` starts its span, which ends with the block."""

    def __init__(self, start: Callable[[], OperationSpan]) -> None:
        self._start = start
        self._operation: OperationSpan | None = None
        super().__init__(self._open, self._close)

    def _open(self) -> tuple[Context, Span]:
        self._operation = operation = self._start()
        return operation.context, operation.span

    def _close(self, error: BaseException | None) -> None:
        if self._operation is not None:
            self._operation.finish(error)


def session(session_id: str, user_id: str | None = None, *, baggage: bool = False) -> Scope[None]:
    """Return a context manager that assigns all spans of its block to a conversation.

    Every span that starts in the `with` or `async with` block gets `gen_ai.conversation.id` and
    `user.id`, unless it sets its own.

    Args:
        session_id: Identifier of the conversation.
        user_id: Identifier of the user.
        baggage: Whether to also send both as W3C baggage with outgoing requests, where every
            called service can read them.

    Raises:
        ValueError: `session_id` is empty.

    Examples:
        >>> import llamatelemetry
        >>> with llamatelemetry.session("thread-42", user_id="ada"):
        ...     pass  # Spans that start here have gen_ai.conversation.id and user.id.
    """
    if not session_id:
        raise ValueError(f"session_id must be text such as 'thread-42', got {session_id!r}")

    def enter() -> tuple[Context, None]:
        context = with_session(session_id, user_id)
        if baggage:
            for name, value in session_attributes(context).items():
                context = baggage_api.set_baggage(name, value, context)
        return context, None

    return Scope(enter)


def suppress() -> Scope[None]:
    """Return a context manager that suppresses telemetry in its block.

    In the `with` or `async with` block, neither llamatelemetry nor any OpenTelemetry
    instrumentation records calls, metrics or spans. A span that the application starts gets an
    unsampled parent, so a parent-based sampler drops it.

    Examples:
        >>> import llamatelemetry
        >>> config = llamatelemetry.init("shop", exporter="none", enable_trace_graphs=True)
        >>> @llamatelemetry.task
        ... def check_health():
        ...     return "ok"
        >>> with llamatelemetry.suppress():
        ...     check_health()
        'ok'
        >>> llamatelemetry.trace_graph().nodes
        []
    """

    def enter() -> tuple[Context, None]:
        with suppress_instrumentation():
            context = context_api.get_current()
        return trace.set_span_in_context(NonRecordingSpan(_unsampled()), context), None

    return Scope(enter)


def _unsampled() -> SpanContext:
    parent = trace.get_current_span().get_span_context()
    return SpanContext(
        trace_id=parent.trace_id if parent.is_valid else secrets.randbits(128) | 1,
        span_id=parent.span_id if parent.is_valid else secrets.randbits(64) | 1,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.DEFAULT),
        trace_state=parent.trace_state,
    )
