"""Telemetry of a group: its rank on the resource, its collectives as metrics."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry._logs import get_logger_provider
from opentelemetry.metrics import get_meter, get_meter_provider

from llamatelemetry import __version__
from llamatelemetry.genai import internal_errors
from llamatelemetry.otel._sdk_private import update_resource
from llamatelemetry.otel.client_metrics import create_histogram
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv import metrics as specs
from llamatelemetry.semconv.attributes import ERROR_TYPE

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.nccl._collectives import CollectiveResults

_SCOPE: Final = "llamatelemetry.nccl"
_GIGA: Final = 1e9


@cache
def _instruments() -> tuple[Histogram, Any, Any]:
    """Return the instruments of the duration, the algorithm bandwidth and the bus bandwidth."""
    meter = get_meter(_SCOPE, __version__)
    return (
        create_histogram(meter, specs.COLLECTIVE_DURATION),
        meter.create_gauge(*specs.COLLECTIVE_ALGORITHM_BANDWIDTH),
        meter.create_gauge(*specs.COLLECTIVE_BUS_BANDWIDTH),
    )


def describe_on_resource(rank: int, world_size: int, backend: str) -> None:
    """Add the rank of this process to the resource of the SDK. Never raises."""
    attributes: dict[str, AttributeValue] = {
        names.COLLECTIVE_RANK: rank,
        names.COLLECTIVE_WORLD_SIZE: world_size,
        names.COLLECTIVE_BACKEND: backend,
    }
    try:
        for provider in (trace.get_tracer_provider(), get_meter_provider(), get_logger_provider()):
            # Providers of the SDK and llamatelemetry's have a resource; those of the API do not.
            update_resource(provider, attributes)
    except Exception as error:
        internal_errors.log_once("describing a process group", error, may_quote=False)


def record_results(results: CollectiveResults) -> None:
    """Record a collective. One rank calls this: the results are those of all. Never raises."""
    attributes = _attributes(
        results.operation, results.backend, results.world_size, results.size_bytes
    )
    try:
        duration, algbw, busbw = _instruments()
        duration.record(results.time_s, attributes)
        algbw.set(results.algbw * _GIGA, attributes)
        if results.busbw is not None:
            busbw.set(results.busbw * _GIGA, attributes)
    except Exception as error:
        internal_errors.log_once("recording a collective", error, may_quote=False)


def record_failure(
    backend: str, world_size: int, size_bytes: int, after_s: float, error: BaseException
) -> None:
    """Record a failed all-reduce on the rank that detected it. Never raises."""
    attributes = _attributes("all_reduce", backend, world_size, size_bytes)
    try:
        shown = {**attributes, ERROR_TYPE: type(error).__name__}
        _instruments()[0].record(after_s, shown)
    except Exception as failure:
        internal_errors.log_once("recording a collective", failure, may_quote=False)


def _attributes(
    operation: str, backend: str, world_size: int, size_bytes: int
) -> dict[str, AttributeValue]:
    return {
        names.COLLECTIVE_OPERATION: operation,
        names.COLLECTIVE_BACKEND: backend,
        names.COLLECTIVE_WORLD_SIZE: world_size,
        names.COLLECTIVE_SIZE: size_bytes,
    }
