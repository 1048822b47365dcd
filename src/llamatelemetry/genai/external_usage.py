"""Token counts in the conventions of the span of another instrumentation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.model import Usage

_LANGFUSE_TYPE: Final = "langfuse.observation.type"
_LANGFUSE_USAGE: Final = "langfuse.observation.usage_details"
_OPENINFERENCE_SCOPE: Final = "openinference."
_GEN_AI: Final = (names.GEN_AI_USAGE_INPUT_TOKENS, names.GEN_AI_USAGE_OUTPUT_TOKENS)
_OPENINFERENCE: Final = ("llm.token_count.prompt", "llm.token_count.completion")


def missing_usage(
    span: Span, present: Mapping[str, Any], usage: Usage
) -> dict[str, AttributeValue]:
    """Return attributes with the token counts, under the names that the span's owner uses.

    Args:
        span: The span of the other instrumentation.
        present: The attributes that the span has. Counts among them are not returned.
        usage: The token counts of the response.
    """
    counts = (usage.input_tokens, usage.output_tokens)
    if _LANGFUSE_TYPE in present:
        details = {
            name: count
            for name, count in zip(("input", "output"), counts, strict=True)
            if count is not None
        }
        if not details or _LANGFUSE_USAGE in present:
            return {}
        return {_LANGFUSE_USAGE: json.dumps(details)}
    scope = getattr(getattr(span, "instrumentation_scope", None), "name", "")
    is_openinference = scope.startswith(_OPENINFERENCE_SCOPE)
    return {
        name: count
        for name, count in zip(_OPENINFERENCE if is_openinference else _GEN_AI, counts, strict=True)
        if count is not None and name not in present
    }
