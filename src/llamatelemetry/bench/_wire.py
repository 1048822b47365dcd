"""When a request left and its answer began, as the HTTP library tells.

A client takes milliseconds to build a request and to connect, and on an event loop others have
their turn meanwhile. None of it is the server's queue. httpx and httpx2 tell what they do for a
request to its ``trace`` extension; where a client goes over something else, nothing is told, and
the observation's own times stand.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

# Not its end: by the time that is noticed here, the server may have been at work for a while.
_LEAVES: Final = "send_request_body.started"
_ANSWERED: Final = "receive_response_headers.complete"


class Watcher(Protocol):
    """Who wants to know."""

    def leaves(self) -> None:
        """The request is going out."""
        ...

    def headers(self) -> None:
        """Response headers have come."""
        ...


watcher: Final[ContextVar[Watcher | None]] = ContextVar(
    "llamatelemetry_bench_watcher", default=None
)


def watch_openai(client: Any, *, is_async: bool) -> None:
    """Tell of the requests of a copy of an OpenAI client, by the method that it has for changing them."""
    before = client._prepare_request

    def prepare(request: Any) -> Any:
        watch_request(request, is_async=is_async)
        return before(request)  # of an asynchronous client to be awaited

    client._prepare_request = prepare


def watch_llama(client: Any) -> None:
    """Tell of the requests of an asynchronous llama.cpp client that is the benchmark's own."""

    async def prepare(request: Any) -> None:
        watch_request(request, is_async=True)

    http = client._connection.http
    hooks = http.event_hooks
    http.event_hooks = {**hooks, "request": [*hooks["request"], prepare]}


def watch_request(request: Any, *, is_async: bool) -> None:
    """Tell whoever watches in this context when the request leaves, and when its answer begins."""
    seen = watcher.get()
    if seen is None:
        return
    before: Callable[[str, Any], Any] | None = request.extensions.get("trace")

    def heard(event: str, info: Any) -> Any:
        if event.endswith(_LEAVES):
            seen.leaves()
        elif event.endswith(_ANSWERED):
            seen.headers()
        return None if before is None else before(event, info)

    async def heard_async(event: str, info: Any) -> None:
        answer = heard(event, info)
        if answer is not None:
            await answer

    # A dict of this request's own: what it was made with may be shared.
    request.extensions = {**request.extensions, "trace": heard_async if is_async else heard}
