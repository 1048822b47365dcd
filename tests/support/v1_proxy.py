"""A reverse proxy in front of a real inference server that exposes nothing but `/v1`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

from tests.support.http_server import http_server

Route = Callable[[Any], Any]
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def v1_proxy(
    origin: str,
    *,
    owner: str | None = None,
    has_usage: bool = True,
    routes: dict[str, Route] | None = None,
) -> Iterator[str]:
    """Start the proxy and yield its URL.

    Args:
        origin: URL of the server.
        owner: `owned_by` of the models, so that the server seems to be of another kind.
        has_usage: Whether responses that are not streams contain `usage`.
        routes: Further POST routes of the proxy: functions from the body to the response.
    """

    def change(content: bytes) -> bytes:
        response = json.loads(content)
        if owner is not None and isinstance(response.get("data"), list):
            for model in response["data"]:
                model["owned_by"] = owner
        if not has_usage:
            response.pop("usage", None)
        return json.dumps(response).encode()

    handler = type("Handler", (_Proxy,), {"origin": origin, "routes": routes or {}})
    handler.change = staticmethod(change)
    with http_server(handler) as port:
        yield f"http://127.0.0.1:{port}"


class _Proxy(BaseHTTPRequestHandler):
    origin: ClassVar[str]
    routes: ClassVar[dict[str, Route]]
    change: ClassVar[Callable[[bytes], bytes]]

    def do_GET(self) -> None:
        self._forward(None)

    def do_POST(self) -> None:
        self._forward(self.rfile.read(int(self.headers.get("content-length") or 0)))

    def _forward(self, body: bytes | None) -> None:
        route = self.routes.get(self.path)
        if route is not None:
            self._respond(200, json.dumps(route(json.loads(body or b"{}"))).encode())
        elif not self.path.startswith("/v1/"):
            self._respond(404, b'{"detail":"Not Found"}')
        else:
            self._fetch(body)

    def _fetch(self, body: bytes | None) -> None:
        request = urllib.request.Request(f"{self.origin}{self.path}", data=body)
        request.add_header("Content-Type", "application/json")
        try:
            with _direct.open(request, timeout=60) as response:
                if "event-stream" in response.headers["content-type"]:
                    self._stream(response)
                else:
                    self._respond(response.status, type(self).change(response.read()))
        except urllib.error.HTTPError as error:
            self._respond(error.code, error.read())

    def _respond(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, response: Any) -> None:
        # Without a length, the stream ends with the connection, as in HTTP/1.0.
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for line in response:
            self.wfile.write(line)
            self.wfile.flush()

    def log_message(self, *args: object) -> None:
        pass
