"""Send 2,000 requests per second through a real collector: `scripts/scale_load.py --seconds 60`.

A child process records calls as a plugin does, and exports them to rotel, a collector in a wheel,
which sends them on to a receiver in this process. Exits with 1 unless every span has arrived or was
counted as dropped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import SpanProcessor

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


class CountingProcessor(SpanProcessor):
    """Counts the spans that end."""

    count = 0

    def on_end(self, span: object) -> None:  # noqa: ARG002
        """Count a span."""
        self.count += 1


def generate(endpoint: str, rate: int, seconds: float) -> None:
    """Record calls at a rate, flush, and print what was made."""
    import llamatelemetry
    from llamatelemetry import genai
    from llamatelemetry.genai import plugin_instrumenter

    processor = CountingProcessor()
    llamatelemetry.init("load", otlp_endpoint=endpoint, span_processors=[processor])
    instrumenter = plugin_instrumenter("load", "1", {})
    timings = genai.EngineTimings(
        prompt_tokens=200, prefill_ms=40.0, predicted_tokens=50, decode_ms=400.0, queue_ms=5.0
    )
    start = time.monotonic()
    made = 0
    while (elapsed := time.monotonic() - start) < seconds:
        while made < elapsed * rate:
            call = instrumenter.start(genai.Request("chat", "llama_cpp", "smol"))
            if call is not None:
                usage = genai.Usage(200, 50)
                call.finish(genai.Response(model="smol", usage=usage, timings=timings))
            made += 1
        time.sleep(0.002)
    cpu_s = time.process_time()
    elapsed = time.monotonic() - start
    flushed = llamatelemetry.flush(30)
    llamatelemetry.shutdown(30)
    figures = {"calls": made, "spans": processor.count, "seconds": elapsed, "cpu_s": cpu_s}
    print(json.dumps({**figures, "flushed": flushed}))


@contextmanager
def rotel(target: str) -> Iterator[str]:
    """Run rotel, which sends everything on to an OTLP receiver. Yield its endpoint."""
    package = importlib.util.find_spec("rotel")
    if package is None or package.origin is None:
        raise SystemExit("rotel is not installed: pip install rotel")
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            ports.append(probe.getsockname()[1])
    command = [
        str(Path(package.origin).with_name("rotel-agent")),
        "start",
        f"--otlp-http-endpoint=127.0.0.1:{ports[0]}",
        f"--otlp-grpc-endpoint=127.0.0.1:{ports[1]}",
        "--exporter=otlp",
        f"--otlp-exporter-endpoint={target}",
        "--otlp-exporter-protocol=http",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", ports[0])):
                break
            if process.poll() is not None:
                raise SystemExit(f"rotel ended with exit status {process.returncode}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        process.terminate()
        process.wait(30)


def dropped_spans(messages: list[object]) -> int:
    """Return the last value of the metric that counts dropped spans."""
    last = 0
    for message in messages:
        for resource in message.resource_metrics:  # type: ignore[attr-defined]
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == "otel.sdk.processor.span.processed":
                        last = sum(point.as_int for point in metric.sum.data_points)
    return last


def main() -> int:
    """Run the load, and compare what was made with what arrived."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=int, default=2000, help="requests per second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--endpoint", help="used by the child process")
    options = parser.parse_args()
    if options.endpoint:
        generate(options.endpoint, options.rate, options.seconds)
        return 0
    from tests.support.otlp_receiver import http_receiver

    with http_receiver(keep_alive=True) as received, rotel(received.url) as endpoint:
        command = [sys.executable, __file__, f"--endpoint={endpoint}", f"--rate={options.rate}"]
        done = subprocess.run(
            [*command, f"--seconds={options.seconds}"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "OTEL_PYTHON_DISTRO": "llamatelemetry"},
        )
        made = json.loads(done.stdout)
        until = time.monotonic() + 30
        while (
            len(received.spans()) + dropped_spans(received.messages["metrics"]) < made["spans"]
            and time.monotonic() < until
        ):
            time.sleep(0.5)
        arrived = len(received.spans())
        dropped = dropped_spans(received.messages["metrics"])
    print(
        f"{made['calls']:,} calls in {made['seconds']:.1f} s "
        f"({made['calls'] / made['seconds']:,.0f} per second, {made['cpu_s']:.1f} s CPU): "
        f"{made['spans']:,} spans made, {arrived:,} arrived, {dropped:,} counted as dropped"
    )
    # The SDK counts a drop before it appends to the full queue. If the queue is read in between,
    # nothing is dropped, so the count can be a few spans too high.
    return 0 if arrived <= made["spans"] <= arrived + dropped else 1


if __name__ == "__main__":
    sys.exit(main())
