"""Streams of text, while a separate thread runs the model."""

from __future__ import annotations

import contextvars
import queue
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from llamatelemetry.transformers._recording import RecordedCall
    from llamatelemetry.transformers._running import Run


class TextStream:
    """Iterator over chunks of a text. Closing or dropping it stops the model at its next token.

    Args:
        make_run: Function that creates the run, given the function that receives its chunks.
        call: Call to record. It ends with the run, not with its reader.
    """

    def __init__(
        self, make_run: Callable[[Callable[[str], None]], Run], call: RecordedCall
    ) -> None:
        self._pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        self._run = make_run(self._pieces.put)
        call.watch(self._run)
        # Spans of the model's work become children of the current span.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run,
            args=(_execute, self._run, call, self._pieces),
            name="llamatelemetry-generate",
            daemon=True,
        )
        self._thread.start()
        self._ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        piece = self._pieces.get()
        if isinstance(piece, str):
            return piece
        self._ended = True
        self._thread.join()
        raise StopIteration if piece is None else piece

    def close(self) -> None:
        """Stop the model and wait until it has stopped."""
        self._run.cancelled.append(None)
        self._thread.join()
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # This must not block: the garbage collector may run it anywhere.
        run = getattr(self, "_run", None)
        if run is not None:
            run.cancelled.append(None)


def _execute(
    run: Run, call: RecordedCall, pieces: queue.SimpleQueue[str | BaseException | None]
) -> None:
    try:
        with call:
            run.execute()
    except BaseException as error:
        call.fail(error, run)
        pieces.put(error)
    else:
        call.finish(run)
        pieces.put(None)
