"""The GenAI histograms, for instrumentations and for people who record by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamatelemetry.semconv import attribute_name, set_gen_ai_attrs
from llamatelemetry.semconv import metrics as _specs
from llamatelemetry.semconv.attributes import GEN_AI_TOKEN_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.util.types import AttributeValue


class GenAIMetrics:
    """The histograms of the GenAI conventions on one meter, with their units and buckets.

    Every instrument is a public attribute, so that an instrumentation which has the attributes
    of a call at hand already records to it directly. The ``record_*`` methods build them:
    ``attributes`` takes the short names of `llamatelemetry.semconv.attribute_name`, such as
    ``server_address="127.0.0.1"`` or ``error_type="timeout"``, and full names.

    Args:
        meter: where the instruments are created; they live and die with it.
    """

    def __init__(self, meter: Meter) -> None:
        def create(spec: _specs.HistogramSpec) -> Histogram:
            return meter.create_histogram(
                spec.name,
                unit=spec.unit,
                description=spec.description,
                explicit_bucket_boundaries_advisory=list(spec.boundaries),
            )

        self.token_usage = create(_specs.CLIENT_TOKEN_USAGE)
        self.operation_duration = create(_specs.CLIENT_OPERATION_DURATION)
        self.time_to_first_chunk = create(_specs.CLIENT_TIME_TO_FIRST_CHUNK)
        self.time_per_output_chunk = create(_specs.CLIENT_TIME_PER_OUTPUT_CHUNK)
        self.server_request_duration = create(_specs.SERVER_REQUEST_DURATION)
        self.server_time_to_first_token = create(_specs.SERVER_TIME_TO_FIRST_TOKEN)
        self.server_time_per_output_token = create(_specs.SERVER_TIME_PER_OUTPUT_TOKEN)

    def record_tokens(
        self,
        input_tokens: int | None,
        output_tokens: int | None,
        attributes: Mapping[str, AttributeValue],
        context: Context | None = None,
    ) -> None:
        """Record one point per known token count, marked ``gen_ai.token.type`` input or output."""
        if input_tokens is not None:
            self.token_usage.record(
                input_tokens, {**attributes, GEN_AI_TOKEN_TYPE: "input"}, context
            )
        if output_tokens is not None:
            self.token_usage.record(
                output_tokens, {**attributes, GEN_AI_TOKEN_TYPE: "output"}, context
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
        """Record tokens to ``gen_ai.client.token.usage`` ({token}); ``None`` is not recorded."""
        self.record_tokens(
            input_tokens,
            output_tokens,
            _attributes(gen_ai_system, operation, model, attributes),
        )

    def record_operation_duration(
        self,
        duration_s: float,
        *,
        gen_ai_system: str,
        operation: str,
        model: str | None,
        **attributes: AttributeValue | None,
    ) -> None:
        """Record what the client waited, in seconds, to ``gen_ai.client.operation.duration``."""
        self.operation_duration.record(
            duration_s,
            _attributes(gen_ai_system, operation, model, attributes),
        )

    def record_server_duration(
        self,
        duration_s: float,
        *,
        gen_ai_system: str,
        operation: str,
        model: str | None,
        **attributes: AttributeValue | None,
    ) -> None:
        """Record what the engine itself measured, in seconds, to ``gen_ai.server.request.duration``."""
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
        """Record the engine's queue and prefill, in seconds, to ``gen_ai.server.time_to_first_token``."""
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
        """Record the engine's seconds per later token to ``gen_ai.server.time_per_output_token``."""
        self.server_time_per_output_token.record(
            tpot_s,
            _attributes(gen_ai_system, operation, model, attributes),
        )


def _attributes(
    system: str, operation: str, model: str | None, more: Mapping[str, AttributeValue | None]
) -> dict[str, AttributeValue]:
    known = set_gen_ai_attrs(system=system, operation=operation, model=model)
    known.update({attribute_name(name): value for name, value in more.items() if value is not None})
    return known
