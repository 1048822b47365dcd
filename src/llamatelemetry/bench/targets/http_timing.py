"""Timestamps of an HTTP request from the HTTP library: request sent, response headers received.

Building a request and connecting takes a client milliseconds, and on an event loop other tasks
run in between. That time is not queue time of the server. httpx and httpx2 report their progress
through the `trace` request extension. For other HTTP libraries, the observation uses the times
at which the client's own call starts and returns.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry.bench.targets.observation import Observation

# The start of sending the body, not its end: when the client notices the end, the server may
# already have been processing for a while.
_SENT: Final = "send_request_body.started"
_HEADERS: Final = "receive_response_headers.complete"


current_observation: Final[ContextVar[Observation | None]] = ContextVar(
    "llamatelemetry_bench_observation", default=None
)
"""Observation of the request that is sent in this context."""


def observe_openai(client: Any, *, is_async: bool) -> None:
    """Observe the requests of a copy of an OpenAI client through its `_prepare_request` hook."""
    original = client._prepare_request

    def prepare(request: Any) -> Any:
        observe_request(request, is_async=is_async)
        # For an asynchronous client this returns a coroutine.
        return original(request)

    client._prepare_request = prepare


def observe_llama(client: Any) -> None:
    """Observe the requests of the benchmark's own asynchronous llama.cpp client."""

    async def prepare(request: Any) -> None:
        observe_request(request, is_async=True)

    http = client._connection.http
    hooks = http.event_hooks
    http.event_hooks = {**hooks, "request": [*hooks["request"], prepare]}


def observe_request(request: Any, *, is_async: bool) -> None:
    """Report the events of a request to the observation of the current context, if there is one."""
    observation = current_observation.get()
    if observation is None:
        return
    original: Callable[[str, Any], Any] | None = request.extensions.get("trace")

    def trace(event: str, info: Any) -> Any:
        if event.endswith(_SENT):
            observation.on_request_sent()
        elif event.endswith(_HEADERS):
            observation.on_headers()
        return None if original is None else original(event, info)

    async def trace_async(event: str, info: Any) -> None:
        result = trace(event, info)
        if result is not None:
            await result

    # A new dict, because requests can share the original one.
    request.extensions = {**request.extensions, "trace": trace_async if is_async else trace}
