"""Text of servers, spans and programs in the output of commands: it cannot control the terminal."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from llamatelemetry.cli._tables import print_calls, print_metrics, print_summary
from llamatelemetry.cli.doctor.inference_server import server_checks
from llamatelemetry.cli.doctor.report import print_report
from llamatelemetry.local.calls import summarize
from llamatelemetry.local.recording import MetricTotal
from tests.cli.receivers import http_receiver
from tests.support.hostile_text import EVIL, assert_harmless
from tests.support.recorded_calls import chat, recorded_chat


def console_and_output() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=400, color_system=None), out


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
