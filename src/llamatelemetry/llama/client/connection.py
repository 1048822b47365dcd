"""The connection of a client: where the server is, HTTP settings, and how calls are recorded."""

from __future__ import annotations

import asyncio
import math
import os
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from llamatelemetry import __version__
from llamatelemetry._optional import required_by
from llamatelemetry.config import mask_url
from llamatelemetry.genai import (
    ConfiguredInstrumenter,
    Request,
    get_field,
    internal_errors,
    model_name,
    parse_parameters,
    server_of,
)
from llamatelemetry.genai.own_requests import httpx_mounts
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Generator

    from llamatelemetry.genai import Call
    from llamatelemetry.llama.client.endpoints import Exchange, Inference

T = TypeVar("T")

_SCOPE: Final = "llamatelemetry.llama"
_CONNECT_TIMEOUT_S: Final = 10.0
_CONNECTING: Final = frozenset({"connection.connect_tcp.started", "connection.retry.started"})
_HEADERS_RECEIVED: Final = "receive_response_headers.complete"
_NO_RESPONSE: Final = "disconnected without sending a response"


@contextmanager
def _certificates_named() -> Generator[None]:
    """Name the variable of the CA certificates in the error if they cannot be read."""
    try:
        yield
    except OSError as error:
        path = os.environ.get("SSL_CERT_FILE")
        if not path:
            raise
        raise OSError(
            error.errno,
            f"SSL_CERT_FILE must be a file of CA certificates (PEM), got {path!r}: "
            f"{error.strerror or error}. Correct or unset it",
        ) from error


class Connection:
    """The state of a client that does not change between calls, and its HTTP client."""

    def __init__(
        self,
        base_url: str,
        *,
        is_async: bool,
        api_key: str | None,
        model: str | None,
        timeout_s: float,
        load_wait_s: float,
        strict_operation_names: bool,
    ) -> None:
        with required_by("A llama.cpp client", "llamatelemetry-core[llama]"):
            import httpx2
        self.httpx2: Any = httpx2
        self.is_async = is_async
        self.base_url = _root_of(base_url)
        _check_timeout(timeout_s)
        self.model = model
        self.response_model: str | None = None
        self.load_wait_s = load_wait_s
        parts = urlsplit(self.base_url)
        client_class = self.httpx2.AsyncClient if is_async else self.httpx2.Client
        with _certificates_named():
            self.http: Any = client_class(
                base_url=self.base_url,
                headers=_authorization(api_key),
                timeout=self.httpx2.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
                # With the default of 100 connections, calls would queue in the HTTP client.
                limits=self.httpx2.Limits(max_connections=None, max_keepalive_connections=20),
                mounts=httpx_mounts(parts.hostname),
            )
        self._server = server_of(parts.scheme, parts.hostname or "", parts.port)
        # True is the default, which the configuration may override; False is explicit.
        own: dict[str, Any] = {} if strict_operation_names else {"strict_operation_names": False}
        self._instrumenter = ConfiguredInstrumenter(_SCOPE, __version__, **own)

    @property
    def shown_url(self) -> str:
        """Base URL for messages, with user, password and query masked."""
        return mask_url(self.base_url)

    def build(self, exchange: Exchange[Any], **options: Any) -> Any:
        """Build the HTTP request of one attempt."""
        if exchange.stream:
            # llama.cpp's HTTP library may close a connection after a stream without announcing
            # it. The next request over the same connection would get no response.
            options["headers"] = {"Connection": "close"}
        return self.http.build_request(
            exchange.method, exchange.path, json=exchange.body, params=exchange.query, **options
        )

    async def send(self, request: Any, *, stream: bool = False) -> Any:
        """Send a request. The body of the response is read, except that of a successful stream."""
        response = self.http.send(request, stream=stream)
        if self.is_async:
            response = await response
        if stream and not response.is_success:
            await response.aread() if self.is_async else response.read()
        return response

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        if self.is_async:
            await asyncio.sleep(seconds)
        else:
            time.sleep(seconds)  # noqa: ASYNC251 - a synchronous client is to block

    def set_default_model(self, exchange: Exchange[T]) -> Exchange[T]:
        """Add the client's model to a request without one: a router requires it in each."""
        if exchange.body is not None and self.model:
            exchange.body.setdefault("model", self.model)
        return exchange

    def cache_model(self, response: Any) -> None:
        """Remember the model name of the first response, for a client without a model."""
        if self.response_model is None:
            self.response_model = model_name(get_field(response, "model"))

    def start(self, exchange: Exchange[Any], inference: Inference) -> Call | None:
        """Start recording a call. Return `None` if it is not recorded."""
        body = exchange.body or {}
        content_parser = inference.parse_content
        try:
            call = self._instrumenter.get().start(
                Request(
                    operation=inference.operation,
                    task=inference.task,
                    provider=PROVIDER_LLAMA_CPP,
                    model=model_name(body.get("model")),
                    server=self._server,
                    stream=exchange.stream,
                    choice_count=inference.choice_count,
                    read_content=None if content_parser is None else partial(content_parser, body),
                    body=body,
                )
            )
            if call is not None and call.recording:
                call.request.parameters = parse_parameters(body)
            return call
        except Exception as error:
            internal_errors.log_once("starting a call of the llama.cpp client", error)
            return None

    def start_attempt(self, call: Call, request: Any) -> None:
        """Record that the request is sent, or sent again, and inject the trace context."""
        try:
            call.start_attempt()
            call.instrumenter.propagation.inject(request.headers, self.http, request.url)
            if call.diagnostics is not None:
                call.diagnostics.attach(request, is_async=self.is_async)
        except Exception as error:
            internal_errors.log_once("preparing a request", error)


