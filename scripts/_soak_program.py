"""The program of scripts/soak.py: makes calls without pause, and prints its resources.

Three threads and four tasks of an event loop call the server. Of eleven calls, one is a stream.
Some calls fail, some streams are abandoned, and the texts have something to redact.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai

import llamatelemetry

THREADS = 3
TASKS = 4
STREAM_EVERY = 11
FAIL_EVERY = 101
ABANDON_EVERY = 5
MODELS = 20
_TEXT = "Write to ada@example.com about order {number}, with the key sk-{number:048d}. "


class Load:
    """Numbers the calls, and counts those that ended."""

    def __init__(self, until_s: float, at_most: int) -> None:
        self._until_s = until_s
        self._numbers = iter(range(at_most))
        self._lock = threading.Lock()
        self.plain: list[int] = [0] * (THREADS + TASKS)
        self.streams: list[int] = [0] * (THREADS + TASKS)

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

    def work(self, worker: int, client: openai.OpenAI) -> None:
        """Make calls in a thread."""
        for number in self.numbers():
            request = _request(number)
            with contextlib.suppress(openai.APIError):
                reply: Any = client.chat.completions.create(**request)
                if "stream" in request:
                    for _ in itertools.islice(reply, _chunks(number)):
                        pass
                    del reply
            self._count(worker, request)

    async def work_async(self, worker: int, client: openai.AsyncOpenAI) -> None:
        """Make calls in a task."""
        for number in self.numbers():
            request = _request(number)
            with contextlib.suppress(openai.APIError):
                reply: Any = await client.chat.completions.create(**request)
                if "stream" in request:
                    left = _chunks(number)
                    async for _ in reply:
                        left -= 1
                        if not left:
                            break
                    await reply.close()
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
            "rss_kb": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
            "threads": len(list(Path("/proc/self/task").iterdir())),
            # Without the one that lists the directory.
            "files": len(list(Path("/proc/self/fd").iterdir())) - 1,
        }


def _request(number: int) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model": "fails" if number % FAIL_EVERY == 0 else f"model-{number % MODELS}",
        "messages": [{"role": "user", "content": _TEXT.format(number=number)}],
    }
    if number % STREAM_EVERY == 0:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return request


def _chunks(number: int) -> int:
    """Return the number of chunks that are read of a stream."""
    return 1 if number % ABANDON_EVERY == 0 else 1_000_000


def _run(load: Load, url: str) -> None:
    async def tasks() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            await asyncio.gather(*(load.work_async(THREADS + n, client) for n in range(TASKS)))

    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        workers = [threading.Thread(target=load.work, args=(n, client)) for n in range(THREADS)]
        workers.append(threading.Thread(target=lambda: asyncio.run(tasks())))
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


def main() -> None:
    """Make the calls, and print the figures as lines of JSON; the last line has all of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--interval-s", type=float, required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--prometheus-port", type=int, required=True)
    options = parser.parse_args()
    llamatelemetry.init("soak")
    load = Load(time.monotonic() + options.seconds, options.calls)
    runner = threading.Thread(target=_run, args=(load, f"{options.url}/v1"))
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
