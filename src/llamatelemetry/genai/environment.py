"""What OpenTelemetry's own GenAI variables say that is no option of ours."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_logger = logging.getLogger("llamatelemetry")

_EMIT_EVENT: Final = "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT"
COMPLETION_HOOK: Final = "OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK"
_BOOLEANS: Final = {"true": True, "false": False}


class GenAIVariables(NamedTuple):
    """``None`` is not given. ``completion_hook`` is the name of an entry point."""

    emit_event: bool | None
    completion_hook: str | None


def read_genai_variables(environ: Mapping[str, str] | None = None) -> GenAIVariables:
    """Read the variables that official instrumentations read too. A bad value counts as not given."""
    variables = os.environ if environ is None else environ
    emit_event = variables.get(_EMIT_EVENT, "").strip()
    if emit_event and emit_event.lower() not in _BOOLEANS:
        _logger.warning(
            "%s=%r is not accepted; expected true or false. Whether events are recorded follows "
            "from what content is captured.",
            _EMIT_EVENT,
            emit_event,
        )
    return GenAIVariables(
        emit_event=_BOOLEANS.get(emit_event.lower()),
        completion_hook=variables.get(COMPLETION_HOOK, "").strip() or None,
    )
