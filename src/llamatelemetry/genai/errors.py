"""What a span may say of an error: its kind, its HTTP status, and words that hold no content."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai.json_access import as_dict, as_int, get_field

if TYPE_CHECKING:
    from collections.abc import Iterator

# A server's error code or type that can serve as error.type: a short token, not a sentence.
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{1,63}")
_MESSAGE_LIMIT = 200


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """``type`` is of low cardinality; ``description`` says more and never quotes a request or reply."""

    type: str
    description: str
    status_code: int | None = None


def describe_error(error: BaseException) -> ErrorInfo:
    """Read the kind of an error: the server's own code or type, else the HTTP status, else the class.

    The text of an error is taken over only where it speaks of the connection. A server's
    message, a validation error or the application's own exception may quote a prompt.
    """
    name = _qualified_name(type(error))
    status = as_int(_attribute(error, "status_code"))
    code = _server_code(error)
    if status is not None:
        # A good status is not what went wrong: openai's APIResponseValidationError has one.
        kind = code or (str(status) if status >= 400 else name)
        return ErrorInfo(kind, f"{name}: HTTP {status}" + (f" {code}" if code else ""), status)
    if code is not None:
        return ErrorInfo(code, f"{name}: {code}")
    return ErrorInfo(name, _connection_text(error) or name)


def describe_reported_error(error: Any) -> ErrorInfo | None:
    """Read an error that a server tells of inside a good reply or a stream; ``None`` when there is none.

    ``error`` is what stands under ``error``, or an ``error`` event: an object with ``code`` or ``type``.
    """
    if not error:
        return None
    kind = _code_of(error) or "_OTHER"
    return ErrorInfo(kind, f"reported by the server: {kind}")


def describe_status(status: int, body: Any) -> ErrorInfo:
    """Read a reply whose HTTP status is an error, where nobody has made an exception of it.

    ``body`` is its JSON, or ``None``; llama.cpp's ``{"error": {"type": ...}}`` gives the kind.
    """
    code = _code_of(as_dict(get_field(body, "error")) or body)
    return ErrorInfo(code or str(status), f"HTTP {status}" + (f" {code}" if code else ""), status)


def _attribute(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name, None)
    except Exception:  # a property of somebody's exception class
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
    """``openai.APIConnectionError: Connection error. (httpx2.ConnectError: Connection refused)``."""
    first, *causes = _causes(error)
    speaking = [cause for cause in causes if _connection_words(cause) is not None]
    if _connection_words(first) is None and not speaking:
        return None
    told = [_told(link) for link in (first, *(speaking or causes)[:1])]
    return " ".join([told[0], *(f"({cause})" for cause in told[1:])])[:_MESSAGE_LIMIT]


def _told(error: BaseException) -> str:
    name, words = _qualified_name(type(error)), _connection_words(error)
    return f"{name}: {words}" if words else name


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


# Not requests and urllib3: their texts quote the URL, key in the query included. What they
# were raised from says as much.
_CONNECTION_PACKAGES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "openai"})
_OWN_WORDS = frozenset({"Connection error.", "Request timed out."})  # what openai says itself
_CONNECTION_NAMES = ("ConnectionError", "ConnectError", "Timeout", "TimeoutError")


def _connection_words(error: BaseException) -> str | None:
    """What an error says of the connection, ``None`` when it may be about something else."""
    if isinstance(error, OSError):
        return error.strerror  # what the system said: no file name, no text of a program's own
    kind = type(error)
    package = kind.__module__.partition(".")[0]
    if package in _CONNECTION_PACKAGES and kind.__name__.endswith(_CONNECTION_NAMES):
        words = str(error)
        return words if words in _OWN_WORDS or _is_raised_by_library(error) else None
    return None


def _is_raised_by_library(error: BaseException) -> bool:
    """False of one that a transport of somebody's own raises, which may quote URL and key."""
    link = error.__traceback__
    if link is None:
        return True
    while link.tb_next is not None:
        link = link.tb_next
    return str(link.tb_frame.f_globals.get("__name__")).partition(".")[0] in _CONNECTION_PACKAGES


def _qualified_name(kind: type[BaseException]) -> str:
    # openai's own classes live in openai._exceptions and are known as openai.X.
    module = kind.__module__
    if module in {"builtins", "__main__"}:
        return kind.__qualname__
    public = ".".join(part for part in module.split(".") if not part.startswith("_"))
    return f"{public}.{kind.__qualname__}" if public else kind.__qualname__
