"""Inference endpoints of servers, and how to parse the requests and responses of each.

llama.cpp, Ollama and SGLang have their own paths in addition to those of OpenAI and Anthropic. An
option of the server or a proxy may add any prefix, so paths are matched by their end. Endpoints that
do not run a model, such as `/tokenize`, `/api/show` and `/props`, are not included.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llamatelemetry.genai import (
    AnthropicAccumulator,
    ChatAccumulator,
    Limit,
    LlamaCppAccumulator,
    MediaAccumulator,
    OllamaAccumulator,
    Request,
    ResponsesAccumulator,
    SGLangAccumulator,
    as_count,
    get_field,
    model_name,
    parse_chat_request,
    parse_choice_count,
    parse_completion_request,
    parse_created_response,
    parse_messages_response,
    parse_native_completion,
    parse_ollama_chat_request,
    parse_ollama_generate_request,
    parse_ollama_parameters,
    parse_ollama_response,
    parse_parameters,
    parse_response,
    parse_responses_parameters,
    parse_responses_request,
    parse_sglang_choice_count,
    parse_sglang_parameters,
    parse_sglang_request,
    parse_sglang_response,
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
class InferenceRoute:
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
        parse_choice_count: Returns the number of requested choices, for all prompts together.
        is_typed: Whether the events of a stream have a `type`.
        bulk: Top-level array that can make a response long.
        is_bulk_wanted: Whether anything in that array is recorded.
        servers: Providers whose servers have this endpoint; `None` for a path that no other kind of
            server has. An application may have an `/api/chat` of its own, at the same origin.
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
    servers: frozenset[str] | None = None
    parse_choice_count: Callable[[Mapping[str, Any]], int] = parse_choice_count

    def is_served_by(self, provider: str) -> bool:
        """Return whether servers of a provider have this endpoint."""
        return self.servers is None or provider in self.servers


class RouteMatch(NamedTuple):
    """An endpoint and the prefix of its path."""

    route: InferenceRoute
    prefix: str


def _choice_count(request: Request) -> int:
    return as_count(request.parameters.get(names.GEN_AI_REQUEST_CHOICE_COUNT)) or 1


def _is_openai(event: Any) -> bool:
    return isinstance(event, dict) and get_field(event, "choices") is not None


# A path does not determine the format. Some proxies serve OpenAI's completions without `/v1`, and
# llama.cpp serves OpenAI's chat at Ollama's path.
def _or_openai(parse: Callable[[Any, Request], Response]) -> Callable[[Any, Request], Response]:
    """Return a parser of a native format that also parses OpenAI's."""
    return lambda body, request: parse_response(body) if _is_openai(body) else parse(body, request)


class _NativeOrOpenAI:
    """Accumulates a stream in a server's native format or in OpenAI's."""

    __slots__ = ("_accumulator", "_content_max_chars", "_make_native")

    def __init__(
        self, make_native: Callable[[], Accumulator], content_max_chars: int | None
    ) -> None:
        self._make_native = make_native
        self._content_max_chars = content_max_chars
        self._accumulator: Accumulator | None = None

    def add(self, event: Any) -> bool:
        """Add one event. Return whether it has a token."""
        if event is None:  # llama.cpp opens the stream of several prompts with null.
            return False
        if self._accumulator is None:
            if _is_openai(event):
                self._accumulator = ChatAccumulator(self._content_max_chars)
            else:
                self._accumulator = self._make_native()
        return self._accumulator.add(event)

    @property
    def model(self) -> Any:
        """The model that the events have named so far, if any."""
        return None if self._accumulator is None else self._accumulator.model

    def response(self) -> Response:
        """Return the response that the events so far amount to."""
        return (self._accumulator or ChatAccumulator()).response()


_parse_native = _or_openai(
    lambda body, request: parse_native_completion(body, _choice_count(request))
)


def _accumulate_native(request: Request, max_chars: int | None) -> Accumulator:
    return _NativeOrOpenAI(
        lambda: LlamaCppAccumulator(_choice_count(request), max_chars), max_chars
    )


