"""`llamatelemetry run -- gunicorn`: the calls of all workers in one report."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from llamatelemetry.local.calls import summarize
from llamatelemetry.local.joined_calls import join_calls
from llamatelemetry.local.report import read_recorded
from tests.support.children import with_signals
from tests.support.llama_server import LlamaServer

RUN = [sys.executable, "-m", "llamatelemetry.cli", "run", "--output", "run.db", "--"]
APP = """
import os
import openai

client = openai.OpenAI()


def app(environ, start_response):
    client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Say hi."}], max_tokens=2
    )
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def get(url: str) -> str:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=60) as reply:
                return reply.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.slow
def test_report_contains_calls_of_both_gunicorn_workers(
    tmp_path: Path, llama_server: LlamaServer
) -> None:
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    gunicorn = ["-m", "gunicorn", "--workers=2", f"--bind=127.0.0.1:{port}", "app:app"]
    with subprocess.Popen(
        with_signals([*RUN, sys.executable, *gunicorn]),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"COLUMNS": "150", "OPENAI_BASE_URL": llama_server.url, "OPENAI_API_KEY": "none"},
    ) as process:
        workers: list[str] = []
        deadline = time.monotonic() + 60
        # The operating system chooses the worker of each request.
        while len(set(workers)) < 2 and time.monotonic() < deadline:
            workers.append(get(f"http://127.0.0.1:{port}"))
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        printed = process.stderr.read()
        assert process.wait(60) == 0
    assert len(set(workers)) == 2
    recorded = read_recorded(tmp_path / "run.db")
    summary = summarize(recorded.spans)
    assert summary.calls == len(workers)
    by_worker = [call.span.resource["process.pid"] for call in join_calls(recorded.spans)]
    assert sorted(map(str, by_worker)) == sorted(workers)
    assert "Processes: 2" in printed
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
