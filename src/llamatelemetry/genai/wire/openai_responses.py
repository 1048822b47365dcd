"""Reading OpenAI's Responses API: requests, responses, and the events of its streams."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.content_readers import read_fetched_content, read_responses_content
from llamatelemetry.genai.errors import describe_reported_error
from llamatelemetry.genai.json_access import get, items, mapping, model_name, text
from llamatelemetry.genai.model import Response
from llamatelemetry.genai.usage import read_usage
from llamatelemetry.genai.wire.openai_chat import read_parameters, read_timings
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

# A response is one generation: its one finish reason, in the words of chat completions.
_FINISH_REASON_BY_STATUS: Final = {"completed": "stop", "failed": "error", "cancelled": "error"}
_FINISH_REASON_BY_INCOMPLETENESS: Final = {"max_output_tokens": "length"}

# Output items with which the model asks the application for something, and waits.
_CALLS_FOR_THE_APPLICATION: Final = frozenset(
    {
        "function_call",
        "custom_tool_call",
        "computer_call",
        "local_shell_call",
        "shell_call",  # what followed `local_shell_call`
        "apply_patch_call",
    }
)


def read_responses_parameters(body: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """Give the parameters of ``POST /responses`` as span attributes."""
    found = read_parameters(body)
    version = text(mapping(body.get("prompt")).get("version"))
    if version is not None and names.GEN_AI_PROMPT_NAME in found:
        found[names.GEN_AI_PROMPT_VERSION] = version
    if has_compaction(body.get("input")):
        found[names.GEN_AI_CONVERSATION_COMPACTED] = True
    return found


def read_responses_reply(reply: Any, timings: Any = None) -> Response:
    """Read a response of ``POST /responses``, plain or out of a stream's last event.

    ``timings`` are llama.cpp's, which stand beside the response in that event.
    """
    response = read_fetched_response(reply)
    response.timings = read_timings(timings)
    response.usage = read_usage(get(reply, "usage"), response.timings)
    response.error = describe_reported_error(get(reply, "error"))
    # Whoever made the call has the response at hand: its status is of interest to a fetcher.
    response.status = None
    response.read_content = partial(read_responses_content, reply)
    return response


def read_fetched_response(reply: Any) -> Response:
    """Read a response of ``GET /responses/{id}``.

    Its tokens were used by the call that made it, and its error is not one of fetching it:
    ``status`` and the finish reason tell of that.
    """
    output = get(reply, "output")
    return Response(
        id=text(get(reply, "id")),
        model=model_name(get(reply, "model")),
        finish_reasons=_finish_reasons(reply, output),
        service_tier=text(get(reply, "service_tier")),
        status=text(get(reply, "status")),
        conversation_id=text(get(get(reply, "conversation"), "id")),
        compacted=has_compaction(output) or None,
        read_content=partial(read_fetched_content, reply),
    )


def has_compaction(conversation: Any) -> bool:
    """Whether among the items of a request or response there is one that sums up earlier ones."""
    return any(get(item, "type") == "compaction" for item in items(conversation))


def _finish_reasons(reply: Any, output: Any) -> tuple[str, ...]:
    status = get(reply, "status")
    if status == "incomplete":
        told = text(get(get(reply, "incomplete_details"), "reason"))
        return (_FINISH_REASON_BY_INCOMPLETENESS.get(told or "", told or "incomplete"),)
    if status == "completed" and any(map(_is_for_the_application, items(output))):
        return ("tool_calls",)
    reason = _FINISH_REASON_BY_STATUS.get(status) if isinstance(status, str) else None
    return () if reason is None else (reason,)


def _is_for_the_application(item: Any) -> bool:
    # A shell in a container is the provider's own.
    is_hosted = get(get(item, "environment"), "type") == "container_reference"
    return text(get(item, "type")) in _CALLS_FOR_THE_APPLICATION and not is_hosted
