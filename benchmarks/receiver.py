"""Spans that the local receiver stores per second of CPU time: `python benchmarks/receiver.py`.

A real exporter encodes batches of calls, each with its phases as child spans. Another process sends
them over HTTP to the receiver in this process. CPU time does not depend on the other load of the
machine, so a figure per CPU second is that of one core.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from llamatelemetry import genai
from llamatelemetry.genai import plugin_instrumenter
from llamatelemetry.local.otlp import parse_request, records_of
from llamatelemetry.local.receiver import Receiver
from llamatelemetry.local.request_limits import check_complexity
from llamatelemetry.local.store import Store

SPANS_PER_BATCH = 512  # the batch size of OpenTelemetry's processor
SENDER = """
import http.client, sys
host, port, *paths = sys.argv[1:]
connection = http.client.HTTPConnection(host, int(port))
for path in paths:
    headers = {"content-type": "application/x-protobuf"}
    if path.endswith(".gz"):
        headers["content-encoding"] = "gzip"
    with open(path, "rb") as file:
        connection.request("POST", "/v1/traces", file.read(), headers)
    response = connection.getresponse()
    response.read()
    assert response.status == 200, response.status
"""


class Spans(SpanProcessor):
    """Collects spans."""

    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Add a span."""
        self.ended.append(span)


def batches(count: int) -> list[bytes]:
    """Return the bodies of export requests with this many spans in all."""
    spans = Spans()
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(spans)
    instrumenter = plugin_instrumenter("load", "1", {"tracer_provider": provider})
    timings = genai.EngineTimings(
        prompt_tokens=200, prefill_ms=40.0, predicted_tokens=50, decode_ms=400.0, queue_ms=5.0
    )
    while len(spans.ended) < count:
        call = instrumenter.start(genai.Request("chat", "llama_cpp", "smol"))
        assert call is not None
        usage = genai.Usage(200, 50)
        call.finish(genai.Response(model="smol", usage=usage, timings=timings))
    return [
        encode_spans(spans.ended[at : at + SPANS_PER_BATCH]).SerializeToString()
        for at in range(0, count, SPANS_PER_BATCH)
    ]


def cpu_s(work: Callable[[], object]) -> float:
    """Return the CPU time of a function."""
    start = time.process_time()
    work()
    return time.process_time() - start


def stages(bodies: Sequence[bytes], folder: Path) -> dict[str, float]:
    """Return the CPU time of each stage, in seconds."""
    requests: list[Any] = []
    records: list[Any] = []
    with Store(folder / "stages.sqlite") as store:
        return {
            "check": cpu_s(lambda: [check_complexity("traces", b, is_json=False) for b in bodies]),
            "parse": cpu_s(lambda: requests.extend(parse_request("traces", b) for b in bodies)),
            "read": cpu_s(lambda: records.extend(list(records_of("traces", r)) for r in requests)),
            "write": cpu_s(lambda: [store.write(batch) for batch in records]),
        }


def over_http(bodies: Sequence[bytes], folder: Path) -> float:
    """Return the CPU time of the receiver for these bodies, sent by another process."""
    paths = []
    for number, body in enumerate(bodies):
        paths.append(folder / f"{number}.gz")
        paths[-1].write_bytes(gzip.compress(body, 1))
    with Store(folder / "http.sqlite") as store:
        receiver = Receiver(store)
        receiver.start()
        address = receiver.url.removeprefix("http://").split(":")
        command = [sys.executable, "-c", SENDER, *address, *map(str, paths)]
        used = cpu_s(lambda: subprocess.run(command, check=True))
        receiver.stop()
        assert receiver.received["traces"] > 0
    return used


def main() -> None:
    """Print the spans per second of each stage and of the whole receiver."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--spans", type=int, default=50 * SPANS_PER_BATCH)
    bodies = batches(parser.parse_args().spans)
    count = len(bodies) * SPANS_PER_BATCH
    with tempfile.TemporaryDirectory() as folder:
        for name, used in stages(bodies, Path(folder)).items():
            print(f"{name:10} {used / count * 1e6:7.1f} us per span")
        used = over_http(bodies, Path(folder))
        print(f"{'whole':10} {used / count * 1e6:7.1f} us per span: {count / used:,.0f} spans/s")


if __name__ == "__main__":
    main()
