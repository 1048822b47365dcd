"""Requests of the `openai` client: server, model and parameters."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from llamatelemetry.genai import (
    Limit,
    Request,
    Server,
    as_dict,
    model_name,
    parse_choice_count,
    server_of,
)
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import PROVIDER_AZURE_OPENAI, PROVIDER_OPENAI
from llamatelemetry_instrumentation_openai._routes import response_id_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry_instrumentation_openai._routes import OpenAIRoute

# These clients belong to one provider, independent of the URL.
_PROVIDER_BY_CLASS: Final = {
    "AzureOpenAI": PROVIDER_AZURE_OPENAI,
    "AsyncAzureOpenAI": PROVIDER_AZURE_OPENAI,
    "BedrockOpenAI": "aws.bedrock",
    "AsyncBedrockOpenAI": "aws.bedrock",
}
_DEPLOYMENT: Final = re.compile(r"/deployments/([^/]+)")


def parse_request(
    client: Any, route: OpenAIRoute, url: str, body: Mapping[str, Any], *, is_stream: bool
) -> Request:
    """Return the request that a call starts with, without the parameters."""
    # Fields are assigned, because a call with this many keyword arguments takes twice as long.
    request = Request(route.operation, PROVIDER_OPENAI)
    request.task = route.task
    # A URL with a host replaces the client's base URL.
    request.server = _server_of_url(url) if "://" in url else server_of_client(client)
    # A request with the id of a response does not name a model. Nor is it an inference request:
    # `stream` only selects how the stored response is sent.
    if not route.is_by_id:
        request.model = model_name(body.get("model")) or _deployment(client)
        request.stream = is_stream
    request.choice_count = parse_choice_count(body)
    if route.read_content is not None:
        request.read_content = partial(route.read_content, body)
    request.body = body
    return request


def read_body(options: Any) -> Mapping[str, Any]:
    """Return the JSON body of a request. `extra_body` is merged as the client merges it."""
    body, extra = options.json_data, options.extra_json
    if isinstance(body, dict) and not extra:
        return body  # type: ignore[reportUnknownVariableType]
    return {**as_dict(body), **as_dict(extra)}


def parse_parameters(
    route: OpenAIRoute, options: Any, body: Mapping[str, Any]
) -> dict[str, AttributeValue]:
    """Return the span attributes for the parameters of a request."""
    found = {**route.fixed, **route.parse_parameters(body)}
    response_id = response_id_of(options.url) if route.is_by_id else None
    if response_id is not None:
        found[names.GEN_AI_RESPONSE_ID] = unquote(response_id)
        cursor = as_dict(options.params).get("starting_after")
        if isinstance(cursor, (int, str)):
            found[names.GEN_AI_REQUEST_STREAM_CURSOR] = str(cursor)
    return found


def _deployment(client: Any) -> str | None:
    """Return the deployment in the URL of an Azure client, which then needs no model."""
    found = _DEPLOYMENT.search(client.base_url.path)
    return None if found is None else found[1]


# Keyed by the identity of the URL object that a client stores, which changes when the URL is set.
# Hashing a URL formats it first, and in openai 3 even reading `base_url` takes as long.
_servers: Final[dict[int, tuple[Any, type[Any], Server | None]]] = {}
_LIMIT: Final = Limit("openai_servers", 256, "URLs of clients of openai, with their server")


def server_of_client(client: Any) -> Server | None:
    """Return the server of a client, or `None` if its URL has no host."""
    kind: type[Any] = client.__class__
    identity: Any = client.__dict__.get("_base_url") if _stores_url(kind) else client.base_url
    known = _servers.get(id(identity))
    if known is not None and known[0] is identity and known[1] is kind and identity is not None:
        return known[2]
    url = client.base_url
    server = server_of(
        url.scheme,
        url.host,
        url.port,
        path=url.path,
        socket=_socket(client, url),
        provider=_provider_of_class(kind),
    )
    if _stores_url(kind):
        _servers[id(identity)] = (identity, kind, server)
        _LIMIT.trim(_servers)
    return server


def _server_of_url(url: str) -> Server | None:
    parts = urlsplit(url)
    return server_of(parts.scheme, parts.hostname or "", parts.port, path=parts.path)


@Limit("openai_clients", 256, "Classes of clients of openai").cached
def _stores_url(kind: type[Any]) -> bool:
    """Return whether the URL of a client is the one that it stores.

    A subclass may compute it, as the client behind `openai.base_url` does.
    """
    definer = next(base for base in kind.__mro__ if "base_url" in vars(base))
    return definer.__name__ in {"BaseClient", "OpenAI", "AsyncOpenAI"} and (
        definer.__module__.startswith("openai")
    )


def _socket(client: Any, url: Any) -> str | None:
    """Return the path of the Unix socket that the HTTP client uses for a URL, if any."""
    try:
        transport = client._client._transport_for_url(url)
        pool = getattr(transport, "_pool", None)
        return transport.uds if pool is None else pool._uds  # `uds` is that of httpx-aiohttp.
    except AttributeError:  # A custom transport.
        return None


def _provider_of_class(kind: type[Any]) -> str | None:
    for base in kind.__mro__:
        if base.__module__.startswith("openai."):
            return _PROVIDER_BY_CLASS.get(base.__name__)
    return None
