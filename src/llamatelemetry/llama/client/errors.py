"""Errors that the clients raise for error responses of a llama.cpp server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry._terminal import printable
from llamatelemetry.genai import as_dict, as_int, as_list
from llamatelemetry.genai.errors import find_reported_error
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

_LOADING: Final = "loading model"
_EXCERPT_BYTES: Final = 300


class LlamaServerError(Exception):
    """An error response of a llama.cpp server.

    Attributes:
        status: HTTP status; for an error event inside a stream, the code of the event.
        type: Error type of the server, such as `invalid_request_error`.
        message: Error message of the server. It may quote the request.
        n_prompt_tokens: Length of a prompt that exceeds the context, else `None`.
        n_ctx: Context size if the prompt exceeds it, else `None`.
        body: JSON of the response; empty if it is not JSON.

    Examples:
        >>> from llamatelemetry.llama import LlamaCppClient, LlamaServerError
        >>> with LlamaCppClient("http://127.0.0.1:8080") as client:
        ...     try:
        ...         client.chat([{"role": "user", "content": "word " * 2000}])
        ...     except LlamaServerError as error:
        ...         print(error.status, error.type, error.n_prompt_tokens > error.n_ctx)
        400 exceed_context_size_error True
    """

    def __init__(self, status: int, type: str, message: str) -> None:  # noqa: A002 - public API
        super().__init__(status, type, message)
        self.status = status
        self.type = type
        self.message = message
        self.n_prompt_tokens: int | None = None
        self.n_ctx: int | None = None
        self.body: dict[str, Any] = {}

    @property
    def status_code(self) -> int:
        """HTTP status, under the name that HTTP libraries use."""
        return self.status

    def __str__(self) -> str:
        size = ""
        if self.n_prompt_tokens is not None and self.n_ctx is not None:
            size = f" (prompt of {self.n_prompt_tokens} tokens, context of {self.n_ctx})"
        return printable(f"HTTP {self.status} {self.type}: {self.message}{size}")


class ServerLoadingError(LlamaServerError):
    """The server is still loading its model. Try again, or set `load_wait_s`."""


def parse_error_response(status: int, content: bytes) -> LlamaServerError:
    """Parse an error response: llama.cpp's JSON, or any text that a proxy sent."""
    try:
        body: Mapping[str, Any] = as_dict(json.loads(content))
    except ValueError:
        body = {}
    if as_dict(body.get("error")):
        return parse_error_object(body, status)
    text = content[:_EXCERPT_BYTES].decode("utf-8", "replace").strip()
    return LlamaServerError(status, "http_error", text or "no reason given")


def parse_error_object(body: Any, status: int | None = None) -> LlamaServerError:
    """Return the error in a JSON object. Without an HTTP status, the code in the object is used."""
    details = as_dict(body["error"])
    code = status or as_int(details.get("code")) or 500
    message = str(details.get("message") or body["error"])
    kind = str(details.get("type") or "server_error")
    is_loading = code == 503 and _LOADING in message.lower()
    error = (ServerLoadingError if is_loading else LlamaServerError)(code, kind, message)
    error.n_prompt_tokens = as_int(details.get("n_prompt_tokens"))
    error.n_ctx = as_int(details.get("n_ctx"))
    error.body = dict(body)
    return error


def find_error(body: Any) -> LlamaServerError | None:
    """Return the error that the JSON of a 2xx response consists of; `None` if it is none."""
    if find_reported_error(body) is None:
        return None
    fields = as_dict(next(iter(as_list(body)), None) if isinstance(body, list) else body)
    if fields.get("error"):
        return parse_error_object(fields)
    return parse_error_object({"error": dict(fields)})


def error_attributes(error: BaseException) -> dict[str, AttributeValue]:
    """Return the span attributes of a prompt that exceeds the context: its length, and the size."""
    if not isinstance(error, LlamaServerError):
        return {}
    sizes = {
        names.ERROR_PROMPT_TOKENS: error.n_prompt_tokens,
        names.ERROR_CONTEXT_SIZE: error.n_ctx,
    }
    return {name: size for name, size in sizes.items() if size is not None}
