"""Make calls for minutes with every feature on, and check that nothing grows and nothing is lost.

`make soak` takes ten minutes: `scripts/soak.py --seconds 600`. The program under test calls a
scripted server, and exports to a receiver that keeps up. Both are in this process. With
`--in-process`, the server is a transport of the HTTP client in the program, which then makes about
twice as many calls. Exits with 1 unless, after the warm-up, memory stays within 5 MB, threads
and descriptors are constant, and each call is in the spans, the events and the metrics once.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from llamatelemetry.semconv.attributes import GEN_AI_REQUEST_SEED  # noqa: E402
from scripts._soak_server import model_server  # noqa: E402
from tests.support.http_server import http_server  # noqa: E402
from tests.support.otlp_receiver import REQUESTS  # noqa: E402

PROGRAM = Path(__file__).with_name("_soak_program.py")
GROWTH_KB = 5 * 1024
WARM_CALLS = 10_000


class Calls:
    """The numbers of the calls that were received. A call takes one byte of memory.

    Attributes:
        received: Calls that were received, each counted once.
        repeated: How often a call was received that was received before.
    """

    def __init__(self) -> None:
        self.received = self.repeated = 0
        self._is_received = bytearray()

    def add(self, number: int) -> None:
        """Add the number of a call."""
        missing = number + 1 - len(self._is_received)
        self._is_received.extend(bytes(max(0, missing)))
        self.repeated += self._is_received[number]
        self.received += not self._is_received[number]
        self._is_received[number] = 1


@dataclass
class Sink:
    """Counts of the receiver. Spans are those of calls, not of their phases."""

    url: str = ""
    spans: Calls = field(default_factory=Calls)
    events: Calls = field(default_factory=Calls)
    measured: int = 0
    others: Counter[str] = field(default_factory=Counter[str])
    on_calls: Callable[[], None] = lambda: None

    def add(self, signal: str, message: Any) -> None:
        """Count the items of one request."""
        if signal == "metrics":
            # Each plugin has this metric. A request has the sums of all calls so far.
            self.measured = sum(
                point.count
                for metric in _items(message.resource_metrics, "scope_metrics", "metrics")
                if metric.name == "gen_ai.client.operation.duration"
                for point in metric.histogram.data_points
            )
            return
        if signal == "traces":
            for span in _items(message.resource_spans, "scope_spans", "spans"):
                # Not by the name: redaction replaces all of it if a pattern takes too long.
                number = _number_of(span)
                if number is not None:
                    self.spans.add(number)
                else:
                    self.others[span.name] += 1
        else:
            for record in _items(message.resource_logs, "scope_logs", "log_records"):
                number = _number_of(record)
                if number is not None:
                    self.events.add(number)
        self.on_calls()


def _number_of(record: Any) -> int | None:
    """Return the number that the program has given to a call as its seed."""
    for attribute in record.attributes:
        if attribute.key == GEN_AI_REQUEST_SEED:
            return attribute.value.int_value
    return None


def _items(resources: Any, scopes: str, items: str) -> Iterator[Any]:
    for resource in resources:
        for scope in getattr(resource, scopes):
            yield from getattr(scope, items)


@contextmanager
def sink() -> Iterator[Sink]:
    """Run an OTLP receiver that only counts."""
    counted, lock = Sink(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            signal = self.path.rpartition("/")[2]
            message = REQUESTS[signal].FromString(body)
            with lock:
                counted.add(signal, message)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http_server(Handler) as port:
        counted.url = f"http://127.0.0.1:{port}"
        yield counted


def _environment(endpoint: str, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        # The receiver keeps up, but other work may keep the machine busy for longer than 10 s.
        "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_and_event",
        "OTEL_METRIC_EXPORT_INTERVAL": "5000",
        "LLAMATELEMETRY_DIAGNOSTICS": "true",
        "LLAMATELEMETRY_EXPORTER": "otlp,prometheus",
        "LLAMATELEMETRY_LLAMACPP_PROPS": "true",
        "LLAMATELEMETRY_REDACT_PATTERNS": "pii,secrets",
        # Errors are kept at once, and the ratio keeps all other traces when they end.
        "LLAMATELEMETRY_SAMPLING": "only_errors,ratio",
        "LLAMATELEMETRY_TRACE_GRAPHS": "true",
    }


@dataclass
class Result:
    """Output of the program, and counts of the receiver.

    Attributes:
        samples: Figures of the program, in order; the last has all calls.
        sink: Counts of the receiver.
    """

    samples: list[dict[str, int]]
    sink: Sink

    @property
    def calls(self) -> int:
        """All calls, streams among them."""
        return self.samples[-1]["plain"] + self.samples[-1]["streams"]

    def losses(self) -> list[str]:
        """Return what does not have each call exactly once."""
        counts = {
            "calls in the spans received": self.sink.spans.received,
            "calls in the events received": self.sink.events.received,
            "calls in the metrics received": self.sink.measured,
            "calls in the metrics scraped": self.samples[-1]["scraped"],
        }
        found = [
            f"{what}: {n:,}, calls: {self.calls:,}" for what, n in counts.items() if n != self.calls
        ]
        for what, calls in (("spans", self.sink.spans), ("events", self.sink.events)):
            if calls.repeated:
                found.append(f"{what} received again: {calls.repeated:,}")
        return found

    def warm_up(self, share: float) -> int:
        """Return the number of samples of the warm-up: a share of them, until caches are full."""
        cold = sum(each["plain"] + each["streams"] < WARM_CALLS for each in self.samples)
        return max(int(len(self.samples) * share), cold)

    def growth(self, warm_up: int) -> list[str]:
        """Return what is higher than in all of the first `warm_up` samples.

        Memory must never be. Short-lived threads and open files come and go, so for these the
        lowest of the last samples counts.
        """
        found: list[str] = []
        for name, allowed in (("rss_kb", GROWTH_KB), ("threads", 0), ("files", 0)):
            values = [sample[name] for sample in self.samples[:-1]]
            last = values[-max(1, len(values) // 4) :]
            before, after = max(values[:warm_up]), min(last) if not allowed else max(values)
            if after > before + allowed:
                found.append(f"{name} grew from {before:,} to {after:,}")
        return found


def _send_counts(counted: Sink, program: Any) -> None:
    with suppress(OSError, ValueError):  # The program has ended.
        program.write(f"{counted.spans.received} {counted.events.received}\n")
        program.flush()


def run(seconds: float, calls: int, interval_s: float, *, in_process: bool = False) -> Result:
    """Run the program until it has made the calls, or for some seconds."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = {
        "seconds": seconds,
        "calls": calls,
        "interval-s": interval_s,
        "prometheus-port": port,
    }
    server = nullcontext("") if in_process else model_server()
    with sink() as counted, server as url:
        options["url"] = url
        command = [sys.executable, str(PROGRAM)]
        command += [f"--{name}={value}" for name, value in options.items()]
        samples: list[dict[str, int]] = []
        with subprocess.Popen(
            command,
            env=_environment(counted.url, port),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as program:
            counted.on_calls = partial(_send_counts, counted, program.stdin)
            try:
                for line in program.stdout or ():
                    samples.append(json.loads(line))
                    print(line, end="", file=sys.stderr, flush=True)
                if program.wait() != 0:
                    raise SystemExit(f"the program ended with exit status {program.returncode}")
            finally:
                program.kill()
        return Result(samples, counted)


def main() -> int:
    """Run the soak, and print its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--calls", type=int, default=1_100_000, help="calls at most")
    parser.add_argument("--interval-s", type=float, default=10, help="time between two samples")
    parser.add_argument("--warm-up", type=float, default=0.25, help="share of the samples")
    parser.add_argument("--in-process", action="store_true", help="leave out the network")
    options = parser.parse_args()
    result = run(options.seconds, options.calls, options.interval_s, in_process=options.in_process)
    last, warm_up = result.samples[-1], result.warm_up(options.warm_up)
    is_warm = warm_up < len(result.samples) - 2
    warm, end = result.samples[warm_up if is_warm else 0], result.samples[-2:][0]
    print(
        f"{last['plain']:,} plain calls and {last['streams']:,} streams: "
        f"{result.sink.spans.received:,} spans of calls, {sum(result.sink.others.values()):,} other spans, "
        f"{result.sink.events.received:,} events and {result.sink.measured:,} measurements received\n"
        f"from the warm-up to the end: memory {warm['rss_kb']:,} to {end['rss_kb']:,} kB, "
        f"threads {warm['threads']} to {end['threads']}, files {warm['files']} to {end['files']}"
    )
    failures = result.losses()
    if is_warm:
        failures += result.growth(warm_up)
    else:
        print(f"too few calls to see growth: caches are full after {WARM_CALLS:,} calls")
    grown = ", and nothing grew after the warm-up" if is_warm else ""
    print("\n".join(failures or [f"nothing was lost{grown}"]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
