"""Text of servers, spans and programs on a terminal: no escape sequence of theirs reaches it."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from llamatelemetry._terminal import printable
from llamatelemetry.bench.report.tables import Table
from llamatelemetry.bench.report.terminal import render_text
from llamatelemetry.cli._tables import print_calls, print_metrics, print_summary
from llamatelemetry.cli.doctor.machine import server_checks
from llamatelemetry.cli.doctor.report import print_report
from llamatelemetry.llama import LlamaServerError
from llamatelemetry.llama.server.log import ServerLog
from llamatelemetry.local.calls import summarize
from llamatelemetry.local.recording import MetricTotal
from llamatelemetry.otel.trace_graph.graph import TraceGraph
from llamatelemetry.server_metrics.reader import ScrapeError, ServerReader
from llamatelemetry.server_metrics.target import parse_target
from tests.cli.receivers import http_receiver
from tests.support.recorded_calls import chat, recorded_chat

# Sets the title of the window, moves the cursor, writes to the clipboard, forges a line.
EVIL = "\x1b]0;evil\x07\x1b[2K\x9b1A\x1b]52;c;ZXZpbA==\x07\x08\r\u202e\u2066\x7f"


def console_and_output() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=400, color_system=None), out


def assert_harmless(text: str) -> None:
    assert "evil" in text
    assert not set(text) & (set(EVIL) - set(printable(EVIL)))
    assert "\ud800" not in text


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


def test_tables_of_calls_and_metrics_are_harmless() -> None:
    call = dataclasses.replace(
        recorded_chat(), operation=EVIL, model=f"{EVIL}\nm", error=EVIL, http_status=400
    )
    span = chat(1, gen_ai__request__model=EVIL)
    span.attributes["gen_ai.response.model"] = f"\ud800{EVIL}\n"
    summary = summarize([span, dataclasses.replace(span, span_id="2" * 16, status=2)])
    for width in (400, 60):
        console, out = console_and_output()
        console.width = width
        print_calls(console, [call])
        print_summary(console, summary)
        print_metrics(console, [MetricTotal(EVIL, EVIL, {"gen_ai.token.type": EVIL}, 1, 1.0)])
        if width == 400:
            assert_harmless(out.getvalue())
        assert "\x1b" not in out.getvalue()


def test_doctor_report_of_hostile_server_is_harmless() -> None:
    props = {"model_alias": EVIL, "build_info": f"{EVIL}\nok: fine"}
    bodies = {"/health": json.dumps({"status": EVIL}), "/props": json.dumps(props)}
    with http_receiver(bodies=bodies, headers={"Server": "llama.cpp"}) as receiver:
        checks = server_checks(receiver.url, 5)
    console, out = console_and_output()
    print_report(checks, console)
    assert_harmless(out.getvalue())
    assert "\nok: fine" not in out.getvalue()


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


PROGRAM = f"""
from opentelemetry import trace
span = trace.get_tracer("program").start_span("chat", kind=trace.SpanKind.CLIENT)
span.set_attribute("gen_ai.operation.name", "chat")
span.set_attribute("gen_ai.request.model", {EVIL!r})
span.set_status(trace.StatusCode.ERROR)
span.set_attribute("error.type", {EVIL!r})
span.end()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="run needs POSIX signals")
def test_summary_of_run_is_harmless(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llamatelemetry.cli", "run", "--", sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        encoding="utf-8",
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert_harmless(done.stderr)
