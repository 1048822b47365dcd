"""The program of scripts/soak.py: makes calls without pause, and prints its resources.

Two threads and two tasks of an event loop call the server. Of four calls, one is made with the
openai client, and three with httpx2, whose calls the plugin of inference servers records. Of nine
calls, one is a stream. Some calls fail, some streams are abandoned, and the texts have something to
redact. Each line of the standard input has the numbers of spans and events of calls that the
receiver has.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import os
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import openai

import llamatelemetry

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts._soak_server import InProcessTransport

THREADS = 2
TASKS = 2
OPENAI_EVERY = 4
STREAM_EVERY = 9
FAIL_EVERY = 101
ABANDON_EVERY = 5
MODELS = 20
CHAT = "/v1/chat/completions"
MAX_AHEAD_IN_SPANS = 400
"""Calls that may be made before the receiver has their spans.

More calls would take the interpreter's time from the exporter, until its queue of 2,048 spans is
full. A call has four spans.
"""
MAX_AHEAD_IN_EVENTS = 1_500
"""How many calls the program may be ahead of the receiver, which gets one event for each call."""
_TEXT = "Write to ada@example.com about order {number}, with the key sk-{number:048d}. "


class Clients(NamedTuple):
    """The clients of the threads."""

    openai: openai.OpenAI
    http: httpx2.Client


class AsyncClients(NamedTuple):
    """The clients of the tasks."""

    openai: openai.AsyncOpenAI
    http: httpx2.AsyncClient


class Load:
    """Numbers the calls, and counts those that ended."""

    def __init__(self, until_s: float, at_most: int) -> None:
        self._until_s = until_s
        self._numbers = iter(range(at_most))
        self._lock = threading.Lock()
        self.plain: list[int] = [0] * (THREADS + TASKS)
        self.streams: list[int] = [0] * (THREADS + TASKS)
        self.received = (0, 0)

    def read_received(self) -> None:
        """Read the standard input until it ends."""
        for line in sys.stdin:
            spans, events = line.split()
            self.received = int(spans), int(events)

    @property
    def _is_ahead(self) -> bool:
        made, (spans, events) = sum(self.plain) + sum(self.streams), self.received
        return made - spans > MAX_AHEAD_IN_SPANS or made - events > MAX_AHEAD_IN_EVENTS

    def wait_for_receiver(self) -> None:
        """Wait while the receiver has to catch up."""
        while self._is_ahead and not self.is_over:
            time.sleep(0.01)

    @property
    def is_over(self) -> bool:
        """Whether no more calls are made."""
        return time.monotonic() >= self._until_s

    def numbers(self) -> Iterator[int]:
        """Yield the number of each next call, until the end of the load."""
        while not self.is_over and (number := self._next()) is not None:
            yield number

    def _next(self) -> int | None:
        with self._lock:  # In a free-threaded Python, `next` is not atomic.
            return next(self._numbers, None)

    def work(self, worker: int, clients: Clients) -> None:
        """Make calls in a thread."""
        for number in self.numbers():
            self.wait_for_receiver()
            request = _request(number)
            if number % OPENAI_EVERY == 0:
                with contextlib.suppress(openai.APIError):
                    reply: Any = clients.openai.chat.completions.create(**request)
                    if "stream" in request:
                        for _ in itertools.islice(reply, _chunks(number)):
                            pass
                        del reply
            elif "stream" in request:
                with clients.http.stream("POST", CHAT, json=request) as response:
                    for _ in itertools.islice(response.iter_lines(), _chunks(number)):
                        pass
            else:
                clients.http.post(CHAT, json=request)
            self._count(worker, request)

    async def work_async(self, worker: int, clients: AsyncClients) -> None:
        """Make calls in a task."""
        for number in self.numbers():
            if self._is_ahead:
                await asyncio.to_thread(self.wait_for_receiver)
            request = _request(number)
            if number % OPENAI_EVERY == 0:
                with contextlib.suppress(openai.APIError):
                    reply: Any = await clients.openai.chat.completions.create(**request)
                    if "stream" in request:
                        await _read(reply, _chunks(number))
                        await reply.close()
            elif "stream" in request:
                async with clients.http.stream("POST", CHAT, json=request) as response:
                    await _read(response.aiter_lines(), _chunks(number))
            else:
                await clients.http.post(CHAT, json=request)
            self._count(worker, request)

    def _count(self, worker: int, request: dict[str, Any]) -> None:
        # Each worker has its own place, so no count is lost.
        (self.streams if "stream" in request else self.plain)[worker] += 1

    def figures(self) -> dict[str, int]:
        """Return the counts, and the resources of this process."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {
            "plain": sum(self.plain),
            "streams": sum(self.streams),
            "cpu_s": round(time.process_time()),
            "rss_kb": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
            "threads": len(list(Path("/proc/self/task").iterdir())),
            # Without the one that lists the directory.
            "files": len(list(Path("/proc/self/fd").iterdir())) - 1,
        }


