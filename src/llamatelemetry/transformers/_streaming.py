"""The text of an answer, piece by piece, while a thread of its own runs the model."""

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
    """An iterator over the pieces of a text. Closed or dropped, it stops the model at its next token.

    Args:
        make_run: makes the run, given what takes its pieces.
        call: is recorded; it ends with the run, and not with the reading of it.
    """

    def __init__(
        self, make_run: Callable[[Callable[[str], None]], Run], call: RecordedCall
    ) -> None:
        self._pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        self._run = make_run(self._pieces.put)
        call.watch(self._run)
        # Spans that the model's work makes are children of what is current here.
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
        """Stop the model, and wait until it has stopped."""
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
        # Nothing here may wait: this runs wherever the collector happens to.
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
