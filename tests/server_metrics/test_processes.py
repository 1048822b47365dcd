"""`llamacpp_metrics_url` in real programs: zero-code, `init()`, forked workers, killed processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.llama_server import LlamaServer
from tests.support.waiting import wait_for

PREFIX = "llamatelemetry.llamacpp."
INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))

WORKERS = """
    import os, signal, sys
    import llamatelemetry

    llamatelemetry.init()
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            # End in any case, even if the test fails.
            signal.alarm(60)
            signal.pause()
        children.append(child)
    print(*children, flush=True)
    sys.stdin.read()
    for child in children:
        os.kill(child, signal.SIGKILL)
"""
# A program that waits for its stdin to close, and then flushes at exit.
SHORT = """
    import sys, threading
    import llamatelemetry
    {init}
    sys.stdin.read()
    {end}
    print([t.name for t in threading.enumerate() if "server-metrics" in t.name], flush=True)
"""


class Exported:
    """The exported metrics by process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def last(self, name: str) -> dict[int, float]:
        """Return the newest value of a metric from each process that reported it."""
        found = {pid: self._values(file, name) for pid, file in self._files()}
        return {pid: values[-1] for pid, values in found.items() if values}

    def values(self, name: str, pid: int) -> list[float]:
        return self._values(self._directory / f"metrics-{pid}.jsonl", name)

    def _files(self) -> Iterator[tuple[int, Path]]:
        for file in self._directory.glob("metrics-*.jsonl"):
            yield int(file.stem.removeprefix("metrics-")), file

    @staticmethod
    def _values(file: Path, name: str) -> list[float]:
        return [
            float(point.get("asInt", point.get("asDouble")))
            for line in file.read_text().splitlines(keepends=True)
            if line.endswith("\n")
            for resource in json.loads(line)["resourceMetrics"]
            for scope in resource["scopeMetrics"]
            for metric in scope["metrics"]
            if metric["name"] == PREFIX + name
            for point in metric["sum"]["dataPoints"]
        ]


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    return Exported(tmp_path / "exported")


@pytest.fixture
def environ(tmp_path: Path, llama_server: LlamaServer) -> dict[str, str]:
    return {
        **os.environ,
        # Directory of the lock file.
        "TMPDIR": str(tmp_path),
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_METRIC_EXPORT_INTERVAL": "300",
        "LLAMATELEMETRY_EXPORTER": "file",
        "LLAMATELEMETRY_EXPORT_PATH": str(tmp_path / "exported"),
        "LLAMATELEMETRY_LLAMACPP_METRICS_URL": f"{llama_server.origin}/metrics",
    }


@pytest.fixture
def start(environ: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen]]:
    started: list[subprocess.Popen] = []

    def run(code: str, *command: str, **more: str) -> subprocess.Popen:
        program = subprocess.Popen(
            [*command, sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
            env=environ | more,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(program)
        return program

    yield run
    for program in started:
        program.communicate(timeout=30)


@pytest.mark.slow
def test_one_of_four_workers_reports_and_others_take_over_when_it_is_killed(
    llama_server, start, exported, tmp_path
):
    program = start(WORKERS)
    children = {int(pid) for pid in program.stdout.readline().split()}
    wait_for(lambda: exported.last("prompt_tokens"))
    wait_for(lambda: len(exported.values("prompt_tokens", program.pid)) > 3)
    # The parent is the leader. The workers ran for several exports and reported nothing.
    assert set(exported.last("prompt_tokens")) == {program.pid}
    before = exported.last("prompt_tokens")[program.pid]
    assert before == llama_server.metrics()["prompt_tokens_total"]

    program.kill()
    program.wait(30)
    wait_for(lambda: set(exported.last("prompt_tokens")) & children)
    (second,) = set(exported.last("prompt_tokens")) & children
    os.kill(second, signal.SIGKILL)
    wait_for(lambda: set(exported.last("prompt_tokens")) & (children - {second}))
    (last,) = set(exported.last("prompt_tokens")) & (children - {second})
    now = llama_server.metrics()["prompt_tokens_total"]
    assert exported.last("prompt_tokens") == {program.pid: before, second: before, last: now}
    for child in children - {second}:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("command", "init"),
    [
        ((INSTRUMENT,), ""),
        ((), "llamatelemetry.init()"),
        ((), "llamatelemetry.init(); llamatelemetry.shutdown(); llamatelemetry.init()"),
    ],
    ids=["zero-code", "init", "init after shutdown"],
)
def test_shutdown_stops_scraping(start, exported, tmp_path, command, init):
    program = start(SHORT.format(init=init, end="assert llamatelemetry.shutdown()"), *command)
    wait_for(lambda: exported.last("prompt_tokens"))
    output, _ = program.communicate(timeout=30)
    assert (program.returncode, output) == (0, "[]\n")
    (lock,) = tmp_path.glob("llamatelemetry-*/*.lock")
    assert "-shop-" in lock.name


def test_delta_export_starts_at_0(llama_server, start, exported):
    body = json.dumps({"prompt": "Hi", "n_predict": 1, "cache_prompt": False}).encode()
    urllib.request.urlopen(f"{llama_server.origin}/completion", body, timeout=60).close()
    program = start(
        SHORT.format(init="llamatelemetry.init()", end=""),
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
    )
    wait_for(lambda: exported.last("prompt_tokens"))
    assert exported.last("prompt_tokens") == {program.pid: 0}
    assert llama_server.metrics()["prompt_tokens_total"] > 0


def test_exit_does_not_wait_for_unresponsive_server(start, exported, listening):
    port = listening.getsockname()[1]
    program = start(
        SHORT.format(init="llamatelemetry.init()", end=""),
        LLAMATELEMETRY_LLAMACPP_METRICS_URL=f"http://127.0.0.1:{port}/metrics",
    )
    # The scraper gets no response. Its timeout is 10 s.
    asking, _ = listening.accept()
    with asking:
        output, _ = program.communicate(timeout=9)
    assert (program.returncode, output) == (0, "['llamatelemetry-server-metrics']\n")


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(30)
        yield listening


@pytest.mark.parametrize(
    "setting",
    [{"OTEL_SDK_DISABLED": "true"}, {"LLAMATELEMETRY_METRICS": "false"}],
    ids=["SDK disabled", "no metrics"],
)
def test_scraper_does_not_start_when_metrics_are_off(start, tmp_path, setting):
    code = SHORT.format(init="llamatelemetry.init()", end="")
    program = start(code, **setting)
    output, _ = program.communicate(timeout=30)
    assert (program.returncode, output) == (0, "[]\n")
    assert not list(tmp_path.glob("llamatelemetry-*"))


def test_servers_of_both_options_are_scraped_once_each(llama_server, start, exported):
    origin = llama_server.origin
    program = start(
        SHORT.format(init="llamatelemetry.init()", end=""),
        LLAMATELEMETRY_SERVER_METRICS_URLS=f"{origin},{origin}/metrics",
        LLAMATELEMETRY_LLAMACPP_METRICS_URL=f"{origin}/metrics",
    )
    wait_for(lambda: exported.last("prompt_tokens"))
    output, _ = program.communicate(timeout=30)
    assert (program.returncode, output) == (0, "['llamatelemetry-server-metrics']\n")
    total = llama_server.metrics()["prompt_tokens_total"]
    assert exported.last("prompt_tokens") == {program.pid: total}
