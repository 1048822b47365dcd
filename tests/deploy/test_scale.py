"""What calls cost on the wire and in Prometheus, measured; and the computation from it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.prometheus import ROOT, load_scale
from tests.support.llama_server import LlamaServer
from tests.support.otlp_receiver import Received, http_receiver

INSTRUMENT = str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")
PROGRAM = Path(__file__).with_name("measured_program.py")
CALLS = 24

# Data points of a process that calls one model on one server. One more attribute with values of
# single calls (a response id, a user, a seed) would multiply them by the number of calls.
DATA_POINTS = {
    "gen_ai.client.operation.duration": 1,
    "gen_ai.client.operation.time_to_first_chunk": 1,
    "gen_ai.client.operation.time_per_output_chunk": 1,
    "gen_ai.client.token.usage": 2,
    "gen_ai.server.request.duration": 1,
    "gen_ai.server.time_to_first_token": 1,
    "gen_ai.server.time_per_output_token": 1,
}


@pytest.fixture(scope="module")
def scale() -> Any:
    return load_scale()


@pytest.fixture(scope="module")
def received(llama_server: LlamaServer) -> Iterator[Received]:
    """Return the telemetry of calls that differ in everything but model and server."""
    variables = {
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "httpx,httpx2",
        "OTEL_METRIC_EXPORT_INTERVAL": "600000",
    }
    with http_receiver() as receiver:
        subprocess.run(
            [INSTRUMENT, sys.executable, str(PROGRAM), llama_server.url, str(CALLS)],
            env={**os.environ, **variables, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url},
            check=True,
            timeout=120,
        )
        yield receiver


def points_of(received: Received) -> dict[str, list[Any]]:
    """Return the data points of the last export of metrics, by name."""
    message: Any = received.messages["metrics"][-1]
    return {
        metric.name: list(getattr(metric, metric.WhichOneof("data")).data_points)
        for resource in message.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_calls_add_no_series(received: Received):
    points = points_of(received)
    assert {name: len(points[name]) for name in DATA_POINTS} == DATA_POINTS
    assert {name for name in points if name.startswith("gen_ai.")} == DATA_POINTS.keys()


def test_series_in_prometheus_are_those_of_the_computation(received: Received, scale: Any):
    points = [
        point for name, each in points_of(received).items() if name in DATA_POINTS for point in each
    ]
    # Boundaries, the bucket without one, sum and count.
    assert sum(len(point.explicit_bounds) + 3 for point in points) == scale.CALL_SERIES
    assert len(points) == scale.CALL_POINTS


def test_bytes_on_the_wire_are_those_of_the_computation(received: Received, scale: Any):
    assert len(received.spans()) == CALLS * scale.SPANS_PER_REQUEST
    exports = [i for i, path in enumerate(received.paths) if path == "/v1/traces"]
    size = sum(len(received.bodies[i]) for i in exports)
    compressed = sum(int(received.headers[i]["content-length"]) for i in exports)
    spans = len(received.spans())
    assert size / spans == pytest.approx(scale.BYTES_PER_SPAN, rel=0.25)
    # Smaller batches compress less.
    assert compressed / spans == pytest.approx(scale.GZIP_BYTES_PER_SPAN, rel=0.5)


def test_computation_scales_with_its_numbers(scale: Any):
    small, large = scale.Deployment(), scale.Deployment(rate=20_000, servers=2000, processes=200)
    assert (large.spans, large.series) == (2 * small.spans, 2 * small.series)
    assert small.stored_share == pytest.approx(0.118)
    assert scale.Deployment(targets=10).series - small.series == 100 * 9 * scale.CALL_SERIES


def test_script_prints_table_for_given_numbers():
    command = [sys.executable, "scripts/scale.py", "--servers=2", "--rate=5", "--engine=llama.cpp"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1].split() == ["Spans", "sent", "20", "/s", "20", "/s"]


@pytest.mark.slow
def test_every_span_of_load_arrives_or_is_counted():
    pytest.importorskip("rotel")
    command = [sys.executable, "scripts/scale_load.py", "--seconds=5", "--rate=500"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
