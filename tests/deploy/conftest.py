"""One run of real traffic, which all checks of expressions share."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.prometheus import Prometheus, free_port, prometheus, sleep_until
from tests.support import nvml
from tests.support.components import require
from tests.support.llama_server import embedded_server

INSTRUMENT = str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")
PROGRAM = Path(__file__).with_name("application.py")
BEFORE_RESTART_S = 15
AFTER_RESTART_S = 10


@dataclass(frozen=True)
class Traffic:
    """A Prometheus server that has scraped the application, and the time range of the calls."""

    prometheus: Prometheus
    start_s: float
    end_s: float


@pytest.fixture(scope="session")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    """Run the application for half a minute; restart its llama.cpp server once."""
    for component in ("prometheus", "xllamacpp", "cc"):
        require(component)
    folder = tmp_path_factory.mktemp("traffic")
    port, server_port = free_port(), free_port()
    server = {"port": server_port, "alias": "smol", "metrics": True, "parallel": 2}
    with prometheus(folder, {"shop": [port]}) as scraper:
        start_s = time.time()
        with embedded_server(**server) as llama:
            application = start_application(folder, port, llama.url)
            sleep_until(start_s + BEFORE_RESTART_S)
        with embedded_server(**server):
            sleep_until(start_s + BEFORE_RESTART_S + AFTER_RESTART_S)
            end_s = time.time()
            with ended(application):
                yield Traffic(scraper, start_s, end_s)


def start_application(folder: Path, port: int, url: str) -> subprocess.Popen[str]:
    driver = nvml.Driver(folder, nvml.machine(nvml.gpu(0), nvml.gpu(1)))
    variables = {
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "LLAMATELEMETRY_SERVER_METRICS_URLS": url.replace("/v1", "/metrics"),
        "LLAMATELEMETRY_GPU_INTERVAL_MS": "200",
        "LLAMATELEMETRY_SAMPLING": "only_errors,only_slow",
        # Exports fail, and the queues are too small: the dashboards show both.
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
        "OTEL_BSP_MAX_QUEUE_SIZE": "4",
        "OTEL_BLRP_MAX_QUEUE_SIZE": "4",
        "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": "true",
        # The lock file of the leader election.
        "TMPDIR": str(folder),
    }
    return subprocess.Popen(
        [INSTRUMENT, "python", str(PROGRAM), url],
        env={**os.environ, **driver.environment, **variables},
        stdin=subprocess.PIPE,
        stderr=(folder / "application.log").open("w"),
        text=True,
    )


@contextmanager
def ended(application: subprocess.Popen[str]) -> Iterator[None]:
    """End the application after the `with` block."""
    try:
        yield
    finally:
        application.communicate(timeout=60)
