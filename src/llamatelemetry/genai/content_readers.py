"""The readers and folds of content, by reference: each is imported when somebody wants content.

Most programs never do, and start without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamatelemetry.genai.content.chat_accumulator import ChoicesFold
    from llamatelemetry.genai.model import Content
    from llamatelemetry.genai.content.responses_accumulator import ResponsesContentFold


def read_chat_request(body: Mapping[str, Any]) -> Content:
    """Read the messages and tools of a chat completion request."""
    from llamatelemetry.genai.content.messages import read_chat_request as read

    return read(body)


def read_completion_request(body: Mapping[str, Any]) -> Content:
    """Read the prompts of a text completion request."""
    from llamatelemetry.genai.content.messages import read_completion_request as read

    return read(body)


def read_choices(choices: Any) -> Content:
    """Read the choices of a chat or text completion."""
    from llamatelemetry.genai.content.messages import read_choices as read

    return read(choices)


def read_responses_request(body: Mapping[str, Any]) -> Content:
    """Read input, instructions and tools of a request to create a response."""
    from llamatelemetry.genai.content.responses_messages import read_responses_request as read

    return read(body)


def read_responses_content(reply: Any) -> Content:
    """Read the output of a response."""
    from llamatelemetry.genai.content.responses_messages import read_responses_content as read

    return read(reply)


def read_fetched_content(reply: Any) -> Content:
    """Read output, instructions and tools of a response that was fetched by its id."""
    from llamatelemetry.genai.content.responses_messages import read_fetched_content as read

    return read(reply)


def fold_choices(max_chars: int) -> ChoicesFold:
    """Make what folds the content of a chat or text completion's stream."""
    from llamatelemetry.genai.content.chat_accumulator import ChoicesFold

    return ChoicesFold(max_chars)


def fold_responses(max_chars: int, *, fetched: bool) -> ResponsesContentFold:
    """Make what folds the content of a Responses stream."""
    from llamatelemetry.genai.content.responses_accumulator import ResponsesContentFold

    return ResponsesContentFold(
        max_chars, read_fetched_content if fetched else read_responses_content
    )
