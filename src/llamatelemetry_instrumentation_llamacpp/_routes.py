"""Which paths are inference, and how what passes on each of them is read.

llama-server has its own paths beside OpenAI's and Anthropic's, and ``--api-prefix`` or a proxy
puts any prefix in front: paths are told by their end. Helpers that run no model
(``/tokenize``, ``/apply-template``, ``/props``, ...) are none.
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
class Route:
    """One endpoint.

    Attributes:
        operation: its operation; or else
        task: what it does that has no operation of its own.
        fixed: attributes that every call of it has.
        read_parameters: reads the JSON body of a request.
        read_content: reads the messages in the JSON body of a request; ``None`` where there
            are none, or where they are not read.
        read_reply: reads the JSON of a plain reply.
        fold: makes what folds a stream of it, keeping so many characters of what is said.
        is_typed: whether the events of a stream have a ``type``.
        bulk: the top-level array that can make a reply long, and
        is_bulk_wanted: whether anything is read out of it.
    """

    operation: str | None = None
    task: str | None = None
    fixed: Mapping[str, AttributeValue] = field(default_factory=dict[str, "AttributeValue"])
    parse_parameters: Callable[[Mapping[str, Any]], dict[str, AttributeValue]] = parse_parameters
    read_content: Callable[[Mapping[str, Any]], Content] | None = None
    read_reply: Callable[[Any, Request], Response] = lambda reply, _: parse_response(reply)
    fold: Callable[[Request, int | None], Accumulator] = lambda _, max_chars: ChatAccumulator(
        max_chars
    )
    is_typed: bool = False
    bulk: str = "choices"
    is_bulk_wanted: bool = True


class Match(NamedTuple):
    """An endpoint, and what stands in front of its path."""

    route: Route
    prefix: str


def _answers_per_prompt(request: Request) -> int:
    return as_count(request.parameters.get(names.GEN_AI_REQUEST_CHOICE_COUNT)) or 1


def _read_native(reply: Any, request: Request) -> Response:
    # The path alone does not tell: some proxies serve OpenAI's format without its /v1.
    if isinstance(reply, dict) and get_field(reply, "choices") is not None:
        return parse_response(reply)
    return parse_native_completion(reply, _answers_per_prompt(request))


class _CompletionFold:
    """Native or OpenAI's, whichever comes."""

    __slots__ = ("_content_max_chars", "_fold", "_request")

    def __init__(self, request: Request, content_max_chars: int | None) -> None:
        self._request = request
        self._content_max_chars = content_max_chars
        self._fold: Accumulator | None = None

    def add(self, event: Any) -> bool:
        """Take in one event; say whether it carries a token."""
        if self._fold is None:
            if get_field(event, "choices") is not None:
                self._fold = ChatAccumulator(self._content_max_chars)
            else:
                answers = _answers_per_prompt(self._request)
                self._fold = LlamaCppAccumulator(answers, self._content_max_chars)
        return self._fold.add(event)

    @property
    def model(self) -> Any:
        """The model that has been named so far, if any."""
        return None if self._fold is None else self._fold.model

    def response(self) -> Response:
        """Give what the events so far add up to."""
        return (self._fold or ChatAccumulator()).response()


_NATIVE: Final = Route(
    TEXT_COMPLETION,
    read_content=parse_completion_request,
    read_reply=_read_native,
    fold=_CompletionFold,
)
_EMBEDDINGS: Final = Route(EMBEDDINGS, bulk="data", is_bulk_wanted=False)
_RERANK: Final = Route(task="rerank", bulk="results", is_bulk_wanted=False)

_ROUTES: Final[Mapping[str, Route]] = {
    "/completion": _NATIVE,
    "/completions": _NATIVE,
    "/v1/completions": _NATIVE,
    "/chat/completions": Route(CHAT, read_content=parse_chat_request),
    "/infill": Route(task="infill", read_reply=_read_native, fold=_CompletionFold),
    "/embedding": _EMBEDDINGS,
    "/embeddings": _EMBEDDINGS,
    "/rerank": _RERANK,
    "/reranking": _RERANK,
    "/responses": Route(
        CHAT,
        parse_parameters=parse_responses_parameters,
        read_reply=lambda reply, _: parse_created_response(reply),
        read_content=parse_responses_request,
        fold=lambda _, max_chars: ResponsesAccumulator(max_chars),
        is_typed=True,
        bulk="output",
    ),
    "/messages": Route(
        CHAT,
        read_reply=lambda reply, _: parse_messages_response(reply),
        fold=lambda _request, _max_chars: AnthropicAccumulator(),
        is_typed=True,
        bulk="content",
    ),
    "/audio/transcriptions": Route(
        task="transcription",
        fixed={names.GEN_AI_OUTPUT_TYPE: "text"},
        fold=lambda _request, _max_chars: MediaAccumulator(),
        is_typed=True,
    ),
}
_LAST_PARTS: Final = frozenset(path.rpartition("/")[2] for path in _ROUTES)


@lru_cache(maxsize=1024)
def match_path(path: str) -> Match | None:
    """Give the endpoint that a path ends with; the query is no part of the path."""
    if path.rpartition("/")[2] not in _LAST_PARTS:
        return None
    for parts in (2, 1):
        start = len(path)
        for _ in range(parts):
            start = path.rfind("/", 0, start)
        route = _ROUTES.get(path[start:]) if start >= 0 else None
        if route is not None:
            return Match(route, path[:start].removesuffix("/v1"))
    return None


def read_request(route: Route, body: Mapping[str, Any], server: Server | None) -> Request:
    """Read a request: its JSON body, or an empty one where that is not at hand."""
    parameters = {**route.fixed, **route.parse_parameters(body)}
    answers = as_count(body.get("n_cmpl"))
    if answers is not None and answers > 1:
        parameters[names.GEN_AI_REQUEST_CHOICE_COUNT] = answers
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
    )
