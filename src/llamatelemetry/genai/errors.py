"""Descriptions of errors for spans: type, HTTP status, and a message without content."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai.json_access import as_dict, as_int, get_field
from llamatelemetry.otel.process.interruption import raise_if_from_signal_handler

if TYPE_CHECKING:
    from collections.abc import Iterator

# A server's error code or type is used as error.type if it is a short token, not a sentence.
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{1,63}")
_MESSAGE_LIMIT = 200


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An error without content of the call.

    Attributes:
        type: Value of `error.type`, of low cardinality.
        description: A longer text, which never quotes a request or a response.
        status_code: HTTP status.
    """

    type: str
    description: str
    status_code: int | None = None


def describe_error(error: BaseException) -> ErrorInfo:
    """Describe an exception by the server's error code or type, the HTTP status, or its class.

    The message of an exception is included only if it is about the connection. The message of
    a server, of a validation error or of an application's exception may quote a prompt.
    """
    name = _qualified_name(type(error))
    status = as_int(_attribute(error, "status_code"))
    code = _server_code(error)
    if status is not None:
        # A successful status is not the error: openai's APIResponseValidationError has one.
        kind = code or (str(status) if status >= 400 else name)
        return ErrorInfo(kind, f"{name}: HTTP {status}" + (f" {code}" if code else ""), status)
    if code is not None:
        return ErrorInfo(code, f"{name}: {code}")
    return ErrorInfo(name, _connection_text(error) or name)


def describe_reported_error(error: Any) -> ErrorInfo | None:
    """Describe an error inside a 2xx response or a stream. Return `None` if there is none.

    Args:
        error: The value of `error`, or an `error` event: an object with `code` or `type`.
    """
    if not error:
        return None
    kind = _code_of(error) or "_OTHER"
    return ErrorInfo(kind, f"reported by the server: {kind}")


def describe_status(status: int, body: Any) -> ErrorInfo:
    """Describe a response with an error status that no library raised as an exception.

    Args:
        status: HTTP status.
        body: The JSON body, or `None`. llama.cpp sends `{"error": {"type": ...}}`.
    """
    code = _code_of(as_dict(get_field(body, "error")) or body)
    return ErrorInfo(code or str(status), f"HTTP {status}" + (f" {code}" if code else ""), status)


def _attribute(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name, None)
    except Exception as failure:  # A property of the exception's class may raise anything.
        raise_if_from_signal_handler(failure)
        return None


def _server_code(error: BaseException) -> str | None:
    body = as_dict(_attribute(error, "body"))
    return _code_of(as_dict(body.get("error")) or body)


def _code_of(error: Any) -> str | None:
    for field in ("code", "type"):
        value = get_field(error, field)
        if isinstance(value, str) and _CODE.fullmatch(value):
            return value
    return None


def _connection_text(error: BaseException) -> str | None:
    """Return the messages of a connection error and its cause, or `None` for other errors.

    For example `openai.APIConnectionError: Connection error. (httpx2.ConnectError: Connection
    refused)`.
    """
    first, *causes = _causes(error)
    known = [cause for cause in causes if _connection_message(cause) is not None]
    if _connection_message(first) is None and not known:
        return None
    texts = [_message_of(link) for link in (first, *(known or causes)[:1])]
    return " ".join([texts[0], *(f"({cause})" for cause in texts[1:])])[:_MESSAGE_LIMIT]


def _message_of(error: BaseException) -> str:
    name, message = _qualified_name(type(error)), _connection_message(error)
    return f"{name}: {message}" if message else name


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


# Without requests and urllib3: their messages quote the URL, with a key in its query. Their
# exceptions have causes with the same information.
_CONNECTION_PACKAGES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "openai"})
_OPENAI_MESSAGES = frozenset({"Connection error.", "Request timed out."})
_CONNECTION_NAMES = ("ConnectionError", "ConnectError", "Timeout", "TimeoutError")


def _connection_message(error: BaseException) -> str | None:
    """Return the message of a connection error, or `None` if it may be about something else."""
    if isinstance(error, OSError):
        return error.strerror  # The system's message has no file name and no text of a program.
    kind = type(error)
    package = kind.__module__.partition(".")[0]
    if package in _CONNECTION_PACKAGES and kind.__name__.endswith(_CONNECTION_NAMES):
        message = str(error)
        is_safe = message in _OPENAI_MESSAGES or _is_raised_by_library(error)
        return message if is_safe else None
    return None


def _is_raised_by_library(error: BaseException) -> bool:
    """Return whether an HTTP library raised it. A custom transport's message may quote a key."""
    link = error.__traceback__
    if link is None:
        return True
    while link.tb_next is not None:
        link = link.tb_next
    return str(link.tb_frame.f_globals.get("__name__")).partition(".")[0] in _CONNECTION_PACKAGES


def _qualified_name(kind: type[BaseException]) -> str:
    # The classes of openai are defined in openai._exceptions and exported as openai.X.
    module = kind.__module__
    if module in {"builtins", "__main__"}:
        return kind.__qualname__
    public = ".".join(part for part in module.split(".") if not part.startswith("_"))
    return f"{public}.{kind.__qualname__}" if public else kind.__qualname__
