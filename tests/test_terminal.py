"""Text of servers and spans for a terminal or a log: no escape sequence of theirs reaches it."""

from __future__ import annotations

import socket
import threading

import pytest

from llamatelemetry._terminal import printable
from llamatelemetry.bench.report.tables import Table
from llamatelemetry.bench.report.terminal import render_text
from llamatelemetry.llama import LlamaServerError
from llamatelemetry.llama.server.log import ServerLog
from llamatelemetry.otel.trace_graph.graph import TraceGraph
from llamatelemetry.server_metrics.reader import ServerReader
from llamatelemetry.server_metrics.scrape import ScrapeError
from llamatelemetry.server_metrics.target import parse_target
from tests.support.hostile_text import EVIL, assert_harmless


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 日本 👩\u200d💻\ttab\nline", "plain ü 日本 👩\u200d💻\ttab\nline"),
        ("\x1b]0;t\x07", "\\x1b]0;t\\x07"),
        ("\x9b2J\x7f\x00\r\x0b", "\\x9b2J\\x7f\\x00\\r\\x0b"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("\ud800 \U000e0041", "\\ud800 \\U000e0041"),
        ("\x1b[1;31mred\x1b[0m", "red"),
    ],
)
def test_printable_escapes_control_characters(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_printable_escapes_line_breaks_on_request() -> None:
    assert printable("a\n\tb", lines=False) == "a\\n b"


def test_benchmark_table_is_harmless() -> None:
    table = Table(EVIL, ("a",), ((f"{EVIL}\n",),), (f"{EVIL}\nWarning",))
    assert_harmless(render_text(table))


def test_messages_of_server_in_errors_and_logs_are_harmless() -> None:
    assert_harmless(str(LlamaServerError(400, EVIL, EVIL)))
    log = ServerLog()
    log.feed(f"name = {EVIL}\x1b[0m\n".encode())
    assert_harmless(log.lines()[0])


def test_scrape_error_for_invalid_response_is_harmless() -> None:
    def respond() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(f"{EVIL}\r\n".encode())

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=respond)
        thread.start()
        with pytest.raises(ScrapeError) as failed:
            ServerReader(parse_target(f"http://127.0.0.1:{server.getsockname()[1]}")).scrape()
        thread.join(10)
    assert_harmless(str(failed.value))


def test_mermaid_graph_has_one_line_for_each_node() -> None:
    graph = TraceGraph()
    graph.node("model", f"{EVIL}\n\u2028evil")
    text = graph.to_mermaid()
    assert_harmless(text)
    assert len(text.splitlines()) == 2
