"""Folding streams of typed events: those of the Responses API, of images, and of audio.

The counterpart of `folding`, whose chunks have no type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.content.responses_accumulator import ResponsesContentAccumulator
from llamatelemetry.genai.content.responses_messages import (
    parse_fetched_content,
    parse_responses_content,
)
from llamatelemetry.genai.errors import describe_reported_error
from llamatelemetry.genai.json_access import as_str, get_field
from llamatelemetry.genai.model import Response
from llamatelemetry.genai.usage import parse_usage
from llamatelemetry.genai.wire.openai_responses import (
    has_compaction,
    parse_created_response,
    parse_fetched_response,
)

if TYPE_CHECKING:
    from llamatelemetry.genai.errors import ErrorInfo

# Sent over and over while a response is made, with nothing new in them.
_REPEATED: Final = frozenset({"response.in_progress", "response.queued"})


class ResponsesAccumulator:
    """The events of a response that is made, or, ``fetched``, of one that was made before.

    Args:
        content_max_chars: up to where each text is kept; ``None`` keeps nothing of what is said.
        fetched: says which.
    """

    __slots__ = ("_compacted", "_content", "_error", "_fetched", "_response")

    def __init__(self, content_max_chars: int | None = None, *, fetched: bool = False) -> None:
        self._content = (
            None
            if content_max_chars is None
            else ResponsesContentAccumulator(
                content_max_chars, parse_fetched_content if fetched else parse_responses_content
            )
        )
        self._fetched = fetched
        self._response: Response | None = None
        self._compacted = False
        self._error: ErrorInfo | None = None

    def add(self, event: Any) -> bool:
        """Take in one event; say whether it carries a token (text, reasoning, arguments, ...)."""
        kind = as_str(get_field(event, "type"))
        if kind is None:
            return False
        if self._content is not None:
            self._content.add(event)
        if kind.endswith(".delta"):
            return bool(get_field(event, "delta"))
        if kind.startswith("response.output_item."):
            self._compacted = self._compacted or has_compaction([get_field(event, "item")])
        elif kind == "error":
            self._error = describe_reported_error(get_field(event, "error") or event)
        elif self._response is None or kind not in _REPEATED:
            response = get_field(event, "response")
            if response is not None:
                self._response = self._read(response, event)
        return False

    def _read(self, response: Any, event: Any) -> Response:
        if self._fetched:
            found = parse_fetched_response(response)
        else:
            found = parse_created_response(response, get_field(event, "timings"))
        found.read_content = None  # it holds the response
        return found

    @property
    def model(self) -> Any:
        """The model that has been named so far, if any."""
        return None if self._response is None else self._response.model

    def response(self) -> Response:
        """Give the response as the last event that had one showed it."""
        response = self._response or Response()
        response.compacted = response.compacted or self._compacted or None
        response.error = response.error or self._error
        if self._content is not None:
            response.read_content = self._content.content
        return response


class MediaAccumulator:
    """The events of an image that is made, of a transcription, or of speech: no content is kept."""

    __slots__ = ("_error", "_usage")

    def __init__(self, _content_max_chars: int | None = None) -> None:
        self._usage: Any = None
        self._error: ErrorInfo | None = None

    def add(self, event: Any) -> bool:
        """Take in one event; say whether it carries a piece of what was asked for."""
        kind = as_str(get_field(event, "type"))
        if kind is None:
            return False
        if kind.endswith((".delta", ".partial_image")):
            return True
        if kind == "error":
            self._error = describe_reported_error(get_field(event, "error") or event)
        usage = get_field(event, "usage")
        if usage is not None:
            self._usage = usage
        return kind.endswith(".completed")

    @property
    def model(self) -> Any:
        """These events name no model."""
        return None

    def response(self) -> Response:
        """Give the token counts that the last event told."""
        return Response(usage=parse_usage(self._usage), error=self._error)
