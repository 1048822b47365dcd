"""Inference endpoints of llama.cpp, and how to parse the requests and responses of each.

llama-server has its own paths in addition to those of OpenAI and Anthropic. `--api-prefix` or a
proxy may add any prefix, so paths are matched by their end. Endpoints that do not run a model,
such as `/tokenize`, `/apply-template` and `/props`, are not included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llamatelemetry.genai import (
    AnthropicAccumulator,
    ChatAccumulator,
    LlamaCppAccumulator,
    MediaAccumulator,
    Request,
    ResponsesAccumulator,
    as_count,
    get_field,
    model_name,
    parse_chat_request,
    parse_choice_count,
    parse_completion_request,
    parse_created_response,
    parse_messages_response,
    parse_native_completion,
    parse_parameters,
    parse_response,
    parse_responses_parameters,
    parse_responses_request,
)
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import (
    CHAT,
    EMBEDDINGS,
    PROVIDER_LLAMA_CPP,
    TEXT_COMPLETION,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai import Accumulator, Content, Response, Server


@dataclass(frozen=True, slots=True)
class LlamaCppRoute:
    """One endpoint.

    Attributes:
        operation: Operation name; `None` if the conventions define none for this endpoint.
        task: Task of an endpoint without an operation.
        fixed: Attributes of every call.
        parse_parameters: Parses the parameters in the JSON body of a request.
        read_content: Parses the messages in the JSON body of a request; `None` if their content
            is not recorded.
        parse_response: Parses the JSON of a plain response.
        make_accumulator: Creates the accumulator of a stream, from the request and the number of
            characters to keep of each text.
        is_typed: Whether the events of a stream have a `type`.
        bulk: Top-level array that can make a response long.
        is_bulk_wanted: Whether anything in that array is recorded.
    """

    operation: str | None = None
    task: str | None = None
    fixed: Mapping[str, AttributeValue] = field(default_factory=dict[str, "AttributeValue"])
    parse_parameters: Callable[[Mapping[str, Any]], dict[str, AttributeValue]] = parse_parameters
    read_content: Callable[[Mapping[str, Any]], Content] | None = None
    parse_response: Callable[[Any, Request], Response] = lambda body, _: parse_response(body)
    make_accumulator: Callable[[Request, int | None], Accumulator] = lambda _, max_chars: (
        ChatAccumulator(max_chars)
    )
    is_typed: bool = False
    bulk: str = "choices"
    is_bulk_wanted: bool = True


class RouteMatch(NamedTuple):
    """An endpoint and the prefix of its path."""

    route: LlamaCppRoute
    prefix: str


def _choice_count(request: Request) -> int:
    return as_count(request.parameters.get(names.GEN_AI_REQUEST_CHOICE_COUNT)) or 1


def _parse_native(body: Any, request: Request) -> Response:
    # The path does not determine the format: some proxies serve OpenAI's without `/v1`.
    if isinstance(body, dict) and get_field(body, "choices") is not None:
        return parse_response(body)
    return parse_native_completion(body, _choice_count(request))


class _CompletionAccumulator:
    """Accumulates a stream in llama.cpp's native format or in OpenAI's."""

    __slots__ = ("_accumulator", "_content_max_chars", "_request")

    def __init__(self, request: Request, content_max_chars: int | None) -> None:
        self._request = request
        self._content_max_chars = content_max_chars
        self._accumulator: Accumulator | None = None

    def add(self, event: Any) -> bool:
        """Add one event. Return whether it has a token."""
        if self._accumulator is None:
            if get_field(event, "choices") is not None:
                self._accumulator = ChatAccumulator(self._content_max_chars)
            else:
                choices = _choice_count(self._request)
                self._accumulator = LlamaCppAccumulator(choices, self._content_max_chars)
        return self._accumulator.add(event)

    @property
    def model(self) -> Any:
        """The model that the events have named so far, if any."""
        return None if self._accumulator is None else self._accumulator.model

    def response(self) -> Response:
        """Return the response that the events so far amount to."""
        return (self._accumulator or ChatAccumulator()).response()


_NATIVE: Final = LlamaCppRoute(
    TEXT_COMPLETION,
    read_content=parse_completion_request,
    parse_response=_parse_native,
    make_accumulator=_CompletionAccumulator,
)
_EMBEDDINGS: Final = LlamaCppRoute(EMBEDDINGS, bulk="data", is_bulk_wanted=False)
_RERANK: Final = LlamaCppRoute(task="rerank", bulk="results", is_bulk_wanted=False)

_ROUTES: Final[Mapping[str, LlamaCppRoute]] = {
    "/completion": _NATIVE,
    "/completions": _NATIVE,
    "/v1/completions": _NATIVE,
    "/chat/completions": LlamaCppRoute(CHAT, read_content=parse_chat_request),
    "/infill": LlamaCppRoute(
        task="infill", parse_response=_parse_native, make_accumulator=_CompletionAccumulator
    ),
    "/embedding": _EMBEDDINGS,
    "/embeddings": _EMBEDDINGS,
    "/rerank": _RERANK,
    "/reranking": _RERANK,
    "/responses": LlamaCppRoute(
        CHAT,
        parse_parameters=parse_responses_parameters,
        parse_response=lambda body, _: parse_created_response(body),
        read_content=parse_responses_request,
        make_accumulator=lambda _, max_chars: ResponsesAccumulator(max_chars),
        is_typed=True,
        bulk="output",
    ),
    "/messages": LlamaCppRoute(
        CHAT,
        parse_response=lambda body, _: parse_messages_response(body),
        make_accumulator=lambda _request, _max_chars: AnthropicAccumulator(),
        is_typed=True,
        bulk="content",
    ),
    "/audio/transcriptions": LlamaCppRoute(
        task="transcription",
        fixed={names.GEN_AI_OUTPUT_TYPE: "text"},
        make_accumulator=lambda _request, _max_chars: MediaAccumulator(),
        is_typed=True,
    ),
}
_LAST_PARTS: Final = frozenset(path.rpartition("/")[2] for path in _ROUTES)


@lru_cache(maxsize=1024)
def match_path(path: str) -> RouteMatch | None:
    """Return the endpoint that a path without a query ends with, or `None`."""
    if path.rpartition("/")[2] not in _LAST_PARTS:
        return None
    for parts in (2, 1):
        start = len(path)
        for _ in range(parts):
            start = path.rfind("/", 0, start)
        route = _ROUTES.get(path[start:]) if start >= 0 else None
        if route is not None:
            return RouteMatch(route, path[:start].removesuffix("/v1"))
    return None


def parse_request(route: LlamaCppRoute, body: Mapping[str, Any], server: Server | None) -> Request:
    """Parse the JSON body of a request. Pass an empty body if it is not available."""
    parameters = {**route.fixed, **route.parse_parameters(body)}
    choices = as_count(body.get("n_cmpl"))
    if choices is not None and choices > 1:
        parameters[names.GEN_AI_REQUEST_CHOICE_COUNT] = choices
    return Request(
        operation=route.operation,
        provider=PROVIDER_LLAMA_CPP,
        model=model_name(body.get("model")),
        server=server,
        stream=body.get("stream") is True,
        choice_count=parse_choice_count(body),
        parameters=parameters,
        task=route.task,
        read_content=None if route.read_content is None else partial(route.read_content, body),
        body=body,
    )
