"""The telemetry of each worker process arrives once, with that process's own identity.

Real servers and pools make real calls; what a real OTLP receiver got of each process is compared
with the calls that the process says it has made.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.processes.calls import CALLS
from tests.processes.observed_processes import (
    GUNICORN,
    HERE,
    IN_CODE,
    INSTRUMENT,
    SCRIPTS,
    Seen,
    ask,
    environment,
    extra_calls,
    receiver,
    serving,
    wait_for,
)
from tests.support.children import with_signals
from tests.support.components import require
from tests.support.otlp_receiver import Received
from tests.support.ports import neighboring_ports
from tests.support.selection import slow_except

# So short that threads of the workers must export, not the exit of the workers.
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "300"}


def arrives(received: Received, made: Counter[int]) -> Seen:
    """Wait until all calls arrived in both signals, then a little longer for unexpected ones."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        seen = Seen(received)
        total = CALLS * made.total()
        if seen.spans.total() >= total and sum(seen.calls.values()) >= total:
            break
        time.sleep(0.1)
    time.sleep(0.5)  # Time for a second export of the same calls.
    return Seen(received)


UVICORN = [str(SCRIPTS / "uvicorn"), "--workers", "2", "--port", "{port}", "web:asgi"]

SERVERS = {
    "gunicorn --preload": ([INSTRUMENT, *GUNICORN, "--preload"], {}),
    "gunicorn": ([INSTRUMENT, *GUNICORN], {}),
    "gunicorn, init in code": (GUNICORN, IN_CODE),
    "gunicorn --preload, init in code": ([*GUNICORN, "--preload"], IN_CODE),
    "gunicorn --preload --max-requests, init in code": (
        [*GUNICORN, "--preload", "--max-requests", "3"],
        IN_CODE,
    ),
    "gunicorn --preload, gRPC": (
        [INSTRUMENT, *GUNICORN, "--preload"],
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ),
    "gunicorn --preload, tail sampling": (
        [INSTRUMENT, *GUNICORN, "--preload"],
        {"LLAMATELEMETRY_SAMPLING": "only_slow", "LLAMATELEMETRY_SLOW_THRESHOLD_S": "0"},
    ),
    "gunicorn -k gthread": ([INSTRUMENT, *GUNICORN, "-k", "gthread", "--threads", "2"], {}),
    "gunicorn -k gevent": ([INSTRUMENT, *GUNICORN, "-k", "gevent"], {}),
    "gunicorn -k gevent --preload": ([INSTRUMENT, *GUNICORN, "-k", "gevent", "--preload"], {}),
    "gunicorn -k gevent, OpenTelemetry's variable": (
        [INSTRUMENT, *GUNICORN, "-k", "gevent"],
        {"OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH": "patch_all"},
    ),
    "gunicorn -k tornado": ([INSTRUMENT, *GUNICORN, "-k", "tornado"], {}),
    "uvicorn --workers": ([INSTRUMENT, *UVICORN], {}),
    "uvicorn --workers, init in code": (UVICORN, IN_CODE),
}
FAST = {"gunicorn --preload", "gunicorn -k gevent"}


