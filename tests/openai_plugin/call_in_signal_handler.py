"""A program that makes a call in a signal handler, while the SDK collects metrics."""

from __future__ import annotations

import itertools
import signal
from typing import Any

import openai
from opentelemetry.sdk.metrics import AlignedHistogramBucketExemplarReservoir, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View

from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.model_server import ANSWER

MESSAGES = [{"role": "user", "content": "Hi"}]


class InterruptedReservoir(AlignedHistogramBucketExemplarReservoir):
    """A signal arrives while the SDK collects metrics, under its locks."""

    def collect(self, point_attributes: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return super().collect(point_attributes)


def call_in_handler() -> None:
    reader = InMemoryMetricReader()
    view = View(
        instrument_name="gen_ai.*", exemplar_reservoir_factory=lambda _: InterruptedReservoir
    )
    meters = MeterProvider([reader], views=[view], shutdown_on_exit=False)
    OpenAIInstrumentor().instrument(meter_provider=meters)
    transport = payloads.http.MockTransport(lambda _: payloads.http.Response(200, json=ANSWER))
    http = payloads.http.Client(transport=transport)
    client = openai.OpenAI(api_key="k", base_url="http://127.0.0.1:1/v1", http_client=http)
    models = itertools.count()

    def call(*_: Any) -> None:
        # A model of its own, so that the measurements start a series.
        client.chat.completions.create(model=f"model {next(models)}", messages=MESSAGES)

    call()
    signal.signal(signal.SIGUSR1, call)
    reader.get_metrics_data()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    data = reader.get_metrics_data()
    assert data is not None
    metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
    (duration,) = [
        metric for metric in metrics if metric.name == "gen_ai.client.operation.duration"
    ]
    assert sum(point.count for point in duration.data.data_points) == next(models) > 1


if __name__ == "__main__":
    call_in_handler()
