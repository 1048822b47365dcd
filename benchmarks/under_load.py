"""Latency and throughput of a saturated server, without and with llamatelemetry.

64 threads, 1,000 tasks of an event loop, or 8 processes of 8 threads call a server without pause.
The server is in its own process and has 8 slots, each of which a call holds for 80 ms, so that it
completes 100 calls per second. With `--model`, the server is llama.cpp with one slot and a small
model, whose streams 8 threads read. The contenders are the client alone, llamatelemetry with its
defaults, and llamatelemetry with every feature that needs time on the thread of the call. Both
export over OTLP to a receiver in another process.

The processes of all contenders exist at the same time and take turns of some seconds in random
order. The table has medians over the rounds; a difference or ratio is between two turns of one
round, and its range is the lowest and the highest of all rounds. CPU time is that of the processes
of a contender per call, with the export.

    python benchmarks/under_load.py [--rounds 8] [--only "64 threads"] [--model]
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamatelemetry.llama import ServerConfig, ServerManager
from llamatelemetry.llama.embedded import find_demo_model

WORKER = Path(__file__).with_name("_load_worker.py")
SLOTS, HOLD_S = 8, 0.08
_TIMINGS = {"cache_n": 0, "prompt_n": 21, "prompt_ms": 10, "predicted_n": 5, "predicted_ms": 30}
_MESSAGE = {"role": "assistant", "content": "Written to ada@example.com, as you wanted."}
_REPLY = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "smol",
    "choices": [{"index": 0, "finish_reason": "stop", "message": _MESSAGE}],
    "usage": {"prompt_tokens": 21, "completion_tokens": 5, "total_tokens": 26},
    "timings": _TIMINGS,
}
_DEFAULTS = {"LLAMATELEMETRY_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
CONTENDERS: dict[str, dict[str, str]] = {
    "without": {},
    "with": _DEFAULTS,
    "everything on": {
        **_DEFAULTS,
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_and_event",
        "LLAMATELEMETRY_DIAGNOSTICS": "true",
        "LLAMATELEMETRY_REDACT_PATTERNS": "pii,secrets",
        "LLAMATELEMETRY_SAMPLING": "only_errors,ratio",
        "LLAMATELEMETRY_TRACE_GRAPHS": "true",
    },
}


@dataclass(frozen=True)
class Load:
    """Who calls the server.

    Attributes:
        name: Name of the load.
        kind: `threads` or `tasks`.
        processes: Number of processes.
        concurrency: Threads or tasks of a process.
        warm_s: Seconds of a turn that are not measured, until each caller has had a response.
        measured_s: Seconds of a turn that are measured.
        mode: `plain` or `stream`.
    """

    name: str
    kind: str
    processes: int
    concurrency: int
    warm_s: float
    measured_s: float
    mode: str = "plain"


LOADS = (
    Load("64 threads", "threads", 1, 64, 1, 6),
    Load("1,000 tasks", "tasks", 1, 1000, 11, 6),
    Load("8 processes", "threads", 8, 8, 1, 6),
)
MODEL_LOAD = Load("llama.cpp, 8 threads", "threads", 1, 8, 3, 12, "stream")


def serve(listener: socket.socket, seconds_of_next: Callable[[], float] | None) -> None:
    """Respond to each POST request on any connection, at once or after some seconds."""
    body = json.dumps(_REPLY).encode()
    head = "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: application/json\r\n"
    response = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    if seconds_of_next is None:  # The receiver of telemetry.
        response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                if seconds_of_next is not None:
                    await asyncio.sleep(seconds_of_next())
                writer.write(response)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        async with await asyncio.start_server(answer, sock=listener) as server:
            await server.serve_forever()

    asyncio.run(run())


class Slots:
    """The times at which the slots of the server are free. A call takes the first one.

    A slot is free at its time even if the process was late, so that a busy machine does not change
    how many calls per second the server completes.
    """

    def __init__(self) -> None:
        self._free_s = [0.0] * SLOTS

    def __call__(self) -> float:
        """Take a slot, and return the seconds until the call has ended."""
        now_s = asyncio.get_running_loop().time()
        ends_s = max(now_s, self._free_s[0]) + HOLD_S
        heapq.heapreplace(self._free_s, ends_s)
        return ends_s - now_s


@contextmanager
def server(seconds_of_next: Callable[[], float] | None) -> Iterator[str]:
    """Run a server in another process, and yield its URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        process = multiprocessing.get_context("fork").Process(
            target=serve, args=(listener, seconds_of_next)
        )
        process.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.terminate()
            process.join()


