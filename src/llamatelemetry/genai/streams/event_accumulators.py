"""Accumulators for streams of typed events: Responses API, images and audio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.content.responses_accumulator import ResponsesContentAccumulator
from llamatelemetry.genai.content.responses_messages import (
    parse_fetched_content,
    parse_responses_content,
)
from llamatelemetry.genai.errors import describe_reported_error, find_reported_error
from llamatelemetry.genai.json_access import as_str, get_field
from llamatelemetry.genai.model import Response
from llamatelemetry.genai.wire.openai_chat import parse_usage
from llamatelemetry.genai.wire.openai_responses import (
    has_compaction,
    parse_created_response,
    parse_fetched_response,
)

if TYPE_CHECKING:
    from llamatelemetry.genai.errors import ErrorInfo

# Repeated while a response is generated, without new information.
_REPEATED: Final = frozenset({"response.in_progress", "response.queued"})


class ResponsesAccumulator:
    """Accumulator for the events of the Responses API.

    Args:
        content_max_chars: Maximum number of characters to keep of each text; `None` keeps no text.
        fetched: Whether an existing response is fetched, rather than a new one created.
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
        """Add one event. Return whether it carries a token: text, reasoning, arguments and so on."""
        kind = as_str(get_field(event, "type"))
        if kind is None:
            self._error = find_reported_error(event) or self._error
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
                self._response = self._parse(response, event)
        return False

    def _parse(self, response: Any, event: Any) -> Response:
        if self._fetched:
            found = parse_fetched_response(response)
        else:
            found = parse_created_response(response, get_field(event, "timings"))
        found.read_content = None  # it keeps a reference to the response
        return found

    @property
    def model(self) -> Any:
        """Model named so far; `None` if unknown."""
        return None if self._response is None else self._response.model

    def response(self) -> Response:
        """Return the response of the last event that had one."""
        response = self._response or Response()
        response.compacted = response.compacted or self._compacted or None
        response.error = response.error or self._error
        if self._content is not None:
            response.read_content = self._content.content
        return response


class MediaAccumulator:
    """Accumulator for the events of images, transcriptions and speech. It keeps no content."""

    __slots__ = ("_error", "_usage")

    def __init__(self, _content_max_chars: int | None = None) -> None:
        self._usage: Any = None
        self._error: ErrorInfo | None = None

    def add(self, event: Any) -> bool:
        """Add one event. Return whether it carries a part of the result."""
        kind = as_str(get_field(event, "type"))
        if kind is None:
            self._error = find_reported_error(event) or self._error
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
        """Always `None`: these events do not name the model."""
        return None

    def response(self) -> Response:
        """Return the usage of the last event that had one."""
        return Response(usage=parse_usage(self._usage), error=self._error)
