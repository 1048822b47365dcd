"""Reading an openai request: where it goes, for which model, and with which parameters."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from llamatelemetry.genai import Request, Server, as_dict, model_name, parse_choice_count, server_of
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import PROVIDER_AZURE_OPENAI, PROVIDER_OPENAI
from llamatelemetry_instrumentation_openai._routes import FETCH, fetched_response_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry_instrumentation_openai._routes import Route

# Clients of the library that are for one provider, wherever their requests go.
_PROVIDER_BY_CLASS: Final = {
    "AzureOpenAI": PROVIDER_AZURE_OPENAI,
    "AsyncAzureOpenAI": PROVIDER_AZURE_OPENAI,
    "BedrockOpenAI": "aws.bedrock",
    "AsyncBedrockOpenAI": "aws.bedrock",
}
_DEPLOYMENT: Final = re.compile(r"/deployments/([^/]+)")


def read_request(client: Any, route: Route, body: Mapping[str, Any], stream: bool) -> Request:
    """Read what a call starts with. Its parameters are left to `read_parameters`.

    Args:
        client: the openai client.
        route: the endpoint of the request.
        body: its JSON, by `read_body`.
        stream: whether a stream was asked for.
    """
    return Request(
        operation=route.operation,
        task=route.task,
        provider=PROVIDER_OPENAI,
        # The model of a fetched response is no part of the request for it.
        model=None if route is FETCH else model_name(body.get("model")) or _deployment(client),
        server=server_of_client(client),
        stream=stream,
        choice_count=parse_choice_count(body),
        read_content=None if route.read_content is None else partial(route.read_content, body),
    )


def read_body(options: Any) -> Mapping[str, Any]:
    """Give the JSON that will be sent: the client merges ``extra_body`` over the rest in the same way.

    Args:
        options: the request's ``FinalRequestOptions``.
    """
    body, extra = as_dict(options.json_data), options.extra_json
    return {**body, **as_dict(extra)} if extra else body


def parse_parameters(
    route: Route, options: Any, body: Mapping[str, Any]
) -> dict[str, AttributeValue]:
    """Give the parameters of a request as attributes."""
    found = {**route.fixed, **route.parse_parameters(body)}
    response_id = fetched_response_id(options.url) if route is FETCH else None
    if response_id is not None:
        found[names.GEN_AI_RESPONSE_ID] = unquote(response_id)
        cursor = as_dict(options.params).get("starting_after")
        if isinstance(cursor, (int, str)):
            found[names.GEN_AI_REQUEST_STREAM_CURSOR] = str(cursor)
    return found


def _deployment(client: Any) -> str | None:
    """An Azure client that is bound to one deployment has it in its URL, and needs no model."""
    found = _DEPLOYMENT.search(client.base_url.path)
    return None if found is None else found[1]


# By the identity of what a client keeps its URL in: an object of its own, and another one when
# its URL is set. (A URL is hashed by being written out, and in openai 3 reading it takes as long.)
_described: Final[dict[int, tuple[Any, type[Any], Server | None]]] = {}
_DESCRIBED_AT_MOST: Final = 256


def server_of_client(client: Any) -> Server | None:
    """Describe the server that a client's requests go to."""
    identity: Any = client.__dict__.get("_base_url")
    kind: type[Any] = client.__class__
    known = _described.get(id(identity))
    if known is not None and known[0] is identity and known[1] is kind and identity is not None:
        return known[2]
    url = client.base_url
    server = server_of(
        url.scheme,
        url.host,
        url.port,
        path=url.path,
        socket=_socket(client),
        provider=_provider_of_class(kind),
    )
    if len(_described) >= _DESCRIBED_AT_MOST:
        _described.clear()
    _described[id(identity)] = (identity, kind, server)
    return server


def _socket(client: Any) -> str | None:
    """The Unix socket that the HTTP client connects to instead of the URL's host."""
    try:
        return client._client._transport._pool._uds
    except AttributeError:  # somebody's own transport
        return None


def _provider_of_class(kind: type[Any]) -> str | None:
    for base in kind.__mro__:
        if base.__module__.startswith("openai."):
            return _PROVIDER_BY_CLASS.get(base.__name__)
    return None
