"""Accumulator for the content of chat and text completion streams.

It is created only if content is used. Each text grows up to a limit and is only counted beyond it, so
that time is linear and memory is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.content.blobs import BlobData
from llamatelemetry.genai.content.limits import limit_parts
from llamatelemetry.genai.content.parts import CutText, ParsedPart, content_parts
from llamatelemetry.genai.json_access import as_list, as_str, get_field

if TYPE_CHECKING:
    from collections.abc import Sequence

# Maximum number of choices, and of tool calls of a choice.
_MOST_ENTRIES: Final = 256


class GrowingText:
    """A text that arrives in chunks, kept up to `max_chars`."""

    __slots__ = ("_kept", "_room", "chars")

    def __init__(self, max_chars: int) -> None:
        # Not a `StringIO`: the garbage collector closes one before an abandoned stream is recorded.
        self._kept = bytearray()
        self._room = max_chars
        self.chars = 0

    def add(self, chunk: Any) -> None:
        """Add a chunk. Values other than strings are ignored."""
        if not isinstance(chunk, str):
            return
        self.chars += len(chunk)
        if self._room > 0:
            self._kept += chunk[: self._room].encode("utf-8", "surrogatepass")
            self._room -= len(chunk)

    def result(self) -> str | None:
        """Return the text; a `CutText` if it is longer than the kept part; `None` if empty."""
        kept = self._kept.decode("utf-8", "surrogatepass")
        if self.chars > len(kept):
            return CutText(kept, self.chars)
        return kept or None


class ChoicesContentAccumulator:
    """Accumulator for the messages of a chat or text completion stream."""

    __slots__ = ("_choices", "_max_chars")

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._choices: dict[int, _ChoiceAccumulator] = {}

    def add(self, key: int, choice: Any) -> None:
        """Add one choice of a chunk. `key` identifies the choice."""
        accumulator = self._choices.get(key)
        if accumulator is None:
            if len(self._choices) >= _MOST_ENTRIES:
                return
            accumulator = self._choices[key] = _ChoiceAccumulator(self._max_chars)
        try:
            accumulator.add(choice)
        except Exception as error:  # The counts in the same chunk must still be read.
            internal_errors.log_once("reading the content of a chunk", error)

    def results(self) -> dict[int, dict[str, Any]]:
        """Return the choices in the format of a plain response, by key: `message` or `text`."""
        return {key: accumulator.result() for key, accumulator in self._choices.items()}


_TEXTS: Final = ("content", "reasoning_content", "reasoning", "refusal")


class _ChoiceAccumulator:
    __slots__ = (
        *("_audio", "_calls", "_function", "_last_key", "_last_key_of", "_max_chars", "_parts"),
        *("_role", "_text", "_texts"),
    )

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._role: Any = None
        self._text: GrowingText | None = None  # text completion
        self._texts: dict[str, GrowingText] = {}
        self._parts: list[ParsedPart] = []
        self._calls: dict[Any, _ToolCallAccumulator] = {}
        self._last_key: Any = 0
        # By index: the key of the newest call with this index, if there are several.
        self._last_key_of: dict[Any, Any] = {}
        self._function: _ToolCallAccumulator | None = None
        self._audio: _AudioAccumulator | None = None

    def add(self, choice: Any) -> None:
        delta = get_field(choice, "delta")
        if delta is None:
            if self._text is None:
                self._text = GrowingText(self._max_chars)
            self._text.add(get_field(choice, "text"))
            return
        self._role = self._role or get_field(delta, "role")
        for name in _TEXTS:
            chunk = get_field(delta, name)
            if chunk:
                self._add_text(name, chunk)
        for call in as_list(get_field(delta, "tool_calls")):
            self._add_call(call)
        self._add_function_and_audio(delta)

    def _add_text(self, name: str, chunk: Any) -> None:
        if not isinstance(chunk, str):
            self._add_parts(name, as_list(chunk))
            return
        growing = self._texts.get(name)
        if growing is None:
            growing = self._texts[name] = GrowingText(self._max_chars)
        growing.add(chunk)

    def _add_parts(self, name: str, parts: Sequence[Any]) -> None:
        """Add content that is a list of parts. Mistral sends texts and thoughts like that."""
        for part in parts:
            thought = get_field(part, "thinking")
            text = part if isinstance(part, str) else get_field(part, "text")
            if thought:
                self._add_text("reasoning", thought)
            elif isinstance(text, str):
                self._add_text(name, text)
            elif len(self._parts) < _MOST_ENTRIES:
                # Cut now: the part itself would keep all its content.
                parsed = limit_parts(content_parts([part]), self._max_chars)
                self._parts += map(ParsedPart, parsed)

    def _add_call(self, call: Any) -> None:
        known = as_str(get_field(call, "id"))
        function = get_field(call, "function") or get_field(call, "custom")
        key: Any = get_field(call, "index")
        if not isinstance(key, int):
            # Some servers send no index. An id then starts a call, and later chunks belong to it.
            key = known if known is not None else self._last_key
        index, key = key, self._last_key_of.get(key, key)
        accumulator = self._calls.get(key)
        if accumulator is not None and accumulator.is_other(known, function):
            # Parallel calls may all have the index 0.
            same = (each for each, other in self._calls.items() if other.call_id == known)
            key = self._last_key_of[index] = next(same, (index, known))
            accumulator = self._calls.get(key)
        if accumulator is None:
            if len(self._calls) >= _MOST_ENTRIES:
                return
            accumulator = self._calls[key] = _ToolCallAccumulator(self._max_chars)
        self._last_key = index
        accumulator.add(call, function)

    def _add_function_and_audio(self, delta: Any) -> None:
        function = get_field(delta, "function_call")
        if function is not None:
            self._function = self._function or _ToolCallAccumulator(self._max_chars)
            self._function.add(None, function)
        audio = get_field(delta, "audio")
        if audio is not None:
            self._audio = self._audio or _AudioAccumulator(self._max_chars)
            self._audio.add(audio)

    def result(self) -> dict[str, Any]:
        if self._text is not None:
            return {"text": self._text.result()}
        message: dict[str, Any] = {"role": self._role}
        message.update({name: growing.result() for name, growing in self._texts.items()})
        if self._parts:
            message["content"] = [*filter(None, [message.get("content")]), *self._parts]
        message["tool_calls"] = [accumulator.result() for accumulator in self._calls.values()]
        if self._function is not None:
            message["function_call"] = self._function.result()["function"]
        if self._audio is not None:
            message["audio"] = self._audio.result()
        return {"message": message}


class _ToolCallAccumulator:
    __slots__ = ("_arguments", "_is_custom", "_name", "call_id")

    def __init__(self, max_chars: int) -> None:
        self.call_id: Any = None
        self._name: Any = None
        self._is_custom = False
        self._arguments = GrowingText(max_chars)

    def is_other(self, call_id: str | None, function: Any) -> bool:
        """Return whether a chunk with the same index starts another call.

        It has another id, and a name. The later chunks of a call have no name, but those of some
        servers have a new id each.
        """
        is_named = bool(self.call_id and call_id and get_field(function, "name"))
        return is_named and self.call_id != call_id

    def add(self, call: Any, function: Any) -> None:
        self.call_id = self.call_id or get_field(call, "id")
        self._name = self._name or get_field(function, "name")
        self._is_custom = self._is_custom or get_field(call, "custom") is not None
        self._arguments.add(get_field(function, "arguments") or get_field(function, "input"))

    def result(self) -> dict[str, Any]:
        arguments = self._arguments.result()
        if self._is_custom:
            return {"id": self.call_id, "custom": {"name": self._name, "input": arguments}}
        return {"id": self.call_id, "function": {"name": self._name, "arguments": arguments}}


class _AudioAccumulator:
    """Accumulator for audio output: its transcript and the size of its data, which is not kept."""

    __slots__ = ("_data_chars", "_id", "_transcript")

    def __init__(self, max_chars: int) -> None:
        self._id: Any = None
        self._transcript = GrowingText(max_chars)
        self._data_chars = 0

    def add(self, audio: Any) -> None:
        self._id = self._id or get_field(audio, "id")
        self._transcript.add(get_field(audio, "transcript"))
        data = get_field(audio, "data")
        if isinstance(data, str):
            self._data_chars += len(data)

    def result(self) -> dict[str, Any]:
        data = BlobData("", cut_chars=self._data_chars) if self._data_chars else None
        return {"id": self._id, "data": data, "transcript": self._transcript.result()}
