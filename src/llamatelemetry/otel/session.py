"""Session and user of the spans in a context. Works without the SDK."""

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
    """Return a context in which `session_attributes` finds this session and user."""
    attributes = {names.GEN_AI_CONVERSATION_ID: str(session_id)}
    if user_id is not None:
        attributes[names.USER_ID] = str(user_id)
    return context_api.set_value(_SESSION_KEY, attributes, context)


def session_attributes(context: Context | None = None) -> Mapping[str, str]:
    """Return the attributes of the session of a context, by default of the current one."""
    return cast("Mapping[str, str]", context_api.get_value(_SESSION_KEY, context) or _NOTHING)
