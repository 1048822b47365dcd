"""Reading whether somebody else's instrumentation has recorded a request already, and on which span.

OpenTelemetry's own instrumentations (util-genai), OpenLLMetry, OpenInference and the frameworks
that bring their own open a span around the client's call: it is the current one then.
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

# util-genai puts one of these into the context below each of its calls.
_UTIL_GENAI_INFERENCE: Final = "opentelemetry.genai.client.inference.context"
_UTIL_GENAI_EMBEDDING: Final = "opentelemetry.genai.client.embedding.context"

_OPENINFERENCE_KIND: Final = "openinference.span.kind"
_OPENINFERENCE_OPERATIONS: Final = {"LLM": CHAT, "EMBEDDING": EMBEDDINGS}

_INFERENCE: Final = INFERENCE_OPERATIONS - {EMBEDDINGS}


class ExternalSpan(NamedTuple):
    """The span of another instrumentation that a request is recorded on.

    ``has_metrics`` says whether the other records the tokens and the duration of the call.
    """

    span: Span
    has_metrics: bool


def find_external_span(request: Request) -> ExternalSpan | None:
    """Give the open span of another instrumentation that is this request's, if there is one."""
    span = trace.get_current_span()
    if span.is_recording():
        attributes = cast("Mapping[str, Any] | None", getattr(span, "attributes", None))
        if attributes and _is_recorded_on(span, attributes, request):
            # OpenInference has no metrics; all others do.
            return ExternalSpan(span, has_metrics=_OPENINFERENCE_KIND not in attributes)
        return None
    # A call that is not sampled says nothing of itself, and its metrics are recorded all the same.
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
    """Say whether a span is that of the request itself.

    It stays current in tasks that its owner has started, so that it takes more than being
    current: what both know of operation, model and server has to agree.
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
    # Some frameworks leave their inference spans at the default kind. So do engines in this
    # process, inside which there is no request: there the model has to be the same, and known.
    if kind is SpanKind.CLIENT or (
        kind is SpanKind.INTERNAL
        and _model_on(attributes) is not None
        and request.model is not None
    ):
        return attributes.get(names.GEN_AI_OPERATION_NAME)
    return None


def _agree_on_operation(theirs: Any, ours: str | None) -> bool:
    if ours is None:
        return False
    return theirs == ours or (theirs in _INFERENCE and ours in _INFERENCE)


def _agree_on_server(attributes: Mapping[str, Any], request: Request) -> bool:
    server = request.server
    return server is None or (
        _agree(attributes.get(names.SERVER_ADDRESS), server.address)
        and _agree(attributes.get(names.SERVER_PORT), server.port)
    )


def _agree(theirs: Any, ours: Any) -> bool:
    return theirs is None or ours is None or theirs == ours


def _model_on(attributes: Mapping[str, Any]) -> str | None:
    return model_name(attributes.get(names.GEN_AI_REQUEST_MODEL, attributes.get("llm.model_name")))


def _last_part(model: str | None) -> str | None:
    """``gpt-4o`` for ``openai/gpt-4o``: routers put a provider in front of the model's name."""
    return None if model is None else model.rpartition("/")[2]
