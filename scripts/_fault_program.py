"""The application of scripts/fault_table.py: `_fault_program.py SITUATION URL` makes calls.

With the variable RECORDED it sets llamatelemetry up first. It prints what it saw of its calls, as a
line of JSON: kinds of results, or classes of exceptions.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx2
import openai

import llamatelemetry

CALLS = 10
PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Count to a hundred."}]
BODY = {"model": "smol", "messages": MESSAGES}
STREAM = {**BODY, "stream": True}
CONCURRENT = int(os.environ.get("CONCURRENT", "1000"))


class Application:
    """Makes calls to one server, and counts what it saw."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: Counter[str] = Counter()
        self.client = openai.OpenAI(
            base_url=f"{url}/v1",
            api_key="none",
            max_retries=0,
            timeout=float(os.environ["TIMEOUT"]),
        )

    def attempt(self, call: Callable[[], str]) -> None:
        """Count the result of a call, or the class of its exception."""
        try:
            self.seen[call()] += 1
        except Exception as error:
            self.seen[type(error).__name__] += 1

    def plain(self) -> str:
        """Make a call without a stream."""
        self.client.chat.completions.create(model="smol", messages=MESSAGES, max_tokens=8)
        return "response"

    def open_stream(self, tokens: int = 8) -> Any:
        """Open a stream."""
        return self.client.chat.completions.create(
            model="smol", messages=MESSAGES, stream=True, max_tokens=tokens
        )

    def stream(self) -> str:
        """Read a stream to its end."""
        return "stream" if list(self.open_stream()) else "empty stream"

    async def stream_async(self, client: httpx2.AsyncClient) -> None:
        """Read a stream of an asynchronous client to its end."""
        try:
            async with client.stream("POST", f"{self.url}{PATH}", json=STREAM) as response:
                async for _ in response.aiter_lines():
                    pass
            self.seen["stream"] += 1
        except Exception as error:
            self.seen[type(error).__name__] += 1

    async def streams_async(self, count: int = CALLS) -> None:
        """Read streams at the same time, in tasks of asyncio."""
        # The connection pool of a client takes quadratic time.
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(httpx2.AsyncClient(timeout=300))
                for _ in range(0, count, 100)
            ]
            streams = (self.stream_async(clients[n // 100]) for n in range(count))
            await asyncio.gather(*streams)


def calls(app: Application) -> None:
    """Make plain calls and streams."""
    for _ in range(CALLS // 2):
        app.attempt(app.plain)
        app.attempt(app.stream)


def interrupted_server(app: Application) -> None:
    """Stop or kill the server in the middle of a stream, then call it again."""
    number, pid = int(os.environ["SIGNAL"]), int(os.environ["SERVER_PID"])

    def read() -> str:
        stream = iter(app.open_stream(tokens=900))
        next(stream)
        os.kill(pid, number)
        for _ in stream:
            pass
        return "stream"

    app.attempt(app.stream)
    app.attempt(read)
    app.attempt(app.plain)
    if number == signal.SIGSTOP:
        os.kill(pid, signal.SIGCONT)


def clock_step(app: Application) -> None:
    """Set the clock back by an hour, or forward, in the middle of a stream."""
    step_clock = ctypes.CDLL(None).step_clock  # of the preloaded library
    for step_s in (-3600, 7200):
        stream = iter(app.open_stream())
        next(stream)
        step_clock(ctypes.c_long(step_s))
        app.attempt(lambda stream=stream: "stream" if list(stream) else "empty stream")


def signal_exception(app: Application) -> None:
    """Raise an exception from a signal handler in the middle of calls."""

    def on_alarm(*_: object) -> None:
        raise TimeoutError

    app.attempt(app.stream)  # Imports of the first call take long.
    signal.signal(signal.SIGALRM, on_alarm)
    for index in range(CALLS):
        signal.setitimer(signal.ITIMER_REAL, 0.002 * (index + 1))
        try:
            app.attempt(app.stream)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except TimeoutError:  # It arrived after the call.
            app.seen["TimeoutError"] += 1
    app.seen = Counter({"stream or an exception": app.seen.total()})


def terminated(app: Application) -> None:
    """End by SIGTERM in the middle of a stream."""
    calls(app)
    stream = iter(app.open_stream())
    next(stream)
    _print(app)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def ends_in_stream(app: Application) -> None:
    """End the program while two streams are open, one of them in a daemon thread."""
    kept = iter(app.open_stream())
    next(kept)
    vars(sys.modules[__name__])["kept"] = kept
    started = threading.Event()

    def read() -> None:
        for _ in app.open_stream():
            started.set()
            time.sleep(0.2)

    threading.Thread(target=read, daemon=True).start()
    started.wait()
    app.seen["open stream"] = 2


def fork_in_call(app: Application) -> None:
    """Create a child by a fork in the middle of a stream. The child makes a call of its own."""
    stream = iter(app.open_stream())
    next(stream)
    child = os.fork()
    if child == 0:
        own = Application(app.url)
        own.attempt(own.plain)
        sys.exit(0 if own.seen["response"] else 1)
    app.attempt(lambda: "stream" if list(stream) else "empty stream")
    status = os.waitpid(child, 0)[1]
    app.seen["response"] += status == 0


def threads_at_exit(app: Application) -> None:
    """End the main thread while other threads still make calls."""
    threads = [threading.Thread(target=calls, args=(app,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    # Runs after the main thread has ended.
    waiter = threading.Thread(target=lambda: ([t.join() for t in threads], _print(app)))
    waiter.start()


def recursion_limit(app: Application) -> None:
    """Make a call with ever fewer frames left, until it fails."""

    def at(depth: int) -> str:
        return app.plain() if depth == 0 else at(depth - 1)

    app.attempt(app.plain)  # Imports of the first call need more frames.
    left = sys.getrecursionlimit() - 20
    for depth in range(100, left, 10):
        before = Counter(app.seen)
        app.attempt(lambda depth=depth: at(depth))
        if app.seen - before == Counter({"RecursionError": 1}):
            print(json.dumps({"frames": sys.getrecursionlimit() - depth}))
            break
    app.attempt(app.plain)
    app.seen = Counter(dict.fromkeys(app.seen, 1))  # The number of steps may differ.


def many_streams(app: Application) -> None:
    """Read thousands of streams at the same time."""
    asyncio.run(app.streams_async(CONCURRENT))


def closed_loop(app: Application) -> None:
    """Close an event loop whose tasks have open streams, then collect the garbage."""
    loop = asyncio.new_event_loop()

    async def start() -> Any:
        client = openai.AsyncOpenAI(base_url=f"{app.url}/v1", api_key="none", max_retries=0)
        stream: Any = await client.chat.completions.create(
            model="smol", messages=MESSAGES, stream=True
        )
        await anext(aiter(stream))
        return client, stream

    kept = [loop.run_until_complete(start()) for _ in range(CALLS)]
    loop.close()
    app.seen["open stream"] = len(kept)
    del kept
    gc.collect()
    app.attempt(app.plain)


def nested_loops(app: Application) -> None:
    """Run an event loop inside a running one, with nest_asyncio."""
    importlib.import_module("nest_asyncio").apply()

    async def outer() -> None:
        asyncio.run(app.streams_async())

    asyncio.run(outer())


def uvloop(app: Application) -> None:
    """Read streams in a loop of uvloop."""
    importlib.import_module("uvloop").run(app.streams_async())


def trio(app: Application) -> None:
    """Read streams in tasks of trio."""
    library: Any = importlib.import_module("trio")

    async def main() -> None:
        async with httpx2.AsyncClient(timeout=60) as client, library.open_nursery() as nursery:
            for _ in range(CALLS):
                nursery.start_soon(app.stream_async, client)

    library.run(main)


def greenlets(app: Application) -> None:
    """Make calls in greenlets of gevent, or of eventlet."""
    if os.environ["GREEN"] == "gevent":
        gevent: Any = importlib.import_module("gevent")
        gevent.joinall([gevent.spawn(app.attempt, app.stream) for _ in range(CALLS)])
    else:
        pool = importlib.import_module("eventlet").GreenPool()
        for _ in range(CALLS):
            pool.spawn(app.attempt, app.stream)
        pool.waitall()


def _print(app: Application) -> None:
    print(json.dumps(dict(sorted(app.seen.items()))), flush=True)


def main(situation: str, url: str) -> None:
    """Make the calls of a situation."""
    if os.environ.get("RECORDED"):
        llamatelemetry.init("faults")
    app = Application(url)
    globals()[situation](app)
    if situation not in ("terminated", "threads_at_exit"):
        _print(app)
    if "LIMIT_S" in os.environ:
        limit_s = float(os.environ["LIMIT_S"])
        for end in (llamatelemetry.flush, llamatelemetry.shutdown):
            started = time.monotonic()
            with contextlib.suppress(Exception):
                end(limit_s)
            print(json.dumps({end.__name__: time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
