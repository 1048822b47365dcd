"""Reading an openai request: which operation it is, where it goes, and with which parameters."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import Request, Server, read_parameters
from llamatelemetry.genai.fields import count, mapping, model_name
from llamatelemetry.genai.messages import read_chat_request, read_completion_request
from llamatelemetry.genai.servers import server_of
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import CHAT, EMBEDDINGS, PROVIDER_OPENAI, TEXT_COMPLETION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai import Content

# By method and the exact URL as the resources pass it; Azure rewrites it later.
ROUTES: Final[Mapping[tuple[str, str], tuple[str, Mapping[str, AttributeValue]]]] = {
    ("post", "/chat/completions"): (CHAT, {names.OPENAI_API_TYPE: "chat_completions"}),
    ("post", "/completions"): (TEXT_COMPLETION, {}),
    ("post", "/embeddings"): (EMBEDDINGS, {}),
}


# An operation that is not here has no content: the conventions know none of embeddings.
CONTENT: Final[Mapping[str, Callable[[Mapping[str, Any]], Content]]] = {
    "/chat/completions": read_chat_request,
    "/completions": read_completion_request,
}


def read_request(client: Any, options: Any, stream: bool) -> Request | None:
    """Read a request as ``OpenAI.request`` gets it, or ``None`` when it is no inference call.

    Args:
        client: the openai client.
        options: its ``FinalRequestOptions``.
        stream: whether a stream was asked for.
    """
    route = ROUTES.get((options.method, options.url))
    if route is None:
        return None
    operation, fixed = route
    body = _body(options)
    read_content = CONTENT.get(options.url)
    return Request(
        operation=operation,
        provider=PROVIDER_OPENAI,
        model=model_name(body.get("model")),
        server=_server_of(client),
        stream=stream,
        choice_count=count(body.get("n")) or 1,
        parameters={**fixed, **read_parameters(body)},
        read_content=None if read_content is None else partial(read_content, body),
    )


def _body(options: Any) -> Mapping[str, Any]:
    """What will be sent: the client merges ``extra_body`` over the rest in the same way."""
    body, extra = mapping(options.json_data), mapping(options.extra_json)
    return {**body, **extra} if extra else body


def _server_of(client: Any) -> Server | None:
    url = client.base_url
    return _parse_server(url.scheme, url.host, url.port)


@lru_cache(maxsize=256)
def _parse_server(scheme: str, host: str, port: int | None) -> Server | None:
    return server_of(scheme, host, port)