class Contender:
    """The processes of a contender for one load, and the figures of their turns."""

    def __init__(self, name: str, load: Load, url: str, receiver: str) -> None:
        self._load = load
        command = [sys.executable, str(WORKER), load.kind, str(load.concurrency), url, load.mode]
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver}
        self._processes = [
            subprocess.Popen(
                [*command, name],
                env={**os.environ, **endpoint, **CONTENDERS[name]},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(load.processes)
        ]
        self.figures: dict[str, list[float]] = {"p50": [], "p99": [], "per_s": [], "cpu_ms": []}

    def turn(self, *, keep: bool) -> None:
        """Make calls for the seconds of the load, and keep the figures if `keep`."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{self._load.warm_s} {self._load.measured_s}\n")
            process.stdin.flush()
        answers: list[dict[str, Any]] = []
        for process in self._processes:
            assert process.stdout is not None
            answers.append(json.loads(process.stdout.readline()))
        if not keep:
            return
        latencies = sorted(each for answer in answers for each in answer["latencies_ms"])
        quantiles = statistics.quantiles(latencies, n=100, method="inclusive")
        self.figures["p50"].append(quantiles[49])
        self.figures["p99"].append(quantiles[98])
        self.figures["per_s"].append(len(latencies) / self._load.measured_s)
        self.figures["cpu_ms"].append(statistics.mean(each["cpu_ms"] for each in answers))

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.communicate()


def measure(load: Load, url: str, receiver: str, rounds: int) -> dict[str, Contender]:
    """Run the rounds of a load. The first one is not kept."""
    contenders = {name: Contender(name, load, url, receiver) for name in CONTENDERS}
    order = list(contenders.values())
    for number in range(-1, rounds):
        random.shuffle(order)
        for contender in order:
            contender.turn(keep=number >= 0)
    for contender in order:
        contender.close()
    return contenders


def print_rows(load: Load, contenders: dict[str, Contender]) -> None:
    """Print the rows of a load."""
    bare = contenders["without"].figures
    for name, contender in contenders.items():
        figures = contender.figures
        row = f"{load.name:<22}{name:<15}"
        for key, digits in (("p50", 1), ("p99", 1), ("per_s", 1), ("cpu_ms", 2)):
            row += f"{statistics.median(figures[key]):>9.{digits}f}"
        if name != "without":
            for key in ("p50", "p99"):
                added = [a - b for a, b in zip(figures[key], bare[key], strict=True)]
                row += _with_range(added, "+.1f", 26)
            ratios = [a / b for a, b in zip(figures["per_s"], bare["per_s"], strict=True)]
            row += _with_range(ratios, ".3f", 24)
        print(row, flush=True)


def _with_range(values: list[float], style: str, width: int) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):{style}} ({low:{style}} to {high:{style}})".rjust(width)


@contextmanager
def model_server() -> Iterator[str]:
    """Run llama.cpp's server with one slot and one thread, and yield its URL."""
    config = ServerConfig(find_demo_model(), port=0, n_parallel=1, n_ctx=512, threads=1)
    with ServerManager(config, binary="embedded") as running:
        yield running.url


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", default="", help="loads whose names have this text")
    parser.add_argument("--model", action="store_true", help="call llama.cpp with a small model")
    options = parser.parse_args()
    print(
        f"{'':<37}{'p50, ms':>9}{'p99, ms':>9}{'calls/s':>9}{'CPU, ms':>9}"
        f"{'added p50 (range)':>26}{'added p99 (range)':>26}{'calls/s, ratio':>24}"
    )
    with ExitStack() as stack:
        receiver = stack.enter_context(server(None))
        url = stack.enter_context(model_server() if options.model else server(Slots()))
        loads = (MODEL_LOAD,) if options.model else LOADS
        for load in (each for each in loads if options.only in each.name):
            print_rows(load, measure(load, url, receiver, options.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