@pytest.mark.parametrize("server", slow_except(FAST, SERVERS))
def test_server_workers_export_their_own_telemetry(server, model):
    command, variables = SERVERS[server]
    for component in {"gevent", "tornado"} & {*command}:
        require(component)
    grpc = variables.get("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc"
    with receiver(grpc) as received:
        environ = environment(received, model, **SOON, **variables)
        with serving(command, environ) as (url, _), ThreadPoolExecutor(8) as pool:
            made: Counter[int] = Counter()
            while len(made) < 2 or made.total() < 12:
                made.update(pool.map(ask, [url] * 4))
            # One call per process that imported the program: the workers, or their parent.
            extra = Counter()
            if variables is IN_CODE:
                extra = extra_calls(command, made)
            seen = arrives(received, made + extra)
        if variables is IN_CODE and "--preload" in command:
            (parent,) = seen.spans.keys() - made.keys()
            extra = Counter({parent: 1})
        # After the exit, nothing arrived twice.
        Seen(received).check(made + extra)


def scraped_calls(ports: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Return process id and number of calls of each port that serves Prometheus metrics."""
    found: dict[int, tuple[int, int]] = {}
    for port in ports:
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=30) as answer:
                text = answer.read().decode()
            pid = re.search(r'target_info\{.*process_pid="(\d+)"', text)
            counts = re.findall(
                r"^gen_ai_client_operation_duration_seconds_count.* (\S+)$", text, re.MULTILINE
            )
            if pid:
                found[port] = int(pid[1]), sum(int(float(count)) for count in counts)
    return found


@pytest.mark.parametrize("options", slow_except({"--preload"}, ["", "--preload"]))
def test_gunicorn_workers_serve_their_own_prometheus_metrics(options, model):
    # gunicorn's parent takes the first port: it is instrumented, too.
    ports = range(first := neighboring_ports(4), first + 4)
    variables = {
        "LLAMATELEMETRY_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(first),
    }
    with receiver() as received:
        environ = environment(received, model, **variables)
        command = [INSTRUMENT, *GUNICORN, *options.split()]
        with serving(command, environ) as (url, process), ThreadPoolExecutor(8) as pool:
            made: Counter[int] = Counter()
            while len(made) < 2 or made.total() < 12:
                made.update(pool.map(ask, [url] * 4))
            scraped = scraped_calls(ports)
            assert {pid: n for pid, n in scraped.values() if n} == {
                pid: CALLS * times for pid, times in made.items()
            }
            # A new worker takes the port of one that died: the series continue from zero.
            port, (pid, _) = max(scraped.items())
            os.kill(pid, signal.SIGKILL)

            def replacement_serves() -> bool:
                ask(url)
                return scraped_calls([port]).get(port, (pid, 0))[0] != pid

            wait_for(replacement_serves, process)
            assert len(scraped_calls(ports)) == len(scraped)


POOLS = {
    "process fork": {},
    "process spawn": {},
    "process forkserver": {},
    "pool fork": {},
    "executor fork": {},
    "executor spawn": {},
    "process fork, init in code": IN_CODE,
    "process spawn, init in code": IN_CODE,
    "process forkserver, init in code": IN_CODE,
    "executor fork, gRPC, init in code": {**IN_CODE, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
}


@pytest.mark.parametrize("pool", slow_except({"process fork"}, POOLS))
def test_pool_workers_export_their_own_telemetry(pool, model):
    # The workers exit soon and without `atexit` handlers. Everything must be exported.
    variables = POOLS[pool]
    grpc = variables.get("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc"
    command = [sys.executable, "pools.py", *pool.partition(",")[0].split()]
    with receiver(grpc) as received:
        done = subprocess.run(
            command if variables else [INSTRUMENT, *command],
            cwd=HERE,
            env=environment(received, model, **variables),
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        made = Counter({int(pid): n for pid, n in json.loads(done.stdout).items()})
        assert len(made) >= 2
        Seen(received).check(made)


GEVENT = pytest.mark.needs("gevent")
CELERY = [
    ("prefork", "300", ()),
    ("prefork", "60000", ()),
    ("prefork", "300", ("--max-tasks-per-child", "2")),
    pytest.param("gevent", "300", (), marks=GEVENT),
    pytest.param("gevent", "60000", (), marks=GEVENT),
]


@pytest.mark.slow
@pytest.mark.needs("celery")
@pytest.mark.parametrize(("pool", "interval", "options"), CELERY)
def test_celery_workers_export_their_own_telemetry(model, tmp_path, pool, interval, options):
    # Threads export while the workers run, and the rest is exported when the worker stops.
    command = [str(SCRIPTS / "celery"), "-A", "tasks", "worker", "-P", pool, "-c", "2"]
    quiet = ["--without-mingle", "--without-gossip", "--without-heartbeat", "-l", "WARNING"]
    with receiver() as received:
        environ = environment(received, model, QUEUE=str(tmp_path))
        environ |= {"OTEL_METRIC_EXPORT_INTERVAL": interval}
        send = "import tasks; [tasks.call.delay() for _ in range(8)]"
        subprocess.run([sys.executable, "-c", send], cwd=HERE, env=environ, check=True, timeout=60)
        worker = subprocess.Popen(
            with_signals([INSTRUMENT, *command, *quiet, *options]),
            cwd=HERE,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait_for(lambda: len(results(tmp_path)) == 8, worker)
            made = Counter(results(tmp_path))
            if interval == "300":
                arrives(received, made).check(made)
        finally:
            worker.send_signal(signal.SIGTERM)
            sys.stdout.write(worker.communicate(timeout=60)[0])
        Seen(received).check(made)


def results(folder: Path) -> list[int]:
    found = [path.read_text() for path in folder.glob("celery-task-meta-*")]
    return [json.loads(text)["result"] for text in found if text.endswith("}")]


PATCH = "OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH"
# The library, when it replaces threads, and further variables.
PROGRAMS = {
    "gevent in the program": ("gevent", "first", {}),
    "gevent after a stream": ("gevent", "after a stream", {}),
    "gevent by OpenTelemetry's variable": ("gevent", "elsewhere", {PATCH: "patch_all"}),
    "gevent before init in code": ("gevent", "first", IN_CODE),
    "gevent after init in code": ("gevent", "after init", IN_CODE),
    "eventlet in the program": ("eventlet", "first", {}),
    "eventlet before init in code": ("eventlet", "first", IN_CODE),
    "eventlet after init in code": ("eventlet", "after init", IN_CODE),
}
FAST_PROGRAMS = {"gevent in the program", "eventlet in the program"}


@pytest.mark.parametrize("program", slow_except(FAST_PROGRAMS, PROGRAMS))
def test_program_with_greenlets_exports_all_calls(program, model):
    library, when, variables = PROGRAMS[program]
    require(library)
    command = [sys.executable, "green.py", library, when]
    with receiver() as received:
        done = subprocess.run(
            command if variables is IN_CODE else [INSTRUMENT, *command],
            cwd=HERE,
            env=environment(received, model, **variables),
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        made = Counter({int(pid): n for pid, n in json.loads(done.stdout).items()})
        assert made.total() == 5 + (when == "after a stream")
        Seen(received).check(made)
