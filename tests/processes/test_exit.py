"""The end of a program whose receiver is away, refuses, or is slow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading

import pytest

from tests.processes.observed_processes import environment, receiver
from tests.support.otlp_receiver import Received
from tests.support.waiting import wait_for

PROGRAM = """
import sys
import llamatelemetry
from opentelemetry import metrics, trace

llamatelemetry.init("exits", export_interval_ms=3_600_000)
for index in range(3):
    trace.get_tracer("test").start_span(f"span {index}").end()
metrics.get_meter("test").create_counter("count").add(1)
sys.exit(3)
"""


def run(received: Received, protocol: str = "http/protobuf") -> subprocess.CompletedProcess[str]:
    # The exporters would retry for the ten seconds of their timeout, and longer with this one.
    variables = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_TIMEOUT": "100"}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment(received, "http://127.0.0.1:9", **variables),
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize(
    "protocol",
    [
        "http/protobuf",
        pytest.param(
            "grpc",
            marks=pytest.mark.skipif(
                sys.version_info[:2] == (3, 12),
                reason="no thread can be started at the end of a process; takes the whole timeout",
            ),
        ),
    ],
)
def test_losses_are_reported_when_no_receiver_listens(protocol):
    with receiver(grpc=protocol == "grpc") as received:
        pass
    done = run(received, protocol)
    assert done.returncode == 3
    (lost,) = [line for line in done.stderr.splitlines() if line.startswith("Lost")]
    assert lost.startswith("Lost telemetry (exports of metrics: 1, spans: 3): the receiver did")


def test_refused_exports_are_repeated_for_a_short_time_only():
    with receiver() as received:
        received.status = 503
        done = run(received)
        attempts = received.started.count("/v1/traces")
    assert done.returncode == 3
    assert 1 <= attempts <= 3
    assert "Lost telemetry (exports of metrics: 1, spans: 3)" in done.stderr


FORKED = """
import os, sys, threading, time
import llamatelemetry
from opentelemetry import trace

llamatelemetry.init("exits", export_interval_ms=3_600_000)
trace.get_tracer("test").start_span("of the parent").end()
flush = threading.Thread(target=llamatelemetry.flush, args=(60,), daemon=True)
flush.start()
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    flush.join()  # At its end, the parent does not wait for a retry.
else:
    trace.get_tracer("test").start_span("of the child").end()
"""


def test_child_that_is_forked_during_a_retry_sends_its_spans_at_its_end(tmp_path):
    with receiver() as received:
        received.status_of = {"/v1/traces": 503}
        command = [sys.executable, "-c", FORKED, str(tmp_path / "refused")]
        process = subprocess.Popen(command, env=environment(received, "http://127.0.0.1:9"))
        try:
            wait_for(lambda: "/v1/traces" in received.paths, 60)
            received.status_of = {}
            (tmp_path / "refused").touch()
            assert process.wait(100) == 0
        finally:
            process.kill()
            process.wait()
        assert sorted(received.spans()) == ["of the child", "of the parent"]


def test_all_dropped_spans_are_reported_when_the_program_ends():
    program = PROGRAM.replace("range(3)", "range(300)")
    variables = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}
    with receiver() as received:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(received, "http://127.0.0.1:9", **variables),
            capture_output=True,
            text=True,
            timeout=100,
        )
    dropped = [int(count) for count in re.findall(r"Dropped (\d+) spans", done.stderr)]
    lost = 300 - len(received.spans())
    # The SDK counts a span as dropped when it sees a full queue, which may be emptied meanwhile.
    assert 0 < lost <= sum(dropped) <= lost + 5


def test_slow_receiver_gets_everything():
    with receiver() as received:
        received.may_respond.clear()
        # Longer than a receiver that cannot be reached gets.
        timer = threading.Timer(2.0, received.may_respond.set)
        timer.start()
        done = run(received)
        timer.join()
    assert done.returncode == 3
    assert "Lost" not in done.stderr
    assert sorted(received.spans()) == ["span 0", "span 1", "span 2"]
    assert "count" in received.metrics()


RECORDED = """
import llamatelemetry
from opentelemetry import _logs, metrics, trace

llamatelemetry.init("exits")
trace.get_tracer("test").start_span("span").end()
metrics.get_meter("test").create_counter("count").add(1)
_logs.get_logger("test").emit(body="record")
flushed = llamatelemetry.flush()
"""


def run_unread(program: str, exporter: str, end: str, unbuffered: str) -> tuple[int, bytes]:
    """Run a program as in `program | head`, or `program >&-`. Return its status and errors."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", program]
    if end == "closed output":
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run(
            command,
            env={
                **os.environ,
                "LLAMATELEMETRY_EXPORTER": exporter,
                "PYTHONUNBUFFERED": unbuffered,
            },
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=100,
        )
    return done.returncode, done.stderr


no_pipe_error = pytest.mark.skipif(
    sys.platform == "win32", reason="writing to it is another error there"
)


@no_pipe_error
@pytest.mark.parametrize("end", ["ended reader", "closed output"])
@pytest.mark.parametrize("exporter", ["console", "console-json"])
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_console_exporters_are_quiet_when_nobody_reads_their_output(exporter, end, unbuffered):
    assert run_unread(f"{RECORDED}assert not flushed", exporter, end, unbuffered) == (0, b"")


@no_pipe_error
def test_program_whose_own_output_is_unread_fails_as_without_console_exporter():
    seen = [
        run_unread(f"print('of the application')\n{RECORDED}", exporter, "ended reader", "")
        for exporter in ("console", "none")
    ]
    assert seen[0] == seen[1]
    assert seen[0][0] == 120
    assert b"BrokenPipeError" in seen[0][1]
