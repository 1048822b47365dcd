"""Whether a request was lost because the connection it went over was closed just then.

A server may close a connection that is kept for the next request at any time: llama.cpp does so
after some seconds of silence, and, without having said so, after whatever a router has passed on.
A request that crosses with that gets no answer. On a connection that was there before, that means
"send it again over a new one"; on a new one it means that the server is in trouble.
"""

from __future__ import annotations

from typing import Any, Final

_CONNECTING: Final = frozenset({"connection.connect_tcp.started", "connection.retry.started"})
_ANSWERED: Final = "receive_response_headers.complete"
_NO_ANSWER: Final = "disconnected without sending a response"


class ReuseWatch:
    """Listens to what the HTTP library does for one request."""

    __slots__ = ("_is_answered", "_is_new")

    def __init__(self) -> None:
        self._is_new = False
        self._is_answered = False

    def listen(self, request: Any, *, is_async: bool) -> None:
        """Be told of the request's events from now on."""
        request.extensions["trace"] = self._heard_async if is_async else self._heard

    def was_closed(self, error: Exception) -> bool:
        """Whether the request has failed since an older connection was closed, unanswered."""
        if self._is_new or self._is_answered:
            return False
        # The same class tells of an answer that is no HTTP.
        return type(error).__name__ != "RemoteProtocolError" or _NO_ANSWER in str(error)

    def _heard(self, event: str, _info: Any) -> None:
        if event in _CONNECTING:
            self._is_new = True
        elif event.endswith(_ANSWERED):
            self._is_answered = True

    async def _heard_async(self, event: str, info: Any) -> None:
        self._heard(event, info)
