"""Spans that inference engines export themselves, and the figures on them.

An engine is recognized by the instrumentation scope of its spans. Their names prove nothing: vLLM and
TensorRT-LLM both call theirs `llm_request`. Attributes of the same name have other meanings in other
engines, so there is one reader per engine. A figure without a place among queue, prefill and decode
is not read, nor one that is negative, not a number, or longer than the span that reports it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from llamatelemetry.genai.engines.proofs import SGLANG, TENSORRT_LLM, TGI, VLLM
from llamatelemetry.genai.engines.units import SECOND, as_ms, text_as_ms
from llamatelemetry.genai.json_access import as_count, as_str
from llamatelemetry.genai.model import EngineTimings
from llamatelemetry.local.records import SpanRecord
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import CHAT, TEXT_COMPLETION

# A span ends on the wall clock, its figures are of a monotonic clock.
_CLOCK_TOLERANCE_MS: Final = 1.0


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One sequence that an engine generated, by its own span. `None` is unknown.

    Attributes:
        engine: Provider name of the engine.
        span: The engine's span of the request.
        key: What the spans of one HTTP request share: its choices and prompts have one span each.
        request_id: The engine's identifier of the prompt. Its choices share it.
        is_language_model: Whether the request is known to be a call of a language model.
        timings: The engine's figures. Its `predicted_tokens` are the output tokens.
        input_tokens: Prompt tokens, including those from the cache.
        operation: Value of `gen_ai.operation.name`.
        model: Model that generated the response.
    """

    engine: str
    span: SpanRecord
    key: str
    request_id: str
    is_language_model: bool
    timings: EngineTimings
    input_tokens: int | None = None
    operation: str | None = None
    model: str | None = None


_Reader = Callable[[SpanRecord, Sequence[SpanRecord]], EngineTimings]


class _Engine(NamedTuple):
    """How to read the spans of an engine.

    Attributes:
        name: Provider name.
        is_request: Whether the attributes of a span of this scope are those of a request.
        id_attribute: Attribute with the identifier of the request.
        read: Returns the figures of a request's span and of the spans below it.
        has_only_language_models: Whether each request is a call of a language model.
    """

    name: str
    is_request: Callable[[Mapping[str, object]], bool]
    id_attribute: str
    read: _Reader
    has_only_language_models: bool = True


def is_engine_scope(span: SpanRecord) -> bool:
    """Return whether an engine exports spans of this scope."""
    return span.scope in _ENGINES


def is_engine_request(span: SpanRecord) -> bool:
    """Return whether a span is an engine's span of a request, not of one of its steps."""
    engine = _ENGINES.get(span.scope)
    return engine is not None and engine.is_request(span.attributes)


def read_engine_request(span: SpanRecord, steps: Sequence[SpanRecord] = ()) -> EngineRequest:
    """Read an engine's span of a request, for which `is_engine_request` is true.

    Args:
        span: The span.
        steps: The spans of the same engine below it, in any order.
    """
    engine = _ENGINES[span.scope]
    found = span.attributes
    request_id = str(found.get(engine.id_attribute, ""))
    return EngineRequest(
        engine=engine.name,
        span=span,
        key=_NUMBER_OF_SEQUENCE.sub("", request_id) or span.span_id,
        request_id=request_id or span.span_id,
        is_language_model=engine.has_only_language_models,
        timings=_plausible(engine.read(span, steps), span),
        input_tokens=as_count(found.get("gen_ai.usage.prompt_tokens")),
        operation=_operation(request_id) if engine.name == VLLM else None,
        model=as_str(found.get(names.GEN_AI_RESPONSE_MODEL)),
    )


# vLLM appends the number of the prompt or of the generation turn: `cmpl-923e02e0-1`, `resp_8d3a_0`.
_NUMBER_OF_SEQUENCE: Final = re.compile(r"[-_]\d{1,4}$")
_OPERATION_BY_ID: Final = {
    "chatcmpl-": CHAT,
    "resp_": CHAT,
    "cmpl-": TEXT_COMPLETION,
}


