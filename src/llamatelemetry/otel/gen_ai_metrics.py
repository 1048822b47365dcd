"""The GenAI metrics, for instrumentations and for applications that record them by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamatelemetry.otel.client_metrics import (
    CallMeasurement,
    ClientMetrics,
    MetricNames,
    TokenCounts,
    client_metrics,
    create_histogram,
    record_measurements,
)
from llamatelemetry.semconv import attribute_name, set_gen_ai_attrs
from llamatelemetry.semconv import metrics as specs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.metrics import Meter
    from opentelemetry.util.types import AttributeValue

__all__ = ["GenAIMetrics", "MetricNames"]


class GenAIMetrics:
    """The instruments of the GenAI conventions on one meter, with their units and buckets.

    An instrumentation that has the attributes of a call records the measurements that `client`
    returns for it, and to the `server_*` histograms. An application calls the `record_*`
    methods. All of them take the same description of the call:

    | Argument | Attribute |
    |---|---|
    | `gen_ai_system` | `gen_ai.provider.name`, such as `llama_cpp` |
    | `operation` | `gen_ai.operation.name`, such as `chat` |
    | `model` | `gen_ai.request.model` |
    | `**attributes` | full names, or short ones as for `llamatelemetry.semconv.attribute_name` |

    Args:
        meter: Meter that creates the instruments.
        names: Metric names of the client metrics: `v1.41`, `latest` or `both`.

    Raises:
        ValueError: The names are unknown.

    Examples:
        >>> from opentelemetry.sdk.metrics import MeterProvider
        >>> from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        >>> from llamatelemetry.otel import GenAIMetrics
        >>> reader = InMemoryMetricReader()
        >>> metrics = GenAIMetrics(MeterProvider([reader]).get_meter("my-engine"))
        >>> call = {"gen_ai_system": "my-engine", "operation": "chat", "model": "tiny"}
        >>> metrics.record_token_usage(input_tokens=12, output_tokens=3, **call)
        >>> metrics.record_operation_duration(0.31, server_address="127.0.0.1", **call)
        >>> metrics.record_server_duration(0.3, **call)
        >>> metrics.record_ttft(0.1, **call)
        >>> metrics.record_tpot(0.1, **call)
        >>> recorded = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        >>> for metric in recorded:
        ...     print(metric.name, metric.unit)
        gen_ai.client.token.usage {token}
        gen_ai.client.operation.duration s
        gen_ai.server.request.duration s
        gen_ai.server.time_to_first_token s
        gen_ai.server.time_per_output_token s
    """

    def __init__(self, meter: Meter, *, names: MetricNames | str = "v1.41") -> None:
        self.client: ClientMetrics = client_metrics(meter, names)
        self.server_request_duration = create_histogram(meter, specs.SERVER_REQUEST_DURATION)
        self.server_time_to_first_token = create_histogram(meter, specs.SERVER_TIME_TO_FIRST_TOKEN)
        self.server_time_per_output_token = create_histogram(
            meter, specs.SERVER_TIME_PER_OUTPUT_TOKEN
        )

    def record_token_usage(
        self,
        input_tokens: int | None,
        output_tokens: int | None,
        *,
        gen_ai_system: str,
        operation: str,
        model: str | None,
        **attributes: AttributeValue | None,
    ) -> None:
        """Record the token counts of one call. `None` is not recorded.

        The metric is `gen_ai.client.token.usage` ({token}). Under the latest names it is the
        `gen_ai.client.inference.usage.*` counters and the histograms per operation.
        """
        tokens = _Tokens(input_tokens, output_tokens)
        known = _attributes(gen_ai_system, operation, model, attributes)
        call = CallMeasurement(operation, 0.0, tokens, known, unknown=None)
        record_measurements(self.client.token_measurements(call))

    def record_operation_duration(
        self,
        duration_s: float,
        *,
        gen_ai_system: str,
        operation: str,
        model: str | None,
        **attributes: AttributeValue | None,
    ) -> None:
        """Record the duration of one call as the client measured it, in seconds.

        The metric is `gen_ai.client.operation.duration`. Under the latest names it is
        `gen_ai.client.inference.duration` or `gen_ai.client.embeddings.duration`.
        """
        known = _attributes(gen_ai_system, operation, model, attributes)
        call = CallMeasurement(operation, duration_s, _Tokens(), known)
        record_measurements(self.client.duration_measurements(call))

    def record_server_duration(
        self,
        duration_s: float,
        *,
        gen_ai_system: str,
        operation: str,
        model: str | None,
        **attributes: AttributeValue | None,
    ) -> None:
        """Record the duration that the engine measured, in seconds: `gen_ai.server.request.duration`."""
        self.server_request_duration.record(
            duration_s,
            _attributes(gen_ai_system, operation, model, attributes),
        )

    def record_ttft(
        self,
        ttft_s: float,
        *,
        gen_ai_system: str,
        operation: str,
        model: str | None,
        **attributes: AttributeValue | None,
    ) -> None:
        """Record the engine's queue and prefill, in seconds: `gen_ai.server.time_to_first_token`."""
        self.server_time_to_first_token.record(
            ttft_s,
            _attributes(gen_ai_system, operation, model, attributes),
        )

    def record_tpot(
        self,
        tpot_s: float,
        *,
        gen_ai_system: str,
        operation: str,
        model: str | None,
        **attributes: AttributeValue | None,
    ) -> None:
        """Record the engine's seconds per later token: `gen_ai.server.time_per_output_token`."""
        self.server_time_per_output_token.record(
            tpot_s,
            _attributes(gen_ai_system, operation, model, attributes),
        )


class _Tokens(TokenCounts):
    """Token counts recorded by hand."""

    def __init__(self, input_tokens: int | None = None, output_tokens: int | None = None) -> None:
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens


def _attributes(
    system: str, operation: str, model: str | None, more: Mapping[str, AttributeValue | None]
) -> dict[str, AttributeValue]:
    known = set_gen_ai_attrs(system=system, operation=operation, model=model)
    known.update({attribute_name(name): value for name, value in more.items() if value is not None})
    return known