def _request(number: int) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model": "fails" if number % FAIL_EVERY == 0 else f"model-{number % MODELS}",
        "messages": [{"role": "user", "content": _TEXT.format(number=number)}],
        "seed": number,  # The receiver tells calls apart by it.
    }
    if number % STREAM_EVERY == 0:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return request


def _chunks(number: int) -> int:
    """Return the number of chunks that are read of a stream."""
    return 1 if number % ABANDON_EVERY == 0 else 1_000_000


async def _read(pieces: AsyncIterable[object], at_most: int) -> None:
    async for _ in pieces:
        at_most -= 1
        if not at_most:
            break


def _run(load: Load, url: str) -> None:
    """Make the calls, to the server at `url`, or without one if it is empty."""
    root = url or "http://llm.test"
    options: dict[str, Any] = {"api_key": "none", "max_retries": 0, "base_url": f"{root}/v1"}
    transport = None if url else InProcessTransport()

    async def tasks() -> None:
        async with (
            httpx2.AsyncClient(base_url=root, transport=transport) as http,
            openai.AsyncOpenAI(**options, http_client=http if transport else None) as client,
        ):
            clients = AsyncClients(client, http)
            await asyncio.gather(*(load.work_async(THREADS + n, clients) for n in range(TASKS)))

    with (
        httpx2.Client(base_url=root, transport=transport) as http,
        openai.OpenAI(**options, http_client=http if transport else None) as client,
    ):
        clients = Clients(client, http)
        workers = [threading.Thread(target=load.work, args=(n, clients)) for n in range(THREADS)]
        workers.append(threading.Thread(target=lambda: asyncio.run(tasks())))
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


def main() -> None:
    """Make the calls, and print the figures as lines of JSON; the last line has all of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="", help="URL of the server; in this process if empty")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--interval-s", type=float, required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--prometheus-port", type=int, required=True)
    options = parser.parse_args()
    if not options.url:
        # No call waits for a socket, so threads would only take the interpreter lock from each other.
        sys.setswitchinterval(0.1)
    llamatelemetry.init("soak")
    load = Load(time.monotonic() + options.seconds, options.calls)
    threading.Thread(target=load.read_received, daemon=True).start()
    runner = threading.Thread(target=_run, args=(load, options.url))
    runner.start()
    while runner.is_alive():
        runner.join(options.interval_s)
        if runner.is_alive():
            print(json.dumps(load.figures()), flush=True)
    # Abandoned streams are found by the garbage collector.
    gc.collect()
    flushed = llamatelemetry.flush(60)
    with urllib.request.urlopen(f"http://127.0.0.1:{options.prometheus_port}/metrics") as page:
        metrics = page.read().decode()
    count = "gen_ai_client_operation_duration_seconds_count"
    scraped = sum(
        float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(count)
    )
    print(json.dumps(load.figures() | {"flushed": flushed, "scraped": int(scraped)}), flush=True)


if __name__ == "__main__":
    main()
