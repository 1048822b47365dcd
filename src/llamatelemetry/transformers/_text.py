"""The text of a running generation: incremental decoding, and the stream that the caller reads."""

from __future__ import annotations

import contextvars
import queue
import threading
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamatelemetry.transformers._recorder import BackendCall
    from llamatelemetry.transformers._running import GenerationRun

# The replacement character, which decoders return for a character with missing bytes.
_INCOMPLETE: Final = "�"


class IncrementalDecoder:
    """Decodes the tokens of one text, and ends it before a stop sequence.

    It holds back text that may be the beginning of a stop sequence, and characters with missing
    bytes. A stop sequence may begin and end within tokens.
    """

    __slots__ = ("_from", "_held", "_read", "_stops", "_tokenizer", "stopped", "tokens")

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self.tokens: list[int] = []
        self.stopped = False
        self._from = 0  # Tokens before this index are not decoded again.
        self._read = 0  # The text of the tokens before this index was returned.
        self._held = ""

    def feed(self, tokens: Sequence[int]) -> str:
        """Add tokens and return the text that they complete, which may be empty."""
        if self.stopped:
            return ""
        self.tokens.extend(tokens)
        # Some decoders treat the first token of a text differently. So the previous tokens are
        # decoded again in front of the new ones, and their text is removed.
        before = self._decode(self._from, self._read)
        text = self._decode(self._from, None)
        if len(text) <= len(before) or text.endswith(_INCOMPLETE):
            return ""
        self._from, self._read = self._read, len(self.tokens)
        return self._release(text[len(before) :])

    def finish(self) -> str:
        """End the text. Return the part that was held back."""
        if self.stopped:
            return ""
        text = self._decode(self._from, None)[len(self._decode(self._from, self._read)) :]
        self._from = self._read = len(self.tokens)
        shown = self._release(text)
        held, self._held = self._held, ""
        return shown + ("" if self.stopped else held)

    def _decode(self, start: int, end: int | None) -> str:
        return self._tokenizer.decode(
            self.tokens[start:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _release(self, text: str) -> str:
        self._held += text
        at = find_stop(self._held, self._stops)
        if at is not None:
            self.stopped = True
            shown, self._held = self._held[:at], ""
            return shown
        keep = _longest_partial_stop(self._held, self._stops)
        shown, self._held = self._held[: len(self._held) - keep], self._held[-keep:] if keep else ""
        return shown


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Return the start of the stop sequence that ends first, the longest one if several do.

    With this rule the text does not depend on how it is split into chunks.
    """
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def _longest_partial_stop(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest suffix of `text` that is a prefix of a stop sequence."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest


class TextStream:
    """Iterator over the chunks of a text that a thread generates.

    Closing or deleting it stops the model at its next token. The call is recorded until the model
    stops, even if the stream is not read.

    Examples:
        >>> from llamatelemetry.transformers import TransformersBackend
        >>> engine = TransformersBackend("tiny-llama", device="cpu")
        >>> with engine.stream("Once upon a time", max_tokens=8) as stream:
        ...     text = "".join(stream)
        >>> stream = engine.stream([{"role": "user", "content": "Hello"}])
        >>> first = next(stream)
        >>> stream.close()
    """

    def __init__(
        self, create_run: Callable[[Callable[[str], None]], GenerationRun], call: BackendCall
    ) -> None:
        self._chunks: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        self._run = create_run(self._chunks.put)
        call.observe_stream(self._run)
        # Spans that start while the model runs become children of the current span.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run,
            args=(_execute, self._run, call, self._chunks),
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
        chunk = self._chunks.get()
        if isinstance(chunk, str):
            return chunk
        self._ended = True
        self._thread.join()
        raise StopIteration if chunk is None else chunk

    def close(self) -> None:
        """Stop the model and wait until it has stopped."""
        self._run.canceled.append(None)
        self._thread.join()
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # This must not block: the garbage collector may run it anywhere.
        run = getattr(self, "_run", None)
        if run is not None:
            run.canceled.append(None)


def _execute(
    run: GenerationRun, call: BackendCall, chunks: queue.SimpleQueue[str | BaseException | None]
) -> None:
    try:
        with call:
            run.execute()
    except BaseException as error:
        call.fail(error, run)
        chunks.put(error)
    else:
        call.finish(run)
        chunks.put(None)
