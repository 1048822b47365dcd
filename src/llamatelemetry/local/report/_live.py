"""The page of a run that goes on: served on loopback, behind a path that nobody can guess."""

from __future__ import annotations

import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qs, urlsplit

from llamatelemetry.local.report._columns import columns, compact
from llamatelemetry.local.report._page import render, summary_lines
from llamatelemetry.local.report._sources import Recorded
from llamatelemetry.local.store import StoreReader
from llamatelemetry.local.summary import summarise

if TYPE_CHECKING:
    from pathlib import Path

    from llamatelemetry.local.records import MetricPoint, SpanRecord

_HOST: Final = "127.0.0.1"
_IDLE_S: Final = 30


class LivePage:
    """Serves from its making on, until it is stopped.

    Args:
        path: of the store.
        port: 0 picks a free one.

    Raises:
        ImportError: what the page is made with is not installed.
        OSError: the port is taken.
    """

    def __init__(self, path: Path, *, port: int = 0) -> None:
        render(Recorded(), live=True)  # says what is missing before anything is served
        self._token = secrets.token_urlsafe(24)
        self._server = _Server((_HOST, port), _Growing(path), self._token)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="llamatelemetry-live-page",
            daemon=True,
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{_HOST}:{self._server.server_address[1]}/{self._token}/"

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.growing.close()


class _Growing:
    """A store that is being written, read a piece at a time."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._reader = StoreReader(path)
        self._name = path.name
        self._spans: list[SpanRecord] = []
        self._points: list[MetricPoint] = []
        self._read = (0, 0)

    def close(self) -> None:
        with self._lock:
            self._reader.close()

    def page(self) -> str:
        with self._lock:
            whole = Recorded(
                list(self._reader.spans()),
                list(self._reader.points()),
                list(self._reader.logs()),
                [self._name],
            )
            following = self._places()
        return render(whole, live=True, following=following)

    def more(self, after: tuple[int, int, int]) -> str:
        spans, points, logs = after
        with self._lock:
            found = columns(
                list(self._reader.spans(after=spans)),
                list(self._reader.points(after=points)),
                list(self._reader.logs(after=logs)),
            )
            following = self._places()
            lines = self._summary()
        return compact({"columns": found, "next": following, "summary": lines})

    def _places(self) -> str:
        tables = ("spans", "points", "logs")
        return ".".join(str(self._reader.last_row(table)) for table in tables)

    def _summary(self) -> list[dict[str, Any]]:
        spans, points = self._read
        self._spans += self._reader.spans(after=spans)
        self._points += self._reader.points(after=points)
        self._read = (self._reader.last_row("spans"), self._reader.last_row("points"))
        return summary_lines(summarise(self._spans, self._points))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], growing: _Growing, token: str) -> None:
        self.growing = growing
        self.token = token
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S

    def do_GET(self) -> None:
        server = cast("_Server", self.server)
        parts = urlsplit(self.path)
        port = server.server_address[1]
        # Another site's script could reach this port by a name of its own that leads here.
        if self.headers.get("host") not in {f"{_HOST}:{port}", f"localhost:{port}"}:
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", "not by this name\n")
        elif secrets.compare_digest(parts.path.encode(), f"/{server.token}/".encode()):
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", server.growing.page())
        elif secrets.compare_digest(parts.path.encode(), f"/{server.token}/data".encode()):
            self._more(server.growing, parts.query)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "nothing here\n")

    def _more(self, growing: _Growing, query: str) -> None:
        try:
            spans, points, logs = map(int, parse_qs(query)["after"][0].split("."))
        except (KeyError, ValueError):
            self._answer(HTTPStatus.BAD_REQUEST, "text/plain", "after what?\n")
            return
        self._answer(HTTPStatus.OK, "application/json", growing.more((spans, points, logs)))

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
        """Say nothing: it would be on the command's terminal."""
