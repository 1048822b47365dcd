"""One run of real traffic, which all checks of expressions share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.prometheus import ROOT, Prometheus, exposition, prometheus, victoria_metrics
from tests.support import nvml
from tests.support.components import require, unavailable
from tests.support.llama_server import embedded_server
from tests.support.ports import free_port
from tests.support.waiting import wait_for

INSTRUMENT = str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")
PROGRAM = Path(__file__).with_name("application.py")
# The metrics that two vLLM servers recorded after a load. The load of one filled the KV cache, so
# that requests were preempted. The other one drafted.
RECORDED = {
    path: (ROOT / "tests" / "support" / "engine_metrics" / f"{name}.txt").read_text()
    for path, name in (("/metrics", "vllm_preempted"), ("/drafting/metrics", "vllm_drafting"))
}
_SAMPLE = re.compile(r"^([^#].*) \S+$", re.MULTILINE)
# Finished streams after which the server restarts, and after which the traffic ends.
STREAMS = (6, 10)
# The alerts for what happens during the traffic.
HAPPENED = frozenset({"LlmErrorBudgetBurn", "LlmServerDown", "LlmPreemptions", "TelemetryLost"})
# Long enough for an alert with `for: 5s` of something that did not happen.
SCRAPES_S = 10


@dataclass(frozen=True)
class Traffic:
    """The servers that have scraped the application, and the time range of the calls.

    Without VictoriaMetrics on this machine, `victoria_metrics` is `None`.
    """

    prometheus: Prometheus
    victoria_metrics: Prometheus | None
    start_s: float
    end_s: float


@pytest.fixture(scope="session")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    """Run the application until streams have finished before and after a restart of its server."""
    for component in ("prometheus", "xllamacpp", "cc"):
        require(component)
    folder = tmp_path_factory.mktemp("traffic")
    port, server_port = free_port(), free_port()
    jobs = {"shop": [port]}
    has_victoria = unavailable("victoria-metrics") is None
    other = victoria_metrics(folder, jobs) if has_victoria else nullcontext()
    with prometheus(folder, jobs) as scraper, other as victoria:
        start_s, end_s = record_traffic(folder, scraper, port, server_port)
        yield Traffic(scraper, victoria, start_s, end_s)


def record_traffic(
    folder: Path, scraper: Prometheus, port: int, server_port: int
) -> tuple[float, float]:
    """Run the application and its servers until everything has happened. Return its time range."""
    url = f"http://127.0.0.1:{server_port}"
    with (
        exposition({path: idle(text) for path, text in RECORDED.items()}) as vllm,
        application(folder, port, url, vllm.url),
    ):
        start_s = end_s = time.time()
        for number, streams in enumerate(STREAMS):
            with embedded_server(port=server_port, alias="smol", metrics=True, parallel=2):
                wait_for(lambda wanted=streams: finished_streams(scraper) >= wanted, timeout_s=400)
                time.sleep(SCRAPES_S)
                if number:
                    wait_for(lambda: firing_alerts(scraper, start_s) >= HAPPENED, timeout_s=120)
                end_s = time.time()
            if number == 0:
                wait_for(lambda: "LlmServerDown" in firing_alerts(scraper, start_s), timeout_s=120)
            vllm.texts.update(RECORDED)
        return start_s, end_s


def finished_streams(scraper: Prometheus) -> float:
    found = scraper.at(
        time.time(), 'sum(gen_ai_client_token_usage_count{gen_ai_token_type="output"})'
    )
    return float(found[0]["value"][1]) if found else 0


def firing_alerts(scraper: Prometheus, start_s: float, end_s: float | None = None) -> set[str]:
    """Return the names of the alerts that fired between two Unix times, or until now."""
    firing = scraper.during('ALERTS{alertstate="firing"}', start_s, end_s or time.time())
    return {each["metric"]["alertname"] for each in firing}


def idle(text: str) -> str:
    """Return the same metrics with all values 0."""
    return _SAMPLE.sub(r"\1 0", text)


@contextmanager
def application(folder: Path, port: int, url: str, vllm_url: str) -> Iterator[None]:
    """Run the application, with its metrics at a port, against the llama.cpp server at a URL."""
    driver = nvml.Driver(folder, nvml.machine(nvml.gpu(0), nvml.gpu(1)))
    variables = {
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_METRICS_EXPORTER": "otlp,prometheus",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "LLAMATELEMETRY_SERVER_METRICS_URLS": ",".join(
            [f"{url}/metrics", *(f"{vllm_url}{path}" for path in RECORDED)]
        ),
        "LLAMATELEMETRY_GPU_INTERVAL_MS": "200",
        "LLAMATELEMETRY_SAMPLING": "only_errors,only_slow",
        # Exports fail, and the queues are too small: the dashboards show both.
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        # While it runs, the llama.cpp server rejects them.
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{url}/v1/logs",
        "OTEL_METRIC_EXPORT_INTERVAL": "2000",
        "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
        "OTEL_BSP_MAX_QUEUE_SIZE": "4",
        "OTEL_BLRP_MAX_QUEUE_SIZE": "4",
        "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": "true",
        # The lock file of the leader election.
        "TMPDIR": str(folder),
    }
    with (folder / "application.log").open("w") as log:
        process = subprocess.Popen(
            [INSTRUMENT, sys.executable, str(PROGRAM), f"{url}/v1"],
            env={**os.environ, **driver.environment, **variables},
            stdin=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield
    finally:
        process.communicate(timeout=60)
