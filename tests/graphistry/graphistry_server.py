"""Server with Graphistry's documented endpoints: logins, datasets, Arrow uploads and sharing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.http_server import http_server

TOKEN = "jwt-of-the-test"
ORG = {"slug": "herd", "is_found": True, "is_member": True}
DATASET = "0123456789abcdef"


class Graphistry:
    """State of the server.

    Attributes:
        requests: Method, path and authorization header of each request.
        datasets: Created datasets.
        shares: Sharing settings.
        tables: Uploaded Arrow tables.
        order: Kinds of the requests of an upload, in order.
        refused: Response status by part of a path.
        delay_s: Delay in seconds by part of a path.
    """

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[tuple[str, str, str]] = []
        self.datasets: list[dict[str, Any]] = []
        self.shares: list[dict[str, Any]] = []
        self.tables: dict[str, bytes] = {}
        self.order: list[str] = []
        self.refused: dict[str, int] = {}
        self.delay_s: dict[str, float] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def respond(self, path: str, authorization: str, body: bytes) -> tuple[int, Any]:
        for part, seconds in self.delay_s.items():
            if part in path:
                time.sleep(seconds)
        for part, status in self.refused.items():
            if part in path:
                return status, {"non_field_errors": ["Token has expired.", "secret-of-the-test"]}
        if path == "/api/v2/auth/pkey/jwt/":
            good = authorization == "PersonalKey an-id:secret-of-the-test"
            return (200, self._login()) if good else (401, {"detail": "Invalid personal key"})
        if path == "/api-token-auth/":
            login = json.loads(body)
            good = (login["username"], login["password"]) == ("ada", "secret-of-the-test")
            return (200, self._login()) if good else (400, {"detail": "wrong password"})
        if path in {"/api-token-verify/", "/api/v2/auth/token/refresh"}:
            good = json.loads(body)["token"] == TOKEN
            return (200, {"token": TOKEN}) if good else (400, {"detail": "no such token"})
        if authorization != f"Bearer {TOKEN}":
            return 401, {"detail": "Authentication credentials were not provided."}
        return self._with_token(path, body)

    def _login(self) -> dict[str, Any]:
        return {"token": TOKEN, "active_organization": ORG}

    def _with_token(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/v2/o/herd/switch/":
            return 200, {}
        if path == "/api/v2/upload/datasets/":
            self.order.append("dataset")
            self.datasets.append(json.loads(body))
            return 200, {"success": True, "data": {"dataset_id": DATASET}}
        if path == "/api/v2/share/link/":
            self.order.append("share")
            self.shares.append(json.loads(body))
            return 200, {"success": True}
        if found := re.fullmatch(f"/api/v2/upload/datasets/{DATASET}/(nodes|edges)/arrow", path):
            self.order.append(found[1])
            self.tables[found[1]] = body
            return 200, {"success": True}
        return 404, {"detail": "Not found."}


@contextmanager
def serving() -> Iterator[Graphistry]:
    graphistry = Graphistry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            path, authorization = self.path.partition("?")[0], self.headers.get("authorization", "")
            graphistry.requests.append((self.command, path, authorization))
            status, response = graphistry.respond(path, authorization, body)
            text = json.dumps(response).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except OSError:
                # The client has closed the connection.
                pass

        def log_message(self, *args: Any) -> None:
            pass

    with http_server(Handler) as graphistry.port:
        yield graphistry