def _root_of(base_url: Any) -> str:
    """Return the server's base URL without `/v1`, which clients of the OpenAI protocol include."""
    if not isinstance(base_url, str) or not base_url.startswith(("http://", "https://")):
        raise ValueError(
            f"base_url must start with http:// or https://, got {mask_url(str(base_url))!r}"
        )
    return base_url.rstrip("/").removesuffix("/v1").rstrip("/")


def _check_timeout(timeout_s: Any) -> None:
    if not isinstance(timeout_s, (int, float)) or not 0 < timeout_s < math.inf:
        raise ValueError(f"timeout_s must be a number of seconds above 0, got {timeout_s!r}")


def _authorization(api_key: str | None) -> dict[str, str]:
    """Return the header for a key. An empty key counts as missing."""
    if not api_key:
        return {}
    # The error of the HTTP library would contain the key.
    if not (api_key.isascii() and api_key.isprintable()) or api_key != api_key.strip():
        raise ValueError(
            "api_key must be printable ASCII without spaces or line breaks around it. A key that "
            "was read from a file may end with a line break"
        )
    return {"Authorization": f"Bearer {api_key}"}


class ConnectionReuseTracker:
    """Detect that a request was lost because its kept-alive connection was just being closed.

    A server may close a kept-alive connection at any time. llama.cpp does so after some seconds
    without requests, and, without announcing it, after each response that a router forwards. A
    request sent at that moment gets no response. On a reused connection the request can be sent
    again over a new one. On a new connection a missing response means that the server failed.
    """

    __slots__ = ("_has_response", "_is_new")

    def __init__(self) -> None:
        self._is_new = False
        self._has_response = False

    def attach(self, request: Any, *, is_async: bool) -> None:
        """Receive the HTTP library's events for a request from now on."""
        request.extensions["trace"] = self._on_event_async if is_async else self._on_event

    def was_closed(self, error: Exception) -> bool:
        """Return whether the request failed because a reused connection was closed."""
        if self._is_new or self._has_response:
            return False
        # RemoteProtocolError is also raised for a response that is not HTTP.
        return type(error).__name__ != "RemoteProtocolError" or _NO_RESPONSE in str(error)

    def _on_event(self, event: str, _info: Any) -> None:
        if event in _CONNECTING:
            self._is_new = True
        elif event.endswith(_HEADERS_RECEIVED):
            self._has_response = True

    async def _on_event_async(self, event: str, info: Any) -> None:
        self._on_event(event, info)
