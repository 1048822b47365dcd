"""The telemetry of each worker process arrives once, with that process's own identity.

Real servers and pools make real calls; what a real OTLP receiver got of each process is compared
with the calls that the process says it has made.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes.calls import CALLS
from tests.support.children import with_signals
from tests.support.components import require
from tests.support.model_server import model_server
from tests.support.otlp_receiver import Received, grpc_receiver, http_receiver
from tests.support.selection import slow_except

HERE = Path(__file__).parent
SCRIPTS = Path(sysconfig.get_path("scripts"))
INSTRUMENT = str(SCRIPTS / "opentelemetry-instrument")
IN_CODE = {"INIT_IN_CODE": "1"}
# So short that threads of the workers must export, not the exit of the workers.
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "300"}


def environment(received: Received, model: str, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "OPENAI_BASE_URL": model,
        "OPENAI_API_KEY": "none",
        "OTEL_EXPORTER_OTLP_ENDPOINT": received.url,
        # Another distro is installed in this environment.
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "httpx,httpx2",
        **more,
    }


@pytest.fixture
def model() -> Iterator[str]:
    with model_server() as url:
        yield url


class Seen:
    """The received telemetry, by the process that sent it."""

    def __init__(self, received: Received) -> None:
        self.spans: Counter[int] = Counter()
        self.calls: dict[int, int] = {}
        """Count the calls by the last value of the cumulative duration metric."""
        self.identities: set[tuple[int, str]] = set()
        self.span_ids: list[bytes] = []
        for message in list(received.messages["traces"]):
            for resource in message.resource_spans:
                pid = self._identity(resource)
                spans = [span for scope in resource.scope_spans for span in scope.spans]
                self.span_ids += [span.span_id for span in spans]
                self.spans[pid] += sum(span.name == "chat smol" for span in spans)
        for message in list(received.messages["metrics"]):
            for resource in message.resource_metrics:
                pid = self._identity(resource)
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name == "gen_ai.client.operation.duration":
                            points = metric.histogram.data_points
                            self.calls[pid] = sum(point.count for point in points)

    def _identity(self, group) -> int:
        found = {each.key: each.value for each in group.resource.attributes}
        pid = found["process.pid"].int_value
        self.identities.add((pid, found["service.instance.id"].string_value))
        return pid

    def check(self, made: Counter[int]) -> None:
        """Check that the calls of each process arrived once, under its own identity."""
        expected = {pid: CALLS * times for pid, times in made.items()}
        assert {pid: n for pid, n in self.spans.items() if n} == expected
        assert self.calls == expected
        assert len(set(self.span_ids)) == len(self.span_ids)
        pids, instances = zip(*self.identities, strict=True)
        assert len(set(pids)) == len(set(instances)) == len(self.identities)


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


@contextmanager
def serving(command: list[str], environ: dict[str, str]) -> Iterator[str]:
    """Start a server, and yield its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [each.format(port=port) for each in command]
    process = subprocess.Popen(
        with_signals(command),
        cwd=HERE,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(lambda: answers(port), process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=30)
        # Shown if the test fails.
        sys.stdout.write(output)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)


def ask(url: str) -> int:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return int(answer.read())


GUNICORN = [str(SCRIPTS / "gunicorn"), "-w", "2", "-b", "127.0.0.1:{port}", "web:wsgi"]
UVICORN = [str(SCRIPTS / "uvicorn"), "--workers", "2", "--port", "{port}", "web:asgi"]

SERVERS = {
    "gunicorn --preload": ([INSTRUMENT, *GUNICORN, "--preload"], {}),
    "gunicorn": ([INSTRUMENT, *GUNICORN], {}),
    "gunicorn, init in code": (GUNICORN, IN_CODE),
    "gunicorn --preload, init in code": ([*GUNICORN, "--preload"], IN_CODE),
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
    with (grpc_receiver if grpc else http_receiver)() as received:
        environ = environment(received, model, **SOON, **variables)
        with serving(command, environ) as url, ThreadPoolExecutor(8) as pool:
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


def extra_calls(command: list[str], made: Counter[int]) -> Counter[int]:
    """Return the calls at import by process, those of the workers' parent under an invented id."""
    return Counter({-1: 1}) if "--preload" in command else Counter(dict.fromkeys(made, 1))


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
    with (grpc_receiver if grpc else http_receiver)() as received:
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


CELERY = ["prefork", pytest.param("gevent", marks=pytest.mark.needs("gevent"))]


@pytest.mark.slow
@pytest.mark.needs("celery")
@pytest.mark.parametrize("pool", CELERY)
@pytest.mark.parametrize("interval", ["300", "60000"])
def test_celery_workers_export_their_own_telemetry(model, tmp_path, pool, interval):
    # Threads export while the workers run, and the rest is exported when the worker stops.
    command = [str(SCRIPTS / "celery"), "-A", "tasks", "worker", "-P", pool, "-c", "2"]
    quiet = ["--without-mingle", "--without-gossip", "--without-heartbeat", "-l", "WARNING"]
    with http_receiver() as received:
        environ = environment(received, model, QUEUE=str(tmp_path))
        environ |= {"OTEL_METRIC_EXPORT_INTERVAL": interval}
        send = "import tasks; [tasks.call.delay() for _ in range(8)]"
        subprocess.run([sys.executable, "-c", send], cwd=HERE, env=environ, check=True, timeout=60)
        worker = subprocess.Popen(
            with_signals([INSTRUMENT, *command, *quiet]),
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
    with http_receiver() as received:
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
