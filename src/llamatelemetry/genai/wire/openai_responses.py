"""Parser of OpenAI's Responses API: request parameters and responses."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry._limits import Limit
from llamatelemetry.genai.content.responses_messages import (
    is_hosted,
    parse_fetched_content,
    parse_responses_content,
)
from llamatelemetry.genai.engines import read_engine
from llamatelemetry.genai.engines.proofs import VLLM
from llamatelemetry.genai.errors import describe_reported_error, find_reported_error
from llamatelemetry.genai.json_access import (
    as_dict,
    as_fields,
    as_list,
    as_str,
    get_field,
    model_name,
)
from llamatelemetry.genai.model import Response
from llamatelemetry.genai.wire.openai_chat import mentions_engine, parse_parameters, parse_usage
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

# A response is one generation with one finish reason, named as in chat completions.
_FINISH_REASON_BY_STATUS: Final = {"completed": "stop", "failed": "error", "cancelled": "error"}
_FINISH_REASON_BY_INCOMPLETENESS: Final = {"max_output_tokens": "length"}

_UNFINISHED: Final = frozenset({"queued", "in_progress"})

# Output items that ask the application to act.
_CALLS_FOR_THE_APPLICATION: Final = frozenset(
    {
        "function_call",
        "custom_tool_call",
        "computer_call",
        "local_shell_call",
        "shell_call",  # successor of `local_shell_call`
        "apply_patch_call",
    }
)


def parse_responses_parameters(body: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """Return the parameters of `POST /responses` as span attributes."""
    found = parse_parameters(body)
    version = as_str(as_dict(body.get("prompt")).get("version"))
    if version is not None and names.GEN_AI_PROMPT_NAME in found:
        found[names.GEN_AI_PROMPT_VERSION] = version
    if has_compaction(body.get("input")):
        found[names.GEN_AI_CONVERSATION_COMPACTED] = True
    return found


def parse_created_response(reply: Any, timings: Any = None) -> Response:
    """Parse a response of `POST /responses`, plain or from the last event of a stream.

    llama.cpp sends `timings` next to the response in that event.
    """
    response = _parse(reply)
    if response.id is not None and response.status in _UNFINISHED:
        unfinished_responses.add(response.id)
    fields, usage = as_fields(reply), get_field(reply, "usage")
    if timings is not None:
        fields = {**fields, "timings": timings}
    # Every usage of vLLM's Responses API has this field.
    per_turn = get_field(get_field(usage, "input_tokens_details"), "input_tokens_per_turn")
    if per_turn is not None or mentions_engine(fields, usage, None):
        response.provider, response.timings = read_engine(fields, usage)
    response.usage = parse_usage(usage, response.timings)
    if response.provider == VLLM and response.usage.cache_read_tokens == 0:
        response.usage.cache_read_tokens = None  # vLLM writes 0 if it does not count them.
    response.error = find_reported_error(reply)
    if response.error is None and response.status == "failed":
        response.error = describe_reported_error({"type": "_OTHER"})
    # Record the status only for responses fetched by id. The caller that creates a response
    # already has it.
    response.status = None
    response.read_content = partial(parse_responses_content, reply)
    return response


def parse_fetched_response(reply: Any) -> Response:
    """Parse a response of `GET /responses/{id}`.

    Usage and error are not set: they belong to the call that created the response. Status and finish
    reason describe it. A body without an id is not a response, but may be the error of the request.

    A response that runs in the background has no usage when it is created, nor has one whose stream
    broke. Its usage is set once: by the first fetch that sees it finished, in the process that created
    it.
    """
    response = _parse(reply)
    if response.status not in _UNFINISHED and unfinished_responses.discard(response.id):
        response.usage = parse_usage(get_field(reply, "usage"))
    return response


_LIMIT: Final = Limit("unfinished_responses", 10_000, "Responses not seen finished")


class UnfinishedResponses:
    """Ids of responses that this process created and has not seen finished."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def add(self, response_id: str) -> None:
        """Add an id. Of too many ids, the oldest ones are dropped."""
        self._ids[response_id] = None
        _LIMIT.trim(self._ids)

    def discard(self, response_id: str | None) -> bool:
        """Remove an id. Return whether it was there, which one thread alone sees."""
        return self._ids.pop(response_id, self) is None  # type: ignore[reportArgumentType]

    def clear(self) -> None:
        """Remove all ids."""
        self._ids.clear()


unfinished_responses: Final = UnfinishedResponses()


def _parse(reply: Any) -> Response:
    output = get_field(reply, "output")
    response_id = as_str(get_field(reply, "id"))
    return Response(
        error=find_reported_error(reply) if response_id is None else None,
        id=response_id,
        model=model_name(get_field(reply, "model")),
        finish_reasons=_finish_reasons(reply, output),
        service_tier=as_str(get_field(reply, "service_tier")),
        status=as_str(get_field(reply, "status")),
        conversation_id=as_str(get_field(get_field(reply, "conversation"), "id")),
        compacted=has_compaction(output) or None,
        read_content=partial(parse_fetched_content, reply),
    )


def has_compaction(conversation: Any) -> bool:
    """Return whether an item of a request or response is a compaction of earlier items."""
    return any(get_field(item, "type") == "compaction" for item in as_list(conversation))


def _finish_reasons(reply: Any, output: Any) -> tuple[str, ...]:
    status = get_field(reply, "status")
    if status == "incomplete":
        cause = as_str(get_field(get_field(reply, "incomplete_details"), "reason")) or "incomplete"
        return (_FINISH_REASON_BY_INCOMPLETENESS.get(cause, cause),)
    if status == "completed" and any(map(_is_for_the_application, as_list(output))):
        return ("tool_calls",)
    reason = _FINISH_REASON_BY_STATUS.get(status) if isinstance(status, str) else None
    return () if reason is None else (reason,)


def _is_for_the_application(item: Any) -> bool:
    return as_str(get_field(item, "type")) in _CALLS_FOR_THE_APPLICATION and not is_hosted(item)