_NATIVE: Final = InferenceRoute(
    TEXT_COMPLETION,
    read_content=parse_completion_request,
    parse_response=_parse_native,
    make_accumulator=_accumulate_native,
)
# SGLang, Lemonade and KoboldCpp imitate Ollama's endpoints, llama.cpp that of the chat.
_LIKE_OLLAMA: Final = frozenset({"ollama", "sglang", "lemonade", "koboldcpp"})
_OLLAMA_CHAT: Final = InferenceRoute(
    CHAT,
    parse_parameters=lambda body: {**parse_parameters(body), **parse_ollama_parameters(body)},
    read_content=parse_ollama_chat_request,
    parse_response=_or_openai(lambda body, _: parse_ollama_response(body)),
    make_accumulator=lambda _, max_chars: _NativeOrOpenAI(
        lambda: OllamaAccumulator(max_chars), max_chars
    ),
    servers=_LIKE_OLLAMA | {PROVIDER_LLAMA_CPP},
)
_OLLAMA_GENERATE: Final = InferenceRoute(
    TEXT_COMPLETION,
    parse_parameters=parse_ollama_parameters,
    read_content=parse_ollama_generate_request,
    parse_response=lambda body, _: parse_ollama_response(body),
    make_accumulator=lambda _, max_chars: OllamaAccumulator(max_chars),
    parse_choice_count=lambda _: 1,
    bulk="context",
    servers=_LIKE_OLLAMA,
)
_OLLAMA_EMBED: Final = InferenceRoute(
    EMBEDDINGS,
    parse_parameters=parse_ollama_parameters,
    parse_response=lambda body, _: parse_ollama_response(body),
    bulk="embeddings",
    is_bulk_wanted=False,
    servers=_LIKE_OLLAMA,
)
_SGLANG_GENERATE: Final = InferenceRoute(
    TEXT_COMPLETION,
    parse_parameters=parse_sglang_parameters,
    read_content=parse_sglang_request,
    parse_response=lambda body, request: parse_sglang_response(body, _choice_count(request)),
    make_accumulator=lambda request, max_chars: SGLangAccumulator(
        _choice_count(request), max_chars
    ),
    parse_choice_count=parse_sglang_choice_count,
    servers=frozenset({"sglang"}),
)
_EMBEDDINGS: Final = InferenceRoute(EMBEDDINGS, bulk="data", is_bulk_wanted=False)
_RERANK: Final = InferenceRoute(task="rerank", bulk="results", is_bulk_wanted=False)

_ROUTES: Final[Mapping[str, InferenceRoute]] = {
    "/completion": _NATIVE,
    "/completions": _NATIVE,
    "/v1/completions": _NATIVE,
    "/chat/completions": InferenceRoute(CHAT, read_content=parse_chat_request),
    "/infill": InferenceRoute(
        task="infill", parse_response=_parse_native, make_accumulator=_accumulate_native
    ),
    "/embedding": _EMBEDDINGS,
    "/embeddings": _EMBEDDINGS,
    "/rerank": _RERANK,
    "/reranking": _RERANK,
    "/responses": InferenceRoute(
        CHAT,
        parse_parameters=parse_responses_parameters,
        parse_response=lambda body, _: parse_created_response(body),
        read_content=parse_responses_request,
        make_accumulator=lambda _, max_chars: ResponsesAccumulator(max_chars),
        is_typed=True,
        bulk="output",
    ),
    "/messages": InferenceRoute(
        CHAT,
        parse_response=lambda body, _: parse_messages_response(body),
        make_accumulator=lambda _request, _max_chars: AnthropicAccumulator(),
        is_typed=True,
        bulk="content",
    ),
    "/audio/transcriptions": InferenceRoute(
        task="transcription",
        fixed={names.GEN_AI_OUTPUT_TYPE: "text"},
        make_accumulator=lambda _request, _max_chars: MediaAccumulator(),
        is_typed=True,
    ),
    "/api/chat": _OLLAMA_CHAT,
    "/api/generate": _OLLAMA_GENERATE,
    "/api/embed": _OLLAMA_EMBED,
    "/api/embeddings": replace(_OLLAMA_EMBED, bulk="embedding"),
    "/generate": _SGLANG_GENERATE,
}
_LAST_PARTS: Final = frozenset(path.rpartition("/")[2] for path in _ROUTES)


@Limit("request_paths", 1024, "Paths of requests, with their endpoint").cached
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


def parse_request(route: InferenceRoute, body: Mapping[str, Any], server: Server | None) -> Request:
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
        choice_count=route.parse_choice_count(body),
        parameters=parameters,
        task=route.task,
        read_content=None if route.read_content is None else partial(route.read_content, body),
        body=body,
    )
