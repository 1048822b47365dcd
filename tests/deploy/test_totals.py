"""Increases in Prometheus and VictoriaMetrics equal what was sent, through resets of the counters.

A worker of gunicorn is killed, the llama.cpp server restarts, and the application restarts.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.conftest import INSTRUMENT
from tests.deploy.prometheus import Prometheus, prometheus, victoria_metrics
from tests.support.llama_server import embedded_server
from tests.support.ports import free_port, neighboring_ports
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.needs("prometheus", "victoria-metrics", "xllamacpp"),
]

WORKERS = 2
PORTS = 2 + WORKERS  # one of gunicorn's parent, and one more
IDLE_S = 3
# Metrics by the figure of a call that they count.
METRICS = {
    "calls": "gen_ai_client_operation_duration_seconds_count",
    "input tokens": 'gen_ai_client_token_usage_sum{gen_ai_token_type="input"}',
    "output tokens": 'gen_ai_client_token_usage_sum{gen_ai_token_type="output"}',
    "prompt tokens of the server": "llamatelemetry_server_prompt_tokens_total",
    "generated tokens of the server": "llamatelemetry_server_generated_tokens_total",
}


@dataclass
class Shop:
    """The application's workers, and the calls that they have made.

    Attributes:
        calls: Calls of each worker that has not been killed.
        sent: All calls and tokens since the start of the measurement.
    """

    url: str
    servers: tuple[Prometheus, Prometheus]
    calls: Counter[int] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)

    def call(self, least: int) -> None:
        """Make calls until each worker has made at least this many.

        Both servers scrape after each two calls, because a counter that restarts is only noticed if
        its first value is less than the last one before.
        """
        with ThreadPoolExecutor(2) as pool:
            while len(self.calls) < WORKERS or min(self.calls.values()) < least:
                for pid, prompt, output in pool.map(ask, [self.url] * 2):
                    self.calls[pid] += 1
                    self.sent.update(
                        {
                            "calls": 1,
                            "input tokens": prompt,
                            "output tokens": output,
                            "prompt tokens of the server": prompt,
                            "generated tokens of the server": output,
                        }
                    )
                wait_for(self.is_scraped, timeout_s=30)

    def kill_worker(self) -> None:
        """Kill a worker between two scrapes. gunicorn starts another one."""
        killed = next(iter(self.calls))
        os.kill(killed, signal.SIGKILL)
        del self.calls[killed]
        wait_for(self.is_scraped)

    def is_scraped(self) -> bool:
        """Return whether both servers have the calls of the present workers."""
        wanted = self.calls.total()
        return all(value_at(each, f"sum({METRICS['calls']})") == wanted for each in self.servers)


def ask(url: str) -> tuple[int, int, int]:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def value_at(server: Prometheus, expr: str) -> float:
    found = server.at(time.time(), expr)
    return float(found[0]["value"][1]) if found else 0


@dataclass(frozen=True)
class Totals:
    """What was sent between two times at which nothing was in progress."""

    sent: Counter[str]
    prometheus: Prometheus
    victoria_metrics: Prometheus
    start_s: float
    end_s: float

    @property
    def window(self) -> str:
        return f"{math.ceil(self.end_s - self.start_s)}s"


@contextmanager
def gunicorn(folder: Path, first_port: int, llama_port: int) -> Iterator[str]:
    """Run the application with its workers, and yield its URL."""
    port = free_port()
    program = Path(INSTRUMENT).with_name("gunicorn")
    command = [INSTRUMENT, program, f"-w{WORKERS}", f"-b127.0.0.1:{port}"]
    variables = {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{llama_port}/v1",
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(first_port),
        "LLAMATELEMETRY_SERVER_METRICS_URLS": f"http://127.0.0.1:{llama_port}/metrics",
        "TMPDIR": str(folder),  # the lock file of the leader election
    }
    with (folder / "gunicorn.log").open("a") as log:
        process = subprocess.Popen(
            [*command, "counted_calls:application"],
            cwd=Path(__file__).parent,
            env={**os.environ, **variables},
            stdout=log,
            stderr=log,
        )

    def accepts() -> bool:
        assert process.poll() is None, (folder / "gunicorn.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(accepts, timeout_s=60)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def totals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Totals]:
    """Make calls before and after each restart."""
    folder = tmp_path_factory.mktemp("totals")
    first_port, llama_port = neighboring_ports(PORTS), free_port()
    jobs = {"shop": range(first_port, first_port + PORTS)}
    llama = {"port": llama_port, "alias": "smol", "metrics": True, "parallel": 2}
    with prometheus(folder, jobs) as scraper, victoria_metrics(folder, jobs) as victoria:
        with gunicorn(folder, first_port, llama_port) as url:
            shop = Shop(url, (scraper, victoria))
            with embedded_server(**llama):
                shop.call(3)
                time.sleep(IDLE_S)
                shop.sent.clear()
                start_s = time.time()
                time.sleep(IDLE_S)  # Prometheus has samples of the start.
                shop.call(5)
                shop.kill_worker()
                shop.call(3)
                time.sleep(IDLE_S)
            with embedded_server(**llama):
                shop.call(5)
                time.sleep(IDLE_S)
        with embedded_server(**llama), gunicorn(folder, first_port, llama_port) as url:
            shop.url = url
            shop.calls.clear()
            shop.call(5)
            time.sleep(IDLE_S)
            yield Totals(shop.sent, scraper, victoria, start_s, time.time())


@pytest.mark.parametrize("figure", METRICS)
def test_samples_of_prometheus_contain_everything_that_was_sent(figure: str, totals: Totals):
    series = totals.prometheus.at(totals.end_s, f"{METRICS[figure]}[{totals.window}]")
    assert sum(map(increase, series)) == totals.sent[figure]


def increase(series: dict[str, Any]) -> float:
    """Return how much a counter has increased, as `increase()` does without extrapolation."""
    values = [float(value) for _, value in series["values"]]
    return sum(after - before if after >= before else after for before, after in pairwise(values))


@pytest.mark.parametrize("figure", METRICS)
@pytest.mark.parametrize("function", ["increase", "rate"])
def test_increase_is_what_was_sent(figure: str, function: str, totals: Totals):
    expr = f"sum({function}({METRICS[figure]}[{totals.window}]))"
    factor = math.ceil(totals.end_s - totals.start_s) if function == "rate" else 1
    found = [
        float(each.at(totals.end_s, expr)[0]["value"][1]) * factor
        for each in (totals.prometheus, totals.victoria_metrics)
    ]
    # Prometheus extrapolates to the ends of the window. VictoriaMetrics does not, but it divides by
    # the time between samples.
    assert found[0] == pytest.approx(totals.sent[figure], rel=0.1)
    assert found[1] == pytest.approx(totals.sent[figure], rel=0.02 if function == "rate" else 0)


def test_counters_have_been_reset(totals: Totals):
    """Otherwise the other tests would show nothing."""
    resets = f"sum(resets({METRICS['calls']}[{totals.window}]))"
    # One worker was killed, and two were restarted.
    assert totals.prometheus.at(totals.end_s, resets)[0]["value"][1] == "3"
