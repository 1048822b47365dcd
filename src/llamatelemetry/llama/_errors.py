"""What the clients raise when a llama.cpp server refuses or fails, and how it is read from a reply."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import as_dict, as_int
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

_LOADING: Final = "loading model"
_EXCERPT: Final = 300


class LlamaServerError(Exception):
    """A llama.cpp server has answered with an error.

    Attributes:
        status: HTTP status; of an error in the middle of a stream, the code that the event names.
        type: the server's word for it, such as ``invalid_request_error``.
        message: the server's own text. It may quote what was sent.
        n_prompt_tokens: the length of a prompt that exceeds the context, else ``None``.
        n_ctx: the context's size in that case, else ``None``.
        body: the JSON of the reply; empty when it was none.
    """

    def __init__(self, status: int, type: str, message: str) -> None:  # noqa: A002 - the contract's
        super().__init__(status, type, message)
        self.status = status
        self.type = type
        self.message = message
        self.n_prompt_tokens: int | None = None
        self.n_ctx: int | None = None
        self.body: dict[str, Any] = {}

    @property
    def status_code(self) -> int:
        """The same as ``status``, under the name that HTTP libraries use."""
        return self.status

    def __str__(self) -> str:
        size = ""
        if self.n_prompt_tokens is not None and self.n_ctx is not None:
            size = f" (prompt of {self.n_prompt_tokens} tokens, context of {self.n_ctx})"
        return f"HTTP {self.status} {self.type}: {self.message}{size}"


class ServerLoadingError(LlamaServerError):
    """The server is up and still loads its model: try again, or give ``load_wait_s``."""


def read_error(status: int, content: bytes) -> LlamaServerError:
    """Read the reply to a request that has failed: llama.cpp's JSON, or whatever a proxy sent."""
    try:
        body: Mapping[str, Any] = as_dict(json.loads(content))
    except ValueError:
        body = {}
    if as_dict(body.get("error")):
        return error_of(body, status)
    text = content[:_EXCERPT].decode("utf-8", "replace").strip()
    return LlamaServerError(status, "http_error", text or "no reason given")


def error_of(body: Any, status: int | None = None) -> LlamaServerError:
    """Give the error that an object with ``error`` tells of; its own code counts without a status."""
    told = as_dict(body["error"])
    known = status or as_int(told.get("code")) or 500
    message = str(told.get("message") or body["error"])
    kind = str(told.get("type") or "server_error")
    is_loading = known == 503 and _LOADING in message.lower()
    error = (ServerLoadingError if is_loading else LlamaServerError)(known, kind, message)
    error.n_prompt_tokens = as_int(told.get("n_prompt_tokens"))
    error.n_ctx = as_int(told.get("n_ctx"))
    error.body = dict(body)
    return error


def sizes_of(error: BaseException) -> dict[str, AttributeValue]:
    """What a span says of a prompt that is too long: its length, and what there is room for."""
    if not isinstance(error, LlamaServerError):
        return {}
    sizes = {
        names.ERROR_PROMPT_TOKENS: error.n_prompt_tokens,
        names.ERROR_CONTEXT_SIZE: error.n_ctx,
    }
    return {name: size for name, size in sizes.items() if size is not None}
