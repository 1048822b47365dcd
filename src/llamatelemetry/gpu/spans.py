"""GPU attributes of spans: GPU usage during the span, and the energy of calls.

All values come from the monitor's last readings. Nothing here calls a driver, so a span costs a few
microseconds.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from llamatelemetry.genai import is_loopback, known_servers, server_of
from llamatelemetry.gpu.monitor.engines import IN_PROCESS
from llamatelemetry.semconv import attributes as genai
from llamatelemetry.semconv import gpu as names
from llamatelemetry.semconv.operations import (
    FETCH_RESPONSE,
    INFERENCE_OPERATIONS,
    RETRIEVAL,
    WELL_KNOWN_OPERATIONS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai import Request
    from llamatelemetry.gpu.energy import CallEnergy
    from llamatelemetry.gpu.monitor.history import GpuUsage
    from llamatelemetry.gpu.monitor.monitor import GpuMonitor

# Operations that run no model. An operation outside the well-known ones may run one.
_NO_INFERENCE: Final = (WELL_KNOWN_OPERATIONS - INFERENCE_OPERATIONS - {RETRIEVAL}) | {
    FETCH_RESPONSE
}
# INTERNAL spans of other scopes may be a framework's, around a call to a cloud service.
_IN_PROCESS_SCOPES: Final = frozenset(
    {
        "llamatelemetry.transformers",
        "llamatelemetry_instrumentation_llamacpp",
        "llamatelemetry_instrumentation_transformers",
    }
)
_NOTHING: Final[Mapping[str, AttributeValue]] = {}


class SpanGpu:
    """GPU attributes of spans, for an `EnrichingSpanProcessor`."""

    def __init__(self, monitor: GpuMonitor, *, only_genai: bool) -> None:
        self._monitor = monitor
        self._only_genai = only_genai

    def started(self, span: Span, parent_context: Context | None) -> None:
        """Start measuring energy if the started span is a call to an engine."""
        monitor = self._monitor
        monitor.ensure_running()
        if not monitor.snapshot.visible:
            return
        engine = _engine_of(span)
        # A span below a call in flight is a nested span of the same call.
        if engine is None or monitor.ledger.is_open(trace.get_current_span(parent_context)):
            return
        if monitor.ledger.start(span, engine, _monotonic_s(span.start_time)):
            monitor.read_soon()

    def on_dropped_span_start(
        self, span: trace.Span, request: Request, kind: SpanKind, scope: str
    ) -> None:
        """Start measuring a call without a recorded span, because it uses the GPUs as well."""
        if not self._monitor.snapshot.visible or request.operation in _NO_INFERENCE:
            return
        server, engine = request.server, None
        if kind is SpanKind.INTERNAL:
            engine = _in_process_engine(scope)
        elif server is not None and kind is SpanKind.CLIENT and server.port is not None:
            engine = _server_engine(server.address, server.port)
        if engine is not None and self._monitor.ledger.start(span, engine, time.monotonic()):
            self._monitor.read_soon()

    def on_dropped_span_end(self, span: trace.Span) -> None:
        """Finish measuring a call without a recorded span."""
        self._monitor.ledger.finish(span, time.monotonic())

    def ending(self, span: Span) -> Mapping[str, AttributeValue]:
        """Return the GPU attributes of a span that is ending."""
        monitor = self._monitor
        history = monitor.history
        if not history.devices:
            return _NOTHING
        end_s = _monotonic_s(span.end_time)
        energy = monitor.ledger.finish(span, end_s)
        present = span.attributes or _NOTHING
        if self._only_genai and not _is_genai(present):
            return _NOTHING
        attributes: dict[str, AttributeValue] = {}
        if energy is not None:
            attributes.update(_energy_attributes(energy, present))
        usages = history.over(_monotonic_s(span.start_time), end_s)
        if usages is not None:
            uuids = [device.uuid for device in history.devices]
            attributes.update(_usage_attributes(uuids, usages))
        return attributes


def _engine_of(span: Span) -> str | None:
    """Return the engine of a call; `None` for other spans and engines on other machines."""
    attributes = span.attributes or _NOTHING
    operation = attributes.get(genai.GEN_AI_OPERATION_NAME)
    if operation in _NO_INFERENCE or not (operation or genai.TASK in attributes):
        return None
    if span.kind is SpanKind.INTERNAL:
        scope = span.instrumentation_scope
        return None if scope is None else _in_process_engine(scope.name)
    address, port = attributes.get(genai.SERVER_ADDRESS), attributes.get(genai.SERVER_PORT)
    if span.kind is not SpanKind.CLIENT or not isinstance(address, str) or not port:
        return None
    return _server_engine(address, int(str(port)))


def _in_process_engine(scope: str) -> str | None:
    return IN_PROCESS if scope in _IN_PROCESS_SCOPES else None


def _server_engine(address: str, port: int) -> str | None:
    if is_loopback(address) or _is_managed(address, port):
        host = f"[{address}]" if ":" in address and not address.startswith("[") else address
        return f"http://{host}:{port}"
    return None


def _is_managed(address: str, port: int) -> bool:
    schemes = ("http", "https")
    return any(known_servers.description_of(server_of(each, address, port)) for each in schemes)


def _is_genai(attributes: Mapping[str, AttributeValue]) -> bool:
    return genai.GEN_AI_OPERATION_NAME in attributes or genai.GEN_AI_PROVIDER_NAME in attributes


def _monotonic_s(wall_ns: int | None) -> float:
    """Convert a span's wall-clock time to `time.monotonic`."""
    now_s = time.monotonic()
    return now_s if wall_ns is None else now_s - (time.time_ns() - wall_ns) / 1e9


def _energy_attributes(
    energy: CallEnergy, present: Mapping[str, AttributeValue]
) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        names.GPU_ENERGY: energy.joules,
        names.GPU_ENERGY_ATTRIBUTION: energy.attribution,
    }
    if energy.above_idle_joules is not None:
        attributes[names.GPU_ENERGY_ABOVE_IDLE] = energy.above_idle_joules
    tokens = present.get(genai.GEN_AI_USAGE_OUTPUT_TOKENS)
    if isinstance(tokens, int) and tokens > 0:
        attributes[names.GPU_ENERGY_PER_OUTPUT_TOKEN] = energy.joules / tokens
    return attributes


_ARRAYS: Final[tuple[tuple[str, Callable[[GpuUsage], float | None]], ...]] = (
    (names.GPU_UTILIZATION, lambda usage: usage.utilization),
    (names.GPU_UTILIZATION_PEAK, lambda usage: usage.utilization_peak),
    (names.GPU_MEMORY_USED, lambda usage: usage.memory_used_bytes),
    (names.GPU_POWER, lambda usage: usage.power_w),
    (names.GPU_TEMPERATURE, lambda usage: usage.temperature_c),
)


def _usage_attributes(
    uuids: Sequence[str], usages: Sequence[GpuUsage]
) -> dict[str, AttributeValue]:
    # A GPU without any value, for example a lost one, is omitted from all arrays.
    known = [
        (uuid, usage)
        for uuid, usage in zip(uuids, usages, strict=True)
        if usage.utilization is not None
        or usage.memory_used_bytes is not None
        or usage.power_w is not None
    ]
    if not known:
        return {}
    attributes: dict[str, AttributeValue] = {names.GPU_IDS: tuple(uuid for uuid, _ in known)}
    for name, value_of in _ARRAYS:
        values = [value for _, usage in known if (value := value_of(usage)) is not None]
        if len(values) == len(known):  # omit incomplete arrays: their indexes would not match
            attributes[name] = tuple(values)
    return attributes
