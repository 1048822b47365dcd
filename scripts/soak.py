"""Make calls for minutes with every feature on, and check that nothing grows and nothing is lost.

`make soak` takes ten minutes: `scripts/soak.py --seconds 600`. The program under test calls a
scripted server, and exports to a receiver that keeps up. Both are in this process. Exits with 1
unless, after the warm-up, memory stays within 5 MB, threads and descriptors are constant, and each
call is in the spans, the events and the metrics once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from llamatelemetry.semconv.attributes import GEN_AI_REQUEST_MODEL, PHASE  # noqa: E402
from tests.support.http_server import http_server  # noqa: E402
from tests.support.otlp_receiver import REQUESTS  # noqa: E402

PROGRAM = Path(__file__).with_name("_soak_program.py")
GROWTH_KB = 5 * 1024
WARM_CALLS = 10_000
_USAGE = {"prompt_tokens": 40, "completion_tokens": 4, "total_tokens": 44}
_TIMINGS = {"cache_n": 0, "prompt_n": 40, "prompt_ms": 8.0, "predicted_n": 4, "predicted_ms": 6.0}
_HEAD = "HTTP/1.1 {status}\r\nServer: llama.cpp\r\nContent-Type: {kind}\r\n{length}\r\n\r\n"


@dataclass
class Sink:
    """Counts of the receiver. Spans are those of calls, not of their phases."""

    url: str = ""
    spans: int = 0
    events: int = 0
    measured: int = 0
    others: Counter[str] = field(default_factory=Counter[str])

    def add(self, signal: str, message: Any) -> None:
        """Count the items of one request."""
        if signal == "metrics":
            for metric in _items(message.resource_metrics, "scope_metrics", "metrics"):
                if metric.name == "gen_ai.client.operation.duration":
                    self.measured = sum(point.count for point in metric.histogram.data_points)
        elif signal == "traces":
            for span in _items(message.resource_spans, "scope_spans", "spans"):
                # Not by the name: redaction replaces all of it if a pattern takes too long.
                keys = {attribute.key for attribute in span.attributes}
                if GEN_AI_REQUEST_MODEL in keys and PHASE not in keys:
                    self.spans += 1
                else:
                    self.others[span.name] += 1
        else:
            for record in _items(message.resource_logs, "scope_logs", "log_records"):
                self.events += record.event_name == "gen_ai.client.inference.operation.details"


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


def response(model: str, *, stream: bool) -> bytes:
    """Return the bytes of a response of llama.cpp."""
    if model == "fails":
        body = b'{"error": {"message": "out of memory", "type": "server_error", "code": 500}}'
        kind, status = "application/json", "500 Internal Server Error"
    elif not stream:
        message = {"role": "assistant", "content": "Sent to ada@example.com."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        reply = _reply(model, "chat.completion", choice)
        body = json.dumps({**reply, "usage": _USAGE, "timings": _TIMINGS}).encode()
        kind, status = "application/json", "200 OK"
    else:
        words = ["Sent ", "to ", "ada@example.com", "."]
        choices = [{"index": 0, "delta": {"content": w}, "finish_reason": None} for w in words]
        choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        chunks = [_reply(model, "chat.completion.chunk", choice) for choice in choices]
        end = {**chunks[-1], "choices": [], "usage": _USAGE, "timings": _TIMINGS}
        lines = [json.dumps(chunk) for chunk in (*chunks, end)]
        body = "".join(f"data: {line}\n\n" for line in (*lines, "[DONE]")).encode()
        kind, status = "text/event-stream", "200 OK"
    head = _HEAD.format(status=status, kind=kind, length=f"Content-Length: {len(body)}")
    return head.encode() + body


def _reply(model: str, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c", "object": kind, "created": 1, "model": model, "choices": [choice]}


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            _, _, length = head.lower().partition(b"content-length:")
            if not length:  # GET /props
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            request = json.loads(await reader.readexactly(int(length.split(b"\r\n")[0])))
            writer.write(response(request["model"], stream=bool(request.get("stream"))))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        writer.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    connections = asyncio.all_tasks() - {asyncio.current_task()}
    for connection in connections:
        connection.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


@contextmanager
def model_server() -> Iterator[str]:
    """Run the scripted server, and yield its URL."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(_serve, "127.0.0.1", 0, backlog=4096))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(_stop(server))
        loop.close()


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
            "spans received": self.sink.spans,
            "events received": self.sink.events,
            "calls in the metrics received": self.sink.measured,
            "calls in the metrics scraped": self.samples[-1]["scraped"],
        }
        return [
            f"{what}: {n:,}, calls: {self.calls:,}" for what, n in counts.items() if n != self.calls
        ]

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


def run(seconds: float, calls: int, interval_s: float) -> Result:
    """Run the program until it has made the calls, or for some seconds."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = {
        "seconds": seconds,
        "calls": calls,
        "interval-s": interval_s,
        "prometheus-port": port,
    }
    with sink() as counted, model_server() as url:
        command = [sys.executable, str(PROGRAM), url]
        command += [f"--{name}={value}" for name, value in options.items()]
        samples: list[dict[str, int]] = []
        with subprocess.Popen(
            command, env=_environment(counted.url, port), stdout=subprocess.PIPE, text=True
        ) as program:
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
    options = parser.parse_args()
    result = run(options.seconds, options.calls, options.interval_s)
    last, warm_up = result.samples[-1], result.warm_up(options.warm_up)
    is_warm = warm_up < len(result.samples) - 2
    warm, end = result.samples[warm_up if is_warm else 0], result.samples[-2:][0]
    print(
        f"{last['plain']:,} plain calls and {last['streams']:,} streams: "
        f"{result.sink.spans:,} spans of calls, {sum(result.sink.others.values()):,} other spans, "
        f"{result.sink.events:,} events and {result.sink.measured:,} measurements received\n"
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
