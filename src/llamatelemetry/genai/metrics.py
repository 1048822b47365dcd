"""The GenAI metrics of a call: the client's measurements and the engine's."""

from __future__ import annotations

from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.deferred_metrics import (
    DeferredRecorder,
    SeriesLayout,
    When,
    is_inside_sdk,
    record_now,
)
from llamatelemetry.genai.spans import call_attributes
from llamatelemetry.otel.client_metrics import CallMeasurement, V141Metrics, write_of
from llamatelemetry.otel.gen_ai_metrics import GenAIMetrics
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import FETCH_RESPONSE, OPENAI_PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.trace import Span

    from llamatelemetry.genai.model import Outcome, Request, Response
    from llamatelemetry.otel.client_metrics import Attributes, Measurement


class CallMetrics:
    """Records the metrics of calls on one meter, under the names `v1.41`, `latest` or `both`."""

    def __init__(self, meter: Meter, names: str) -> None:
        self.instruments = GenAIMetrics(meter, names=names)
        self._recorder = DeferredRecorder(meter, self.instruments.server_request_duration)

    def record(self, outcome: Outcome, span: Span, *, client: bool = True) -> None:
        """Record the measurements of a call, at the latest when metrics are collected.

        Exemplars point to `span`. Without `client`, only the engine's measurements are recorded.
        """
        try:
            series = _series_of(outcome, client)
            if not self._recorder.put_call(series, outcome, span):
                self._record_new(series, outcome, span, client)
        except Exception as error:
            internal_errors.log_once("recording the metrics of a call", error)

    def _record_new(self, series: Hashable, outcome: Outcome, span: Span, client: bool) -> None:
        """Record the first call of a series, or a call without a fixed layout."""
        recorder, parent = self._recorder, span.get_span_context()
        measurements = self.measurements(outcome, client=client)
        targets = [(write_of(instrument), given) for instrument, _, given in measurements]
        values = [value for _, value, _ in measurements]
        is_deferred = recorder.when() is When.AT_COLLECTION
        if is_deferred and (series in recorder.series or is_inside_sdk()):
            recorder.put(targets, values, parent)
            return
        record_now(targets, values, parent)
        if is_deferred:
            fields = self._fields_of(measurements)
            layout = None if fields is None else SeriesLayout(targets, _reader(fields))
            recorder.start_series(series, layout)

    def record_chunk_intervals(
        self, seconds: Sequence[float], attributes: Attributes, span: Span
    ) -> None:
        """Record intervals between chunks, at the latest when metrics are collected.

        The attributes must not change afterwards. Exemplars point to `span`.
        """
        recorder = self._recorder
        when = recorder.when()
        if when is When.NEVER:
            return
        parent, series = span.get_span_context(), tuple(attributes.items())
        for histogram in self.instruments.client.chunk_histograms:
            target, values = (histogram.record, attributes), seconds
            if when is When.NOW:
                record_now(repeat(target, len(values)), values, parent)
                continue
            if (histogram, series) not in recorder.series and not is_inside_sdk():
                record_now([target], values[:1], parent)
                recorder.start_series((histogram, series), None)
                values = values[1:]
            if values:
                recorder.put(repeat(target, len(values)), values, parent)

    def measurements(self, outcome: Outcome, *, client: bool = True) -> list[Measurement]:
        """Return the measurements of a call; chunk intervals are recorded during the stream."""
        server = _server_measurements(self.instruments, outcome)
        return [*_client_measurements(self.instruments, outcome), *server] if client else server

    def _fields_of(self, measurements: Sequence[Measurement]) -> list[str] | None:
        """Return the fields of `Outcome` that hold the values.

        `None` if calls of the same series have different measurements. Under the newest names
        they do: their counters are split by the modalities in the usage.
        """
        instruments, client = self.instruments, self.instruments.client
        if not isinstance(client, V141Metrics):
            return None
        field_by_instrument: dict[object, str] = {
            client.operation_duration: "duration_s",
            client.time_to_first_chunk: "first_chunk_s",
            instruments.server_time_to_first_token: "phases.time_to_first_token_s",
            instruments.server_time_per_output_token: "phases.time_per_output_token_s",
            instruments.server_request_duration: "phases.request_s",
        }
        return [
            field_by_instrument.get(instrument)
            or f"response.usage.{attributes[names.GEN_AI_TOKEN_TYPE]}_tokens"
            for instrument, _, attributes in measurements
        ]


