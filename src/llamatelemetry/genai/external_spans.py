"""Detection of spans that another instrumentation has opened for the same request.

OpenTelemetry's own instrumentations (util-genai), OpenLLMetry, OpenInference and frameworks
with built-in instrumentation open a span around the client's call, so it is the current one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from llamatelemetry.genai.json_access import model_name
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import CHAT, EMBEDDINGS, INFERENCE_OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamatelemetry.genai.model import Request

# util-genai sets one of these keys in the context of each of its calls.
_UTIL_GENAI_INFERENCE: Final = "opentelemetry.genai.client.inference.context"
_UTIL_GENAI_EMBEDDING: Final = "opentelemetry.genai.client.embedding.context"

_OPENINFERENCE_KIND: Final = "openinference.span.kind"
_OPENINFERENCE_OPERATIONS: Final = {"LLM": CHAT, "EMBEDDING": EMBEDDINGS}

_INFERENCE: Final = INFERENCE_OPERATIONS - {EMBEDDINGS}


class ExternalSpan(NamedTuple):
    """The span of another instrumentation that a request is recorded on.

    Attributes:
        span: The span.
        has_metrics: Whether the other instrumentation records tokens and duration of the call.
    """

    span: Span
    has_metrics: bool


def find_external_span(request: Request) -> ExternalSpan | None:
    """Return the open span that another instrumentation has opened for this request, if any."""
    span = trace.get_current_span()
    if span.is_recording():
        attributes = cast("Mapping[str, Any] | None", getattr(span, "attributes", None))
        if attributes and _is_recorded_on(span, attributes, request):
            # All other instrumentations than OpenInference have metrics.
            return ExternalSpan(span, has_metrics=_OPENINFERENCE_KIND not in attributes)
        return None
    # The span of a call that is not sampled has no attributes, but its metrics are recorded.
    if isinstance(span, trace.NonRecordingSpan) and _is_below_util_genai(span, request):
        return ExternalSpan(span, has_metrics=True)
    return None


def _is_below_util_genai(span: Span, request: Request) -> bool:
    key = _UTIL_GENAI_EMBEDDING if request.operation == EMBEDDINGS else _UTIL_GENAI_INFERENCE
    return (
        request.operation in INFERENCE_OPERATIONS
        and context_api.get_value(key) is not None
        and span.get_span_context().is_valid
    )


def _is_recorded_on(span: Span, attributes: Mapping[str, Any], request: Request) -> bool:
    """Return whether a span is that of the request itself.

    A span stays current in tasks that its owner has started. Operation, model and server must
    therefore agree, as far as both sides know them.
    """
    return (
        _agree_on_operation(_operation_on(span, attributes, request), request.operation)
        and _agree(_last_part(_model_on(attributes)), _last_part(request.model))
        and _agree_on_server(attributes, request)
    )


def _operation_on(span: Span, attributes: Mapping[str, Any], request: Request) -> Any:
    kind = getattr(span, "kind", None)
    if _OPENINFERENCE_KIND in attributes:
        return _OPENINFERENCE_OPERATIONS.get(attributes[_OPENINFERENCE_KIND])
    # Inference spans of some frameworks and of in-process engines have the default kind. There
    # may be no request inside them, so both sides must know the model.
    if kind is SpanKind.CLIENT or (
        kind is SpanKind.INTERNAL
        and _model_on(attributes) is not None
        and request.model is not None
    ):
        return attributes.get(names.GEN_AI_OPERATION_NAME)
    return None


def _agree_on_operation(external: Any, requested: str | None) -> bool:
    if requested is None:
        return False
    return external == requested or (external in _INFERENCE and requested in _INFERENCE)


def _agree_on_server(attributes: Mapping[str, Any], request: Request) -> bool:
    server = request.server
    return server is None or (
        _agree(attributes.get(names.SERVER_ADDRESS), server.address)
        and _agree(attributes.get(names.SERVER_PORT), server.port)
    )


def _agree(external: Any, requested: Any) -> bool:
    return external is None or requested is None or external == requested


def _model_on(attributes: Mapping[str, Any]) -> str | None:
    return model_name(attributes.get(names.GEN_AI_REQUEST_MODEL, attributes.get("llm.model_name")))


def _last_part(model: str | None) -> str | None:
    """Return the model without the provider that routers add: `gpt-4o` for `openai/gpt-4o`."""
    return None if model is None else model.rpartition("/")[2]
