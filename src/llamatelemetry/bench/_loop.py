"""An event loop for the benchmark alone, beside whatever the program does itself."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


class LoopThread:
    """An event loop in a thread of its own: a notebook has one running in its main thread already."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="llamatelemetry-bench", daemon=True
        )

    def __enter__(self) -> LoopThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine, in the caller's context, and wait for it.

        Raises:
            KeyboardInterrupt: Ctrl-C; the coroutine was cancelled and has ended.
        """
        context = contextvars.copy_context()
        ended = threading.Event()
        tasks: list[asyncio.Task[Any]] = []

        def start() -> None:
            task = self._loop.create_task(work, context=context)
            tasks.append(task)
            task.add_done_callback(lambda _: ended.set())

        self._loop.call_soon_threadsafe(start)
        try:
            while not ended.wait(0.2):
                pass
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
            ended.wait()
            raise
        return tasks[0].result()