def measures_chunks(request: Request) -> bool:
    """Return whether the chunks of a stream show the speed of a model.

    A fetched response was generated earlier. Metrics exist for named operations only.
    """
    return request.operation is not None and request.operation != FETCH_RESPONSE


def _series_of(outcome: Outcome, client: bool) -> Hashable:
    """Return a key of the time series that a call has measurements in."""
    request, response, phases = outcome.request, outcome.response, outcome.phases
    server = request.server
    return (
        client,
        request.provider,
        request.operation,
        request.model,
        None if server is None else server.origin,
        None if server is None else server.provider,
        response.model,
        response.service_tier,
        _fingerprint(request, response),
        None if outcome.error is None else outcome.error.type,
        outcome.first_chunk_s is None,
        response.usage.input_tokens is None,
        response.usage.output_tokens is None,
        phases is None
        or (
            request.choice_count == 1,
            phases.time_to_first_token_s is None,
            phases.time_per_output_token_s is None,
            phases.request_s is None,
        ),
    )


def _reader(fields: Sequence[str]) -> Callable[[Outcome], Sequence[Any]]:
    if not fields:
        return lambda _: ()
    read = attrgetter(*fields)
    return read if len(fields) > 1 else lambda outcome: (read(outcome),)


def _client_measurements(metrics: GenAIMetrics, outcome: Outcome) -> list[Measurement]:
    request, response = outcome.request, outcome.response
    if request.operation is None:
        return []  # Every GenAI metric belongs to a named operation.
    client, attributes = metrics.client, call_attributes(request, response.model)
    call = CallMeasurement(
        operation=request.operation,
        duration_s=outcome.duration_s,
        tokens=response.usage,
        attributes=_with_openai_attributes(attributes, request, response),
        error_type=None if outcome.error is None else outcome.error.type,
    )
    found = [*client.token_measurements(call), *client.duration_measurements(call)]
    if outcome.first_chunk_s is not None:
        found += client.first_chunk_measurements(outcome.first_chunk_s, attributes)
    return found


def _with_openai_attributes(
    attributes: Attributes, request: Request, response: Response
) -> Attributes:
    if request.provider not in OPENAI_PROVIDERS:
        return attributes
    fingerprint = _fingerprint(request, response)
    known = dict(attributes)
    if response.service_tier is not None:
        known[names.OPENAI_RESPONSE_SERVICE_TIER] = response.service_tier
    if fingerprint is not None:
        known[names.OPENAI_RESPONSE_SYSTEM_FINGERPRINT] = fingerprint
    return known


def _fingerprint(request: Request, response: Response) -> str | None:
    # A self-hosted server has one per build, or per response, which would be a series each.
    server = request.server
    if server is None or server.provider not in OPENAI_PROVIDERS:
        return None
    return response.system_fingerprint


def _server_measurements(metrics: GenAIMetrics, outcome: Outcome) -> list[Measurement]:
    """Return the measurements that the engine reported."""
    phases = outcome.phases
    # With several choices the timings cover the first alone, which is not the whole request.
    if phases is None or outcome.request.choice_count != 1 or outcome.request.operation is None:
        return []
    attributes = call_attributes(outcome.request, outcome.response.model)
    measured: list[tuple[Histogram, float | None]] = []
    if outcome.error is None:  # The conventions want these two for successful calls only.
        measured = [
            (metrics.server_time_to_first_token, phases.time_to_first_token_s),
            (metrics.server_time_per_output_token, phases.time_per_output_token_s),
        ]
    else:
        attributes[names.ERROR_TYPE] = outcome.error.type
    measured.append((metrics.server_request_duration, phases.request_s))
    return [(histogram, value, attributes) for histogram, value in measured if value is not None]