def _operation(request_id: str) -> str | None:
    return next(
        (op for start, op in _OPERATION_BY_ID.items() if request_id.startswith(start)), None
    )


def _plausible(timings: EngineTimings, span: SpanRecord) -> EngineTimings:
    """Return timings without those that the span is too short for: their unit is another one."""
    limit_ms = span.duration_ms + _CLOCK_TOLERANCE_MS
    figures = (timings.queue_ms, timings.prefill_ms, timings.decode_ms, timings.first_token_ms)
    fitting = [None if ms is None or ms > limit_ms else ms for ms in figures]
    if sum(ms or 0 for ms in fitting[:3]) > limit_ms:
        fitting[:3] = None, None, None
    queue_ms, prefill_ms, decode_ms, first_token_ms = fitting
    return replace(
        timings,
        queue_ms=queue_ms,
        prefill_ms=prefill_ms,
        decode_ms=decode_ms,
        first_token_ms=first_token_ms,
    )


def _seconds(span: SpanRecord, name: str) -> float | None:
    return as_ms(span.attributes.get(name), SECOND)


def _output_tokens(span: SpanRecord) -> int | None:
    return as_count(span.attributes.get("gen_ai.usage.completion_tokens"))


def _read_vllm(span: SpanRecord, _steps: Sequence[SpanRecord]) -> EngineTimings:
    """Read vLLM's figures, which are those of `metrics` in its response.

    Its `time_to_first_token` also contains the work of the API server before and after the engine, so
    that it is not the sum of queue and prefill. Source: `vllm/v1/engine/output_processor.py`.
    """
    return EngineTimings(
        queue_ms=_seconds(span, names.GEN_AI_LATENCY_TIME_IN_QUEUE),
        prefill_ms=_seconds(span, names.GEN_AI_LATENCY_TIME_IN_MODEL_PREFILL),
        decode_ms=_seconds(span, names.GEN_AI_LATENCY_TIME_IN_MODEL_DECODE),
        predicted_tokens=_output_tokens(span),
    )


def _read_sglang(span: SpanRecord, steps: Sequence[SpanRecord]) -> EngineTimings:
    """Read SGLang's span of a request and the spans of its stages.

    Its `time_in_model_prefill` starts when the request is dispatched, so it contains the queue. A
    request that prefill and decode servers share (`bootstrap_room`) has stages on both. Sources:
    `sglang/srt/observability/req_time_stats.py` and `trace.py`.
    """
    found = span.attributes
    tokens = _output_tokens(span)
    cached = as_count(found.get("gen_ai.usage.cached_tokens"))
    if "bootstrap_room" in found:
        return EngineTimings(predicted_tokens=tokens, cached_tokens=cached)
    decoding = [step.start_ns for step in steps if step.name.startswith("decode_")]
    # After a retraction the prompt is computed again, which is part of the decode time.
    decoding_ns = min(decoding, default=span.end_ns)
    queue = [step for step in steps if step.name == "prefill_waiting"]
    prefill = [
        step
        for step in steps
        if step.name in {"prefill_forward", "chunked_prefill"} and step.start_ns < decoding_ns
    ]
    return EngineTimings(
        queue_ms=_extent_ms(queue),
        prefill_ms=_extent_ms(prefill),
        decode_ms=_seconds(span, names.GEN_AI_LATENCY_TIME_IN_MODEL_DECODE),
        first_token_ms=_seconds(span, names.GEN_AI_LATENCY_TIME_TO_FIRST_TOKEN),
        predicted_tokens=tokens,
        cached_tokens=cached,
    )


def _extent_ms(steps: Sequence[SpanRecord]) -> float | None:
    if not steps:
        return None
    started_ns, ended_ns = min(step.start_ns for step in steps), max(step.end_ns for step in steps)
    return as_ms((ended_ns - started_ns) / 1e6, 1)


