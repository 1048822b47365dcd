"""One process of `under_load.py`: threads or tasks that call a server without pause, in turns.

Each line on standard input has the seconds of one turn that are not measured, and those that are.
The answer is a line of JSON with the latencies of the calls that ended while it measured, and the
CPU time of this process per call of the turn. The client is instrumented and telemetry is exported,
as the environment says, unless the last argument is `without`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from typing import Any

import httpx2
import openai

_TIMEOUT_S = 300
_TASKS_OF_CLIENT = 50
_HTTP: dict[str, Any] = {
    "limits": httpx2.Limits(max_connections=None, keepalive_expiry=None),
    "timeout": _TIMEOUT_S,
}
_REQUEST: dict[str, Any] = {
    "model": "smol",
    "messages": [{"role": "user", "content": "Write to ada@example.com: the order is on its way."}],
    "max_tokens": 16,
    "stream": False,
}


class Turn:
    """The calls of one turn."""

    def __init__(self, warm_s: float, measured_s: float) -> None:
        self.started_s = time.monotonic() + warm_s
        self.ends_s = self.started_s + measured_s
        self.latencies_ms: list[float] = []
        self.calls = 0

    @property
    def is_over(self) -> bool:
        """Whether no more calls are made."""
        return time.monotonic() >= self.ends_s

    def add(self, began_s: float) -> None:
        """Add a call that has ended now."""
        ended_s = time.monotonic()
        self.calls += 1
        if self.started_s <= ended_s < self.ends_s:
            self.latencies_ms.append((ended_s - began_s) * 1000)


def in_threads(count: int, url: str, request: dict[str, Any]) -> None:
    """Make the calls of each turn in threads."""
    client = openai.OpenAI(**_options(url), http_client=httpx2.Client(**_HTTP))

    def work(turn: Turn) -> None:
        while not turn.is_over:
            began_s = time.monotonic()
            reply = client.chat.completions.create(**request)
            for _ in reply if request["stream"] else ():
                pass
            turn.add(began_s)

    for turn in _turns():
        threads = [threading.Thread(target=work, args=(turn,)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


async def in_tasks(count: int, url: str, request: dict[str, Any]) -> None:
    """Make the calls of each turn in tasks of one event loop."""
    # The time of a request in a pool of httpx2 grows with the number of its connections.
    clients = [
        openai.AsyncOpenAI(**_options(url), http_client=httpx2.AsyncClient(**_HTTP))
        for _ in range(0, count, _TASKS_OF_CLIENT)
    ]

    async def work(turn: Turn, client: openai.AsyncOpenAI) -> None:
        while not turn.is_over:
            began_s = time.monotonic()
            reply = await client.chat.completions.create(**request)
            if request["stream"]:
                async for _ in reply:
                    pass
            turn.add(began_s)

    for turn in _turns():
        await asyncio.gather(
            *(work(turn, clients[number // _TASKS_OF_CLIENT]) for number in range(count))
        )


def _options(url: str) -> dict[str, Any]:
    return {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0, "timeout": _TIMEOUT_S}


def _turns() -> Any:
    for line in sys.stdin:
        turn, cpu_s = Turn(*map(float, line.split())), time.process_time()
        yield turn
        cpu_ms = 1000 * (time.process_time() - cpu_s) / turn.calls
        print(json.dumps({"latencies_ms": turn.latencies_ms, "cpu_ms": cpu_ms}), flush=True)


def main() -> None:
    """Run the turns until standard input ends."""
    kind, count, url, mode, instrumentation = sys.argv[1:]
    if instrumentation != "without":
        # The process without it must not load it either.
        import llamatelemetry

        llamatelemetry.init("under-load")
    request = {**_REQUEST, "stream": mode == "stream"}
    if kind == "tasks":
        asyncio.run(in_tasks(int(count), url, request))
    else:
        in_threads(int(count), url, request)


if __name__ == "__main__":
    main()
