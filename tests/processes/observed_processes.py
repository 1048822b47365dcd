"""Servers and programs in processes of their own, and what a receiver got of each process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.processes.calls import CALLS
from tests.support.children import with_signals
from tests.support.otlp_receiver import Received, grpc_receiver, http_receiver

HERE = Path(__file__).parent
SCRIPTS = Path(sysconfig.get_path("scripts"))
INSTRUMENT = str(SCRIPTS / "opentelemetry-instrument")
IN_CODE = {"INIT_IN_CODE": "1"}


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


def receiver(grpc: bool = False) -> AbstractContextManager[Received]:
    # As in a real collector, connections stay open, so that processes could share them.
    return grpc_receiver() if grpc else http_receiver(keep_alive=True)


class Seen:
    """The received telemetry, by the process that sent it."""

    def __init__(self, received: Received) -> None:
        self.malformed = received.malformed
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
        assert self.malformed == []
        expected = {pid: CALLS * times for pid, times in made.items()}
        spans = {pid: n for pid, n in self.spans.items() if n}
        assert spans == expected, (spans, expected)
        assert self.calls == expected, (self.calls, expected)
        assert len(set(self.span_ids)) == len(self.span_ids)
        pids, instances = zip(*self.identities, strict=True)
        assert len(set(pids)) == len(set(instances)) == len(self.identities)


@contextmanager
def serving(
    command: list[str], environ: dict[str, str]
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a server, yield its URL and its process, and terminate it."""
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
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        # A worker that gunicorn has just forked may miss the signal. It is killed after 30 seconds.
        output, _ = process.communicate(timeout=60)
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


def extra_calls(command: list[str], made: Counter[int]) -> Counter[int]:
    """Return the calls at import by process, those of the workers' parent under an invented id."""
    return Counter({-1: 1}) if "--preload" in command else Counter(dict.fromkeys(made, 1))
