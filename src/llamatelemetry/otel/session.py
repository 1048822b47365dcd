"""Whose conversation and which user a span belongs to, kept in the context. Needs no SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from opentelemetry import context as context_api

from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context

_SESSION_KEY: Final = context_api.create_key("llamatelemetry-session")
_NOTHING: Final[Mapping[str, str]] = {}


def with_session(session_id: str, user_id: str | None, context: Context | None = None) -> Context:
    """Give a context in which `session_attributes` finds these two."""
    attributes = {names.GEN_AI_CONVERSATION_ID: str(session_id)}
    if user_id is not None:
        attributes[names.USER_ID] = str(user_id)
    return context_api.set_value(_SESSION_KEY, attributes, context)


def session_attributes(context: Context | None = None) -> Mapping[str, str]:
    """Give the attributes of the session that a context, or the current one, is in."""
    return cast("Mapping[str, str]", context_api.get_value(_SESSION_KEY, context) or _NOTHING)
