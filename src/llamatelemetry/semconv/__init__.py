"""GenAI semantic conventions: attribute names, metric specifications and operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamatelemetry.semconv import attributes as _names
from llamatelemetry.semconv.attributes import attribute_name
from llamatelemetry.semconv.operations import (
    INFERENCE_OPERATIONS,
    WELL_KNOWN_OPERATIONS,
    normalize_operation,
    normalize_provider,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

__all__ = [
    "INFERENCE_OPERATIONS",
    "WELL_KNOWN_OPERATIONS",
    "attribute_name",
    "normalize_operation",
    "normalize_provider",
    "set_gen_ai_attrs",
]


def set_gen_ai_attrs(
    span: Span | None = None,
    /,
    *,
    system: str | None = None,
    operation: str | None = None,
    model: str | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    server_address: str | None = None,
    server_port: int | None = None,
    **more: AttributeValue | None,
) -> dict[str, AttributeValue]:
    """Return the attributes of a GenAI span under the names of the conventions.

    Arguments that are `None` are left out, because an unknown number is not 0.

    Args:
        span: Span on which to set the attributes, if given.
        system: Provider; recorded as `gen_ai.provider.name` (`gen_ai.system` is obsolete).
        operation: Operation name, recorded as given; see `normalize_operation`.
        model: Requested model.
        input_tokens: Number of prompt tokens, cached tokens included.
        output_tokens: Number of generated tokens, reasoning tokens included.
        server_address: Host name or IP address of the server.
        server_port: Port of the server; recorded only with an address.
        **more: Further attributes, by a short name of `attribute_name` (`response_id="..."`,
            `error_type="timeout"`) or by full name (`**{"gen_ai.response.id": "..."}`).

    Returns:
        A dictionary for `span.set_attributes`.

    Examples:
        >>> from llamatelemetry.semconv import set_gen_ai_attrs
        >>> set_gen_ai_attrs(system="llama.cpp", operation="chat", input_tokens=12)
        {'gen_ai.provider.name': 'llama_cpp', 'gen_ai.operation.name': 'chat',
        'gen_ai.usage.input_tokens': 12}
        >>> set_gen_ai_attrs(error_type="timeout", **{"app.tier": "gold"})
        {'error.type': 'timeout', 'app.tier': 'gold'}
    """
    values: dict[str, AttributeValue | None] = {
        _names.GEN_AI_PROVIDER_NAME: None if system is None else normalize_provider(system),
        _names.GEN_AI_OPERATION_NAME: operation,
        _names.GEN_AI_REQUEST_MODEL: model,
        _names.GEN_AI_USAGE_INPUT_TOKENS: input_tokens,
        _names.GEN_AI_USAGE_OUTPUT_TOKENS: output_tokens,
        _names.SERVER_ADDRESS: server_address,
        _names.SERVER_PORT: server_port if server_address is not None else None,
    }
    for name, value in more.items():
        values[attribute_name(name)] = value
    known: dict[str, AttributeValue] = {
        name: value for name, value in values.items() if value is not None
    }
    if span is not None:
        span.set_attributes(known)
    return known
