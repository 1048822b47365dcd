"""Compute what a deployment sends and stores: `scripts/scale.py --servers 1000 --rate 10000`.

The figures per span, data point and series are measured; tests/deploy/test_scale.py repeats the
measurement. Those of the Collector and of Prometheus are rules of thumb of their documentation.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

# Measured with streams of a llama.cpp server: one span of the call, and queue, prefill and decode.
SPANS_PER_REQUEST = 4
BYTES_PER_SPAN = 500
GZIP_BYTES_PER_SPAN = 90
GZIP_BYTES_PER_POINT = 86
CALL_POINTS = 8
"""Data points of a process for one model on one server."""
CALL_SERIES = 137
"""Series in Prometheus of the same points: a bucket of a histogram is a series."""
PROCESS_SERIES = 26
"""Series of a process, whatever it calls: the SDK's own metrics."""
SERVER_SERIES = {"llama.cpp": 27, "vllm": 160}
"""Series of one scraped server."""
GPU_SERIES = 33

# Rules of thumb.
SPANS_PER_REPLICA = 10_000
"""Spans per second that a gateway of two cores takes, with tail sampling."""
PROMETHEUS_BYTES_PER_SERIES = 4096
PROMETHEUS_BYTES_PER_SAMPLE = 1.5
DAY_S = 86_400


@dataclass(frozen=True)
class Deployment:
    """The numbers of a user.

    Attributes:
        rate: Requests per second, of all processes.
        processes: Application processes that call models.
        targets: Pairs of server address and model that one process calls. Behind a load balancer
            that is the number of models.
        gpus: GPUs per server.
        share: Share of the ordinary traces that is kept; errors and slow traces always are.
        kept: Share of the traces that are errors or slow.
        interval_s: Time between two scrapes, and between two exports of metrics.
    """

    servers: int = 1000
    rate: float = 10_000
    processes: int = 100
    targets: int = 1
    gpus: int = 1
    engine: str = "vllm"
    share: float = 0.1
    kept: float = 0.02
    interval_s: float = 15

    @property
    def spans(self) -> float:
        """Spans per second that applications send."""
        return self.rate * SPANS_PER_REQUEST

    @property
    def stored_share(self) -> float:
        """Share of the traces that tail sampling keeps."""
        return self.kept + (1 - self.kept) * self.share

    @property
    def series(self) -> int:
        """Active series in Prometheus."""
        process = PROCESS_SERIES + CALL_SERIES * self.targets
        server = SERVER_SERIES[self.engine] + GPU_SERIES * self.gpus
        return self.processes * process + self.servers * server

    @property
    def metric_bytes(self) -> float:
        """Bytes of metrics per second on the wire, with gzip."""
        points = self.processes * CALL_POINTS * self.targets + self.servers * (
            SERVER_SERIES[self.engine] + GPU_SERIES * self.gpus
        )
        return points * GZIP_BYTES_PER_POINT / self.interval_s

    def rows(self) -> list[tuple[str, str, str]]:
        """Return the quantities: without sampling, and with it."""
        samples = self.series / self.interval_s
        stored = self.spans * self.stored_share
        replicas = max(2, math.ceil(self.spans / SPANS_PER_REPLICA))
        memory = self.series * PROMETHEUS_BYTES_PER_SERIES
        both = [
            ("Spans sent", f"{self.spans:,.0f} /s"),
            ("Bytes of spans on the wire (gzip)", _size(self.spans * GZIP_BYTES_PER_SPAN, "/s")),
            ("Bytes of metrics on the wire (gzip)", _size(self.metric_bytes, "/s")),
            ("Gateway replicas (2 cores each)", str(replicas)),
            ("Active series", f"{self.series:,}"),
            ("Samples", f"{samples:,.0f} /s"),
            ("Memory of Prometheus", _size(memory, "")),
            ("Metrics stored", _size(samples * PROMETHEUS_BYTES_PER_SAMPLE * DAY_S, "/day")),
        ]
        return [
            *((name, text, text) for name, text in both),
            ("Spans stored", f"{self.spans:,.0f} /s", f"{stored:,.0f} /s"),
            (
                "Traces stored (uncompressed)",
                _size(self.spans * BYTES_PER_SPAN * DAY_S, "/day"),
                _size(stored * BYTES_PER_SPAN * DAY_S, "/day"),
            ),
        ]


def _size(count: float, per: str) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.1f} {unit}{per}"
        count /= 1000
    return f"{count:,.1f} TB{per}"


def main(arguments: list[str] | None = None) -> int:
    """Print the table of the numbers given as options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Deployment()
    add = parser.add_argument
    add("--servers", type=int, default=default.servers, help="inference servers")
    add("--rate", type=float, default=default.rate, help="requests per second in all")
    add("--processes", type=int, default=default.processes, help="application processes")
    add("--targets", type=int, default=default.targets, help="servers x models of one process")
    add("--gpus", type=int, default=default.gpus, help="GPUs per server")
    add("--engine", choices=sorted(SERVER_SERIES), default=default.engine)
    add("--share", type=float, default=default.share, help="share of ordinary traces kept")
    add("--kept", type=float, default=default.kept, help="share of errors and slow traces")
    add("--interval-s", type=float, default=default.interval_s, help="scrape interval")
    rows = Deployment(**vars(parser.parse_args(arguments))).rows()
    table = [("Quantity", "Without sampling", "With tail sampling"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    for name, before, after in table:
        print(f"{name:<{widths[0]}}  {before:>{widths[1]}}  {after:>{widths[2]}}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
