"""Whose conversation it is, and silence: what holds for everything below a block."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from opentelemetry import baggage as baggage_api
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from llamatelemetry.otel.session import session_attributes, with_session
from llamatelemetry.pipeline._scopes import Scope

if TYPE_CHECKING:
    from opentelemetry.context import Context


def session(session_id: str, user_id: str | None = None, *, baggage: bool = False) -> Scope[None]:
    """Give a block, for ``with`` or ``async with``, that is part of a conversation.

    Every span that starts in it says so, in ``gen_ai.conversation.id`` and ``user.id``; one that
    names a conversation of its own keeps that.

    Args:
        session_id: identifies the conversation.
        user_id: identifies the user.
        baggage: whether both also go out with requests, as W3C baggage, to whatever services the
            application calls. Others may read them there.

    Raises:
        ValueError: there is no session id.
    """
    if not session_id:
        raise ValueError("session() needs the id of a conversation, such as session('thread-42')")

    def enter() -> tuple[Context, None]:
        context = with_session(session_id, user_id)
        if baggage:
            for name, value in session_attributes(context).items():
                context = baggage_api.set_baggage(name, value, context)
        return context, None

    return Scope(enter)


def suppress() -> Scope[None]:
    """Give a block, for ``with`` or ``async with``, below which nothing is recorded.

    No call, phase, metric or span of ours or of any OpenTelemetry instrumentation; a span that
    somebody starts all the same has a parent that is not sampled, and goes with it.
    """

    def enter() -> tuple[Context, None]:
        with suppress_instrumentation():
            context = context_api.get_current()
        return trace.set_span_in_context(NonRecordingSpan(_unsampled()), context), None

    return Scope(enter)


def _unsampled() -> SpanContext:
    around = trace.get_current_span().get_span_context()
    return SpanContext(
        trace_id=around.trace_id if around.is_valid else secrets.randbits(128) | 1,
        span_id=around.span_id if around.is_valid else secrets.randbits(64) | 1,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.DEFAULT),
        trace_state=around.trace_state,
    )
