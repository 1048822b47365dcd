"""What a span may say of an error: its kind, its HTTP status, and words that hold no content."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamatelemetry.genai.fields import integer, mapping

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
    status = integer(getattr(error, "status_code", None))
    code = _server_code(error)
    if status is not None:
        kind = code or str(status)
        return ErrorInfo(kind, f"{name}: HTTP {status}" + (f" {code}" if code else ""), status)
    if code is not None:
        return ErrorInfo(code, f"{name}: {code}")
    return ErrorInfo(name, _connection_text(error) or name)


def _server_code(error: BaseException) -> str | None:
    body = mapping(getattr(error, "body", None))
    source = mapping(body.get("error")) or body
    for field in ("code", "type"):
        value = source.get(field)
        if isinstance(value, str) and _CODE.fullmatch(value):
            return value
    return None


def _connection_text(error: BaseException) -> str | None:
    """``openai.APIConnectionError: Connection error. (httpx2.ConnectError: Connection refused)``."""
    if not any(_speaks_of_connection(link) for link in _causes(error)):
        return None
    told = [f"{_qualified_name(type(error))}: {error}"]
    cause = error.__cause__
    if cause is not None and _speaks_of_connection(cause):
        told.append(f"({_qualified_name(type(cause))}: {cause})")
    return " ".join(told)[:_MESSAGE_LIMIT]


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


_CONNECTION_MODULES = ("httpx", "httpcore", "requests", "urllib3", "openai")
_CONNECTION_NAMES = (
    "ConnectionError",
    "ConnectError",
    "ConnectTimeout",
    "TimeoutError",
    "APITimeoutError",
)


def _speaks_of_connection(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return True
    kind = type(error)
    return kind.__module__.startswith(_CONNECTION_MODULES) and kind.__name__.endswith(
        _CONNECTION_NAMES
    )


def _qualified_name(kind: type[BaseException]) -> str:
    # openai's own classes live in openai._exceptions and are known as openai.X.
    module = kind.__module__
    if module in {"builtins", "__main__"}:
        return kind.__qualname__
    public = ".".join(part for part in module.split(".") if not part.startswith("_"))
    return f"{public}.{kind.__qualname__}" if public else kind.__qualname__
