"""Which of the client's endpoints are calls of a model, and how each one is read."""

from __future__ import annotations

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
class Route:
    """One endpoint.

    Attributes:
        operation: its operation; or else
        task: what it does that has no operation of its own.
        fixed: attributes that every call of it has.
        read_parameters: reads the JSON body of a request.
        read_content: reads the messages in the JSON body of a request; ``None`` where the
            conventions know no content.
        read_reply: reads a model or JSON of a reply.
        fold: makes what folds a stream of it; told up to where each text is kept, if any is.
        bulk: the top-level array that can make a reply long, and
        is_bulk_wanted: whether anything is read out of it.
        is_json: whether its plain replies are JSON.
    """

    operation: str | None = None
    task: str | None = None
    fixed: Mapping[str, AttributeValue] = field(default_factory=dict[str, "AttributeValue"])
    parse_parameters: Callable[[Mapping[str, Any]], dict[str, AttributeValue]] = parse_parameters
    read_content: Callable[[Mapping[str, Any]], Content] | None = None
    read_reply: Callable[[Any], Response] = parse_response
    fold: Callable[[int | None], Accumulator] = ChatAccumulator
    bulk: str = "choices"
    is_bulk_wanted: bool = True
    is_json: bool = True


def _nothing_sent(_body: Mapping[str, Any]) -> Content:
    return Content()


def _read_nothing(_reply: Any) -> Response:
    return Response()


def _media(task: str, output_type: str, *, is_json: bool = True) -> Route:
    return Route(
        task=task,
        fixed={names.GEN_AI_OUTPUT_TYPE: output_type},
        read_reply=parse_response if is_json else _read_nothing,
        fold=MediaAccumulator,
        bulk="data",
        is_bulk_wanted=False,
        is_json=is_json,
    )


_RESPONSES_API: Final = {names.OPENAI_API_TYPE: "responses"}
_RESPONSES: Final = Route(
    CHAT,
    fixed=_RESPONSES_API,
    parse_parameters=parse_responses_parameters,
    read_content=parse_responses_request,
    read_reply=parse_created_response,
    fold=ResponsesAccumulator,
    bulk="output",
)
FETCH: Final = Route(
    FETCH_RESPONSE,
    fixed=_RESPONSES_API,
    read_content=_nothing_sent,
    read_reply=parse_fetched_response,
    fold=partial(ResponsesAccumulator, fetched=True),
    bulk="output",
)
# No call of a model; but a reply from which a server can be known.
MODELS: Final = Route()

# By method and the exact URL as the resources pass it; Azure rewrites it later.
ROUTES: Final[Mapping[tuple[str, str], Route]] = {
    ("post", "/chat/completions"): Route(
        CHAT,
        fixed={names.OPENAI_API_TYPE: "chat_completions"},
        read_content=parse_chat_request,
    ),
    ("post", "/completions"): Route(TEXT_COMPLETION, read_content=parse_completion_request),
    ("post", "/embeddings"): Route(EMBEDDINGS, bulk="data", is_bulk_wanted=False),
    ("post", "/responses"): _RESPONSES,
    ("post", "/responses?beta=true"): _RESPONSES,
    ("post", "/images/generations"): _media("image_generation", "image"),
    ("post", "/images/edits"): _media("image_edit", "image"),
    ("post", "/images/variations"): _media("image_variation", "image"),
    ("post", "/audio/speech"): _media("speech", "speech", is_json=False),
    ("post", "/audio/transcriptions"): _media("transcription", "text"),
    ("post", "/audio/translations"): _media("speech_translation", "text"),
    ("post", "/moderations"): Route(task="moderation", bulk="results", is_bulk_wanted=False),
    ("get", "/models"): MODELS,
}


def find_route(method: str, url: str) -> Route | None:
    """Give the endpoint of a request, or ``None`` when it is none of a model."""
    route = ROUTES.get((method, url))
    if route is None and method == "get" and fetched_response_id(url) is not None:
        return FETCH
    return route


def fetched_response_id(url: str) -> str | None:
    """Give the id in ``/responses/{id}``; what is below a response has none."""
    if not url.startswith("/responses/"):
        return None
    response_id = url.removeprefix("/responses/").removesuffix("?beta=true")
    return response_id if response_id and not {"/", "?"} & {*response_id} else None
