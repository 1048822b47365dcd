"""Program of `instruction_counts.py`: calls of an openai client, without and with llamatelemetry.

It runs under callgrind. Its arguments are the library that starts and ends the counting, and the
numbers of calls and of chunks.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import Any

from _dropping import providers
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from openai_overhead import client, plain_body, stream_body

WARM_UP = 20  # The first calls import modules, fill caches and let the interpreter specialize.
MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]


def works(calls: int, chunks: int) -> dict[str, Callable[[], object]]:
    """Return the work to count, by name."""
    plain = client(plain_body(None), "application/json")

    def call() -> None:
        for _ in range(calls):
            plain.chat.completions.create(model="smol", messages=MESSAGES)

    def stream(chunks: int) -> Callable[[], object]:
        create = client(stream_body(chunks), "text/event-stream").chat.completions.create
        return lambda: list(create(model="smol", messages=MESSAGES, stream=True))

    return {"calls": call, "short stream": stream(1), "stream": stream(1 + chunks)}


def count(counter: Any, name: str, work: Callable[[], object]) -> None:
    """Count the instructions of the work. callgrind writes them to a file of this name."""
    # A collection would examine all objects of the process, at a moment that varies.
    gc.collect()
    gc.disable()
    counter.start()
    work()
    counter.stop(name.encode())
    gc.enable()


def main() -> None:
    """Count the work of the bare client, then that of the instrumented one."""
    library, calls, chunks = sys.argv[1:]
    counter = ctypes.CDLL(library)
    instrumentor = OpenAIInstrumentor()
    warm_up, work = works(WARM_UP, WARM_UP), works(int(calls), int(chunks))
    for kind in ("bare", "instrumented"):
        if kind == "instrumented":
            instrumentor.instrument(**providers())
        for name in work:
            warm_up[name]()
            count(counter, f"{kind} {name}", work[name])


if __name__ == "__main__":
    main()
