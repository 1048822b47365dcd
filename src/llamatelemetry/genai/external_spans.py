"""Detection of spans that another instrumentation has opened for the same request.

OpenTelemetry's own instrumentations (util-genai), OpenLLMetry, OpenInference, Langfuse, Logfire and
frameworks with built-in instrumentation open a span around the client's call. Most make it the
current one. `framework_spans` finds the spans of those that do not.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.framework_spans import ExternalSpan, are_loaded, find_framework_span
from llamatelemetry.genai.json_access import model_name
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import CHAT, EMBEDDINGS, INFERENCE_OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamatelemetry.genai.model import Request

# util-genai sets one of these keys in the context of each of its calls.
_UTIL_GENAI_INFERENCE: Final = "opentelemetry.genai.client.inference.context"
_UTIL_GENAI_EMBEDDING: Final = "opentelemetry.genai.client.embedding.context"

# OpenLLMetry sets this key in the context of calls that it records at a higher level.
_OPENLLMETRY_SUPPRESSION: Final = "suppress_language_model_instrumentation"
# These leave the key in the context after an asynchronous call (LangChain), or set it for steps
# that do not call a model (LlamaIndex). Their spans are found without the key.
_INEXACT_SUPPRESSION: Final = frozenset(
    {"opentelemetry.instrumentation.langchain", "opentelemetry.instrumentation.llamaindex"}
)

_OPENINFERENCE_KIND: Final = "openinference.span.kind"
_OPENINFERENCE_OPERATIONS: Final = {"LLM": CHAT, "EMBEDDING": EMBEDDINGS}
_LANGFUSE_TYPE: Final = "langfuse.observation.type"
_LANGFUSE_OPERATIONS: Final = {"generation": CHAT, "embedding": EMBEDDINGS}
# In order of preference.
_MODEL_NAMES: Final = (
    names.GEN_AI_REQUEST_MODEL,
    "llm.model_name",
    "embedding.model_name",
    "langfuse.observation.model.name",
)

_INFERENCE: Final = INFERENCE_OPERATIONS - {EMBEDDINGS}

# Instrumentation scopes that record spans only.
_SCOPES_WITHOUT_METRICS: Final = (
    "openinference.",
    "langfuse",
    "logfire",
    "opentelemetry.instrumentation.llamaindex",
    "opentelemetry.instrumentation.openai_agents",
)


def find_external_span(request: Request) -> ExternalSpan | None:
    """Return the open span that another instrumentation has opened for this request, if any."""
    span = trace.get_current_span()
    if span.is_recording():
        attributes = _attributes_of(span)
        if attributes and _is_recorded_on(span, attributes, request):
            return ExternalSpan(span, _has_metrics(span, attributes))
    # The span of a call that is not sampled has no attributes, but its metrics are recorded.
    elif isinstance(span, trace.NonRecordingSpan) and _is_below_util_genai(span, request):
        return ExternalSpan(span, has_metrics=True)
    return _find_in_frameworks(request) if are_loaded() else None


def is_suppressed() -> bool:
    """Return whether OpenLLMetry records this call at a higher level, on a span unknown here."""
    return bool(context_api.get_value(_OPENLLMETRY_SUPPRESSION)) and sys.modules.keys().isdisjoint(
        _INEXACT_SUPPRESSION
    )


def _find_in_frameworks(request: Request) -> ExternalSpan | None:
    try:
        found = find_framework_span()
    except Exception as error:
        internal_errors.log_once("finding the span of a framework", error)
        return None
    if found is None:
        return None
    # The framework calls the client for this span, so nothing but the operation need agree.
    external = _attributes_of(found.span).get(names.GEN_AI_OPERATION_NAME, CHAT)
    return found if _agree_on_operation(external, request.operation) else None


def _attributes_of(span: Span) -> Mapping[str, Any]:
    return cast("Mapping[str, Any] | None", getattr(span, "attributes", None)) or {}


def _has_metrics(span: Span, attributes: Mapping[str, Any]) -> bool:
    # Instrumentations of other scopes than these follow the conventions, which ask for metrics.
    scope = getattr(getattr(span, "instrumentation_scope", None), "name", "")
    return _OPENINFERENCE_KIND not in attributes and not scope.startswith(_SCOPES_WITHOUT_METRICS)


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


def _operation_on(span: Span, attributes: Mapping[str, Any], request: Request) -> str | None:
    if _OPENINFERENCE_KIND in attributes:
        return _OPENINFERENCE_OPERATIONS.get(attributes[_OPENINFERENCE_KIND])
    if _LANGFUSE_TYPE in attributes:
        return _LANGFUSE_OPERATIONS.get(attributes[_LANGFUSE_TYPE])
    kind = getattr(span, "kind", None)
    if kind is SpanKind.CLIENT:
        return attributes.get(names.GEN_AI_OPERATION_NAME)
    # Inference spans of some frameworks and of in-process engines have the default kind. There
    # may be no request inside them, so both sides must know the model.
    if (
        kind is SpanKind.INTERNAL
        and _model_on(attributes) is not None
        and request.model is not None
    ):
        return attributes.get(names.GEN_AI_OPERATION_NAME) or _operation_without_name(attributes)
    return None


def _operation_without_name(attributes: Mapping[str, Any]) -> str | None:
    """Return the operation of a span that gets the name of its operation with the response."""
    if "embedding.model_name" in attributes:  # LiteLLM by OpenInference.
        return EMBEDDINGS
    # LiteLLM by OpenInference, OpenAI Agents by Logfire.
    is_chat = "llm.model_name" in attributes or "logfire.msg_template" in attributes
    return CHAT if is_chat else None


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
    return next((model_name(attributes[name]) for name in _MODEL_NAMES if name in attributes), None)


def _last_part(model: str | None) -> str | None:
    """Return the model without the provider that routers add: `gpt-4o` for `openai/gpt-4o`."""
    return None if model is None else model.rpartition("/")[2]
