"""Descriptions of errors for spans: type, HTTP status, and a message without content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.error_codes import is_known_code
from llamatelemetry.genai.json_access import as_dict, as_fields, as_int, as_list, as_str, get_field
from llamatelemetry.otel.process.interruption import raise_if_from_signal_handler

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    try:
        return _describe(error)
    except Exception as failure:  # An exception's own methods and properties may raise anything.
        internal_errors.log_once("describing an error", failure)
        return ErrorInfo(type(error).__name__, type(error).__name__)


def _describe(error: BaseException) -> ErrorInfo:
    name = _qualified_name(type(error))
    status = as_int(_attribute(error, "status_code"))
    if status is None and name.startswith("aiohttp."):
        status = as_int(_attribute(error, "status"))
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
    return _reported(error) if error else None


def _reported(error: Any) -> ErrorInfo:
    kind = _code_of(error) or _number_of(error) or "_OTHER"
    return ErrorInfo(kind, f"reported by the server: {kind}")


# Any of these fields can mean that a 2xx response is an error; see `find_reported_error`.
ERROR_FIELDS: Final = frozenset({"error", "errors", "error_code", "base_resp", "success"})


def find_reported_error(body: Any) -> ErrorInfo | None:
    """Describe the error that a 2xx response or an event consists of. Return `None` if it is none.

    | Server | Form |
    |---|---|
    | OpenRouter, llama.cpp, most others | `{"error": {"code": 502, "message": ...}}` |
    | LM Studio, Ollama | `{"error": "a message"}` |
    | Text Generation Inference | `{"error": "a message", "error_type": "overloaded"}` |
    | vLLM, FastChat | `{"object": "error", "type": ..., "code": 400}` |
    | MiniMax | `{"base_resp": {"status_code": 1004, ...}}` |
    | Qianfan | `{"error_code": 336003, ...}` |
    | Zhipu | `{"success": false, "code": 500, ...}` |
    | Cloudflare | `{"success": false, "errors": [{"code": 10000}]}` |
    | Gemini | a list with one object that has `error` |
    """
    fields = as_fields(next(iter(as_list(body)), None) if isinstance(body, list) else body)
    error = fields.get("error")
    if error:
        return _reported(error if as_fields(error) else {"type": fields.get("error_type")})
    if fields.get("object") == "error":
        return _reported(fields)
    status = as_int(get_field(fields.get("base_resp"), "status_code"))
    if status:
        return _reported({"code": status})
    code = as_int(fields.get("error_code")) or as_str(fields.get("error_code"))
    if code and code != "0":
        return _reported({"code": code})
    if fields.get("success") is False:
        return _reported(next(iter(as_list(fields.get("errors"))), None) or fields)
    return None


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
        if isinstance(value, str) and is_known_code(value):
            return value
    return None


def _number_of(error: Any) -> str | None:
    """Return the error code of a server that numbers its errors, such as 502 or 336003."""
    code = as_int(get_field(error, "code"))
    return str(code) if code is not None and 0 < code < 1_000_000 else None


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