def _read_tensorrt_llm(span: SpanRecord, _steps: Sequence[SpanRecord]) -> EngineTimings:
    """Read TensorRT-LLM's queue and time to first token, which both start with the arrival.

    It writes -1 for an unknown figure. Between disaggregated servers the time to first token
    contains the transfer of the KV cache. Source: `tensorrt_llm/executor/result.py`.
    """
    queue_ms, first_token_ms = (
        _seconds(span, names.GEN_AI_LATENCY_TIME_IN_QUEUE),
        _seconds(span, names.GEN_AI_LATENCY_TIME_TO_FIRST_TOKEN),
    )
    prefill_ms: float | None = None
    is_shared = "gen_ai.latency.kv_cache_transfer_time" in span.attributes
    if queue_ms is not None and first_token_ms is not None and not is_shared:
        prefill_ms = as_ms(first_token_ms - queue_ms, 1)
    return EngineTimings(
        queue_ms=queue_ms,
        prefill_ms=prefill_ms,
        first_token_ms=first_token_ms,
        predicted_tokens=_output_tokens(span),
    )


_RUST_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|µs|ms|s)")
_RUST_UNIT_MS: Final = {"ns": 1e-6, "µs": 1e-3, "ms": 1.0, "s": 1000.0}


def _read_tgi(span: SpanRecord, _steps: Sequence[SpanRecord]) -> EngineTimings:
    """Read the queue of Text Generation Inference, a text such as `1.23ms`.

    Its `inference_time` contains prefill and decode, its `time_per_token` is that time divided by all
    tokens. Source: `router/src/server.rs`.
    """
    match = _RUST_DURATION.fullmatch(str(span.attributes.get("queue_time")))
    return EngineTimings(
        queue_ms=None if match is None else text_as_ms(match[1], _RUST_UNIT_MS[match[2]])
    )


def _read_triton(span: SpanRecord, steps: Sequence[SpanRecord]) -> EngineTimings:
    """Read Triton's queue: from the event `QUEUE_START` to `COMPUTE_START` in the span below.

    The compute time is that of a whole model, so it is neither prefill nor decode. Source:
    `src/tracer.cc`.
    """
    own = {event.name: event.time_ns for event in span.events}
    computing = [
        event.time_ns for step in steps for event in step.events if event.name == "COMPUTE_START"
    ]
    queued_ns = own.get("QUEUE_START")
    if queued_ns is None or len(computing) != 1:  # an ensemble has a compute span per model
        return EngineTimings()
    return EngineTimings(queue_ms=as_ms((computing[0] - queued_ns) / 1e6, 1))


def _with_fields(*required: str) -> Callable[[Mapping[str, object]], bool]:
    def has_all(attributes: Mapping[str, object]) -> bool:
        return all(name in attributes for name in required)

    return has_all


def _is_for_top_model(attributes: Mapping[str, object]) -> bool:
    """Return whether a request is not one that an ensemble sends to its models."""
    return attributes.get("triton.trace_parent_id") == 0


_with_latency: Final = _with_fields(names.GEN_AI_LATENCY_E2E)
_VLLM: Final = _Engine(VLLM, _with_latency, "gen_ai.request.id", _read_vllm)
_ENGINES: Final[Mapping[str, _Engine]] = {
    "vllm.tracing.otel": _VLLM,
    "vllm.llm_engine": _VLLM,  # in older versions
    "sglang server": _Engine(SGLANG, _with_fields("rid"), "rid", _read_sglang),
    "trt.llm": _Engine(TENSORRT_LLM, _with_latency, "gen_ai.request.id", _read_tensorrt_llm),
    # The scope of every Rust program with this exporter, so the attributes have to agree, too.
    "opentelemetry-otlp": _Engine(
        TGI,
        _with_fields("validation_time", "queue_time", "inference_time", "time_per_token"),
        "",
        _read_tgi,
    ),
    # Its models can be of any kind.
    "triton-server": _Engine(
        "triton",
        _is_for_top_model,
        "triton.request_id",
        _read_triton,
        has_only_language_models=False,
    ),
}

EXPORTING_ENGINES: Final = frozenset(engine.name for engine in _ENGINES.values())
"""Provider names of the engines whose spans can be read."""
