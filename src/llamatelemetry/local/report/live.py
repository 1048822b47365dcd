"""The report of a running command, served on loopback under an unguessable path."""

from __future__ import annotations

import re
import secrets
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qs

from llamatelemetry._html_page import check_installed
from llamatelemetry.local.calls import summarize
from llamatelemetry.local.joined_calls import join_calls
from llamatelemetry.local.loopback_server import HOST, LoopbackHandler, LoopbackServer
from llamatelemetry.local.recording import Recording
from llamatelemetry.local.report.columns import CONTENT_EVENT, columns, compact
from llamatelemetry.local.report.page import render
from llamatelemetry.local.store import StoreError, StoreReader
from llamatelemetry.local.summary_table import summary_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from llamatelemetry.local.joined_calls import JoinedCall
    from llamatelemetry.local.records import LogRecord, MetricPoint, Run, SpanRecord

_IDLE_S: Final = 30
_TABLES: Final = ("spans", "points", "logs")
_SpanId = tuple[str | None, str | None]
# The rows of SQLite are numbers below 2**63.
_POSITION: Final = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18}){2}")


class LivePage:
    """A server of the page of a database or of one run, on loopback, that serves from its construction.

    Raises:
        ImportError: Jinja2 is not installed.
        OSError: The port is in use.
    """

    def __init__(self, path: Path, *, port: int = 0, run: Run | None = None) -> None:
        # Fail now instead of in a request if Jinja2 is missing.
        check_installed("An HTML report")
        self._token = secrets.token_urlsafe(24)
        self._server = _LivePageServer(port, _LiveDatabase(path, run), self._token)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="llamatelemetry-live-page",
            daemon=True,
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """URL of the page, including its secret path."""
        return f"http://{HOST}:{self._server.server_address[1]}/{self._token}/"

    def stop(self) -> None:
        """Stop serving and close the database."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.database.close()


class _LiveDatabase:
    """Incremental reader of a database that is being written."""

    def __init__(self, path: Path, run: Run | None) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._reader = StoreReader(path)
        self._spans: list[SpanRecord] = []
        self._points: list[MetricPoint] = []
        self._content: dict[_SpanId, LogRecord] = {}
        after: Mapping[str, int] = {} if run is None else run.after
        self._read_up_to = tuple(after.get(table, 0) for table in _TABLES)

    def close(self) -> None:
        with self._lock:
            self._reader.close()

    def page(self) -> str:
        with self._lock, self._reader.snapshot():
            whole = Recording.of_store(self._reader, self._run)
            position = self._position()
        return render(whole, live=True, position=position)

    def changes_after(self, after: tuple[int, int, int]) -> str:
        spans, points, logs = after
        with self._lock:
            with self._reader.snapshot():
                new = list(self._reader.spans(after=spans))
                new_points = list(self._reader.points(after=points))
                new_content = _content_by_span(self._reader.logs(after=logs))
                position = self._position()
                self._read_new()
            table = summary_table(summarize(self._spans, self._points))
            # It arrives before or after its span.
            described = [span for span in self._spans if _id_of(span) in new_content]
            calls = join_calls(self._spans) if new or described else ()
            spans_by_id = {_id_of(span): span for span in (*new, *_changed(calls, new), *described)}
            content = [self._content[each] for each in spans_by_id if each in self._content]
        found = columns([*spans_by_id.values()], new_points, content, calls=calls)
        return compact({"columns": found, "next": position, "summary": table})

    def _position(self) -> str:
        return ".".join(str(self._reader.last_row(table)) for table in _TABLES)

    def _read_new(self) -> None:
        spans, points, logs = self._read_up_to
        self._spans += self._reader.spans(after=spans)
        self._points += self._reader.points(after=points)
        self._content |= _content_by_span(self._reader.logs(after=logs))
        self._read_up_to = tuple(self._reader.last_row(table) for table in _TABLES)


def _id_of(span: SpanRecord) -> _SpanId:
    return span.trace_id, span.span_id


def _content_by_span(logs: Iterable[LogRecord]) -> dict[_SpanId, LogRecord]:
    return {(log.trace_id, log.span_id): log for log in logs if log.event_name == CONTENT_EVENT}


def _changed(calls: Iterable[JoinedCall], new: Iterable[SpanRecord]) -> Iterator[SpanRecord]:
    """Yield the spans of calls that new spans belong to: the engine's arrive at another time."""
    arrived = set(map(_id_of, new))
    for call in calls:
        by_id = {_id_of(span): span for span in call.spans}
        known = by_id.keys() - arrived
        if len(known) < len(by_id):
            yield from (by_id[each] for each in known)


class _LivePageServer(LoopbackServer):
    daemon_threads = True
    # Browsers open up to six connections to a host.
    max_connections = 32

    def __init__(self, port: int, database: _LiveDatabase, token: str) -> None:
        self.database = database
        self.token = token
        super().__init__(port, _LivePageHandler)


class _LivePageHandler(LoopbackHandler):
    timeout = _IDLE_S

    def do_GET(self) -> None:  # noqa: N802 - fixed by the base class
        try:
            self._serve()
        except StoreError as error:
            self._respond(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{error}\n")

    def _serve(self) -> None:
        server = cast("_LivePageServer", self.server)
        path, _, query = self.path.partition("?")
        port = server.server_address[1]
        # DNS rebinding: a script of another site could reach this port through its own host name.
        if self.headers.get("host") not in {f"{HOST}:{port}", f"localhost:{port}"}:
            self._respond(
                HTTPStatus.FORBIDDEN, "text/plain", "host must be 127.0.0.1 or localhost\n"
            )
        elif secrets.compare_digest(path.encode(), f"/{server.token}/".encode()):
            self._respond(HTTPStatus.OK, "text/html; charset=utf-8", server.database.page())
        elif secrets.compare_digest(path.encode(), f"/{server.token}/data".encode()):
            self._send_changes(server.database, query)
        else:
            self._respond(HTTPStatus.NOT_FOUND, "text/plain", "not found\n")

    def _send_changes(self, database: _LiveDatabase, query: str) -> None:
        try:
            after = parse_qs(query)["after"][0]
            if _POSITION.fullmatch(after) is None:
                raise ValueError(after)
            spans, points, logs = map(int, after.split("."))
        except (KeyError, ValueError):
            self._respond(
                HTTPStatus.BAD_REQUEST, "text/plain", "after must be a position such as 3.1.0\n"
            )
            return
        self._respond(
            HTTPStatus.OK, "application/json", database.changes_after((spans, points, logs))
        )

    def _respond(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode(errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - fixed by the base class
        """Log nothing: it would appear on the command's terminal."""
