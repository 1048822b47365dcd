"""The programs of docs/instrument/web-and-workers.md record a request and its calls as one trace."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.processes.observed_processes import (
    INSTRUMENT,
    SCRIPTS,
    environment,
    receiver,
    serving,
)
from tests.support.otlp_receiver import Received

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/instrument/web-and-workers.md"
INSTRUMENTATIONS = ROOT / "build/web-instrumentations"  # `scripts/install dev` installs them
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRICS_EXPORTER": "none"}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Write the files of the page into a folder."""
    if not INSTRUMENTATIONS.exists():
        pytest.skip("needs OpenTelemetry's instrumentations: scripts/install dev")
    text = PAGE.read_text(encoding="utf-8")
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(code, encoding="utf-8")
    return tmp_path


def spans(received: Received) -> list[Span]:
    return [
        span
        for message in list(received.messages["traces"])
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def wait_for_span(received: Received, is_wanted: Callable[[Span], bool]) -> Span:
    until = time.monotonic() + 60
    while True:
        if found := next(filter(is_wanted, spans(received)), None):
            return found
        assert time.monotonic() < until, [span.name for span in spans(received)]
        time.sleep(0.1)


def settings(received: Received, model: str, programs: Path, **more: str) -> dict[str, str]:
    path = f"{programs}:{INSTRUMENTATIONS}"
    return environment(received, model, PYTHONPATH=path, **SOON, **more)


def is_named(name: str) -> Callable[[Span], bool]:
    return lambda span: span.name == name


def test_stream_of_fastapi_is_in_the_trace_of_its_request(model: str, programs: Path):
    command = [INSTRUMENT, str(SCRIPTS / "uvicorn"), "app:app", "--port", "{port}"]
    with receiver() as received:
        environ = settings(received, model, programs, LLAMATELEMETRY_STREAM_USAGE="true")
        with serving(command, environ) as (url, _):
            with urllib.request.urlopen(f"{url}/answer?question=hi", timeout=60) as response:
                assert response.read()
            request = wait_for_span(received, is_named("GET /answer"))
            call = wait_for_span(received, is_named("chat my-model"))
    assert request.kind == Span.SPAN_KIND_SERVER
    assert call.trace_id == request.trace_id
    assert call.parent_span_id == request.span_id
    assert call.end_time_unix_nano <= request.end_time_unix_nano
    assert any(is_named("GET /answer http send")(span) for span in spans(received))


def test_call_of_a_celery_task_is_in_the_trace_of_its_caller(model: str, programs: Path):
    queue = programs / "queue"
    queue.mkdir()
    tasks = programs / "tasks.py"
    code = tasks.read_text().replace("redis://localhost:6379/0", "filesystem://")
    folders = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), str(queue))
    tasks.write_text(f"{code}\napp.conf.broker_transport_options = {folders}\n")
    program = "import tasks; tasks.summarize.delay('llamas hum')"
    worker = [INSTRUMENT, str(SCRIPTS / "celery"), "-A", "tasks", "worker", "--concurrency", "1"]
    with receiver() as received:
        environ = settings(received, model, programs)
        command = [INSTRUMENT, sys.executable, "-c", program]
        subprocess.run(command, env=environ, check=True, timeout=60)
        process = subprocess.Popen(worker, env=environ, cwd=programs, stderr=subprocess.DEVNULL)
        try:
            call = wait_for_span(received, is_named("chat my-model"))
            run = wait_for_span(received, is_named("run/tasks.summarize"))
        finally:
            process.terminate()
            process.wait(60)
        sent = wait_for_span(received, is_named("apply_async/tasks.summarize"))
    assert run.parent_span_id == sent.span_id
    assert call.parent_span_id == run.span_id
    assert call.trace_id == sent.trace_id


def test_gunicorn_records_the_call_of_a_request(model: str, programs: Path):
    command = [INSTRUMENT, str(SCRIPTS / "gunicorn"), "-w", "2", "-b", "127.0.0.1:{port}"]
    with receiver() as received:
        environ = settings(received, model, programs)
        with serving([*command, "wsgi:app"], environ) as (url, _):
            with urllib.request.urlopen(url, timeout=60) as response:
                assert response.read()
            wait_for_span(received, is_named("chat my-model"))
