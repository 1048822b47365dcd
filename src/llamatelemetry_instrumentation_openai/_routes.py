"""Endpoints of the `openai` client that call a model, and how to parse each of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import (
    ChatAccumulator,
    Content,
    MediaAccumulator,
    Response,
    ResponsesAccumulator,
    parse_chat_request,
    parse_completion_request,
    parse_created_response,
    parse_fetched_response,
    parse_parameters,
    parse_response,
    parse_responses_parameters,
    parse_responses_request,
)
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import CHAT, EMBEDDINGS, FETCH_RESPONSE, TEXT_COMPLETION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai import Accumulator


@dataclass(frozen=True, slots=True)
class OpenAIRoute:
    """One endpoint.

    Attributes:
        operation: Operation name; `None` if the conventions define none for this endpoint.
        task: Task of an endpoint without an operation.
        fixed: Attributes of every call.
        parse_parameters: Parses the parameters in the JSON body of a request.
        read_content: Parses the messages in the JSON body of a request; `None` if the
            conventions define no content for this endpoint.
        parse_response: Parses a plain response, as a model or as JSON.
        make_accumulator: Creates the accumulator of a stream, from the number of characters to
            keep of each text.
        bulk: Top-level array that can make a response long.
        is_bulk_wanted: Whether anything in that array is recorded.
        is_json: Whether plain responses are JSON.
        is_by_id: Whether the URL has the id of a response, and the request names no model.
    """

    operation: str | None = None
    task: str | None = None
    fixed: Mapping[str, AttributeValue] = field(default_factory=dict[str, "AttributeValue"])
    parse_parameters: Callable[[Mapping[str, Any]], dict[str, AttributeValue]] = parse_parameters
    read_content: Callable[[Mapping[str, Any]], Content] | None = None
    parse_response: Callable[[Any], Response] = parse_response
    make_accumulator: Callable[[int | None], Accumulator] = ChatAccumulator
    bulk: str = "choices"
    is_bulk_wanted: bool = True
    is_json: bool = True
    is_by_id: bool = False


def _media(task: str, output_type: str, *, is_json: bool = True) -> OpenAIRoute:
    return OpenAIRoute(
        task=task,
        fixed={names.GEN_AI_OUTPUT_TYPE: output_type},
        parse_response=parse_response if is_json else lambda _: Response(),
        make_accumulator=MediaAccumulator,
        bulk="data",
        is_bulk_wanted=False,
        is_json=is_json,
    )


_RESPONSES_API: Final = {names.OPENAI_API_TYPE: "responses"}
_RESPONSES: Final = OpenAIRoute(
    CHAT,
    fixed=_RESPONSES_API,
    parse_parameters=parse_responses_parameters,
    read_content=parse_responses_request,
    parse_response=parse_created_response,
    make_accumulator=ResponsesAccumulator,
    bulk="output",
)
FETCH: Final = OpenAIRoute(
    FETCH_RESPONSE,
    fixed=_RESPONSES_API,
    read_content=lambda _: Content(),
    parse_response=parse_fetched_response,
    make_accumulator=partial(ResponsesAccumulator, fetched=True),
    bulk="output",
    is_by_id=True,
)
_CANCEL: Final = OpenAIRoute(
    task="response_cancellation",
    fixed=_RESPONSES_API,
    parse_response=parse_fetched_response,
    bulk="output",
    is_by_id=True,
)
# Not a call of a model, but the response identifies some servers.
MODELS: Final = OpenAIRoute()

# Keyed by the method and the exact URL that the resources pass. Azure rewrites the URL later.
ROUTES: Final[Mapping[tuple[str, str], OpenAIRoute]] = {
    ("post", "/chat/completions"): OpenAIRoute(
        CHAT,
        fixed={names.OPENAI_API_TYPE: "chat_completions"},
        read_content=parse_chat_request,
    ),
    ("post", "/completions"): OpenAIRoute(TEXT_COMPLETION, read_content=parse_completion_request),
    ("post", "/embeddings"): OpenAIRoute(EMBEDDINGS, bulk="data", is_bulk_wanted=False),
    ("post", "/responses"): _RESPONSES,
    ("post", "/responses?beta=true"): _RESPONSES,
    ("post", "/responses/compact"): OpenAIRoute(
        task="compaction",
        fixed=_RESPONSES_API,
        parse_parameters=parse_responses_parameters,
        read_content=parse_responses_request,
        parse_response=parse_created_response,
        bulk="output",
    ),
    ("post", "/images/generations"): _media("image_generation", "image"),
    ("post", "/images/edits"): _media("image_edit", "image"),
    ("post", "/images/variations"): _media("image_variation", "image"),
    ("post", "/audio/speech"): _media("speech", "speech", is_json=False),
    ("post", "/audio/transcriptions"): _media("transcription", "text"),
    ("post", "/audio/translations"): _media("speech_translation", "text"),
    ("post", "/moderations"): OpenAIRoute(task="moderation", bulk="results", is_bulk_wanted=False),
    ("get", "/models"): MODELS,
}


# A known endpoint at the end of a path.
_ENDPOINT: Final = re.compile(
    r"(?P<base>.*?)(?P<endpoint>/(?:chat/completions|completions|embeddings|moderations|models"
    r"|images/[a-z]+|audio/[a-z]+|responses(?:/(?P<id>[^/]+))?(?P<cancel>/cancel)?))"
)


def find_other_route(method: str, url: str) -> OpenAIRoute | None:
    """Return the endpoint of a URL that is not a key of `ROUTES`, or `None`.

    The URL may hold the id of a response. Methods such as `client.post` also take URLs without
    the leading slash, with a query, and with scheme and host.
    """
    found = _endpoint(url)
    if found is None:
        return None
    route = ROUTES.get((method.lower(), found["endpoint"]))
    if route is None and found["id"] is not None:
        by_id = ("post", _CANCEL) if found["cancel"] else ("get", FETCH)
        route = by_id[1] if method.lower() == by_id[0] else None
    return route


def response_id_of(url: str) -> str | None:
    """Return the id in `/responses/{id}` or `/responses/{id}/cancel`, quoted as in the URL."""
    found = _endpoint(url)
    return None if found is None else found["id"]


def _endpoint(url: str) -> re.Match[str] | None:
    path = url.partition("?")[0]
    if "://" not in url:
        found = _ENDPOINT.fullmatch("/" + path.removeprefix("/"))
        return found if found is not None and not found["base"] else None
    return _ENDPOINT.fullmatch("/" + path.split("://", 1)[1].partition("/")[2])
