"""Each alert fires in its own scenario and in no other, by a real Prometheus.

A scenario is a healthy service, in which one thing changes. The service calls a scripted server,
scrapes the metrics of an engine and of a GPU driver, and exports its spans.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.deploy.conftest import INSTRUMENT, RECORDED, idle
from tests.deploy.prometheus import (
    Exposition,
    Prometheus,
    exposition,
    prometheus,
    rule_expressions,
)
from tests.support import nvml
from tests.support.llama_server import LlamaServer, embedded_server
from tests.support.otlp_receiver import Received, http_receiver
from tests.support.ports import free_port
from tests.support.timed_server import Script, scripted_server
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.needs("prometheus", "cc")]

PROGRAM = Path(__file__).with_name("scripted_calls.py")
# With a scrape a second, each window has some samples. `for: 10m` is longer than a late scrape.
DURATIONS = {"10m": "6s", "15m": "4s", "30m": "5s", "1h": "5s", "6h": "8s", "1d": "15s"}
LONGEST_WAIT_S = 6
THERMAL = 0x40  # nvmlClocksThrottleReasonHwThermalSlowdown
CALL = Script(first_s=0.05, gaps_s=[0.02] * 4)
HEALTHY = [
    "gen_ai_client_operation_time_per_output_chunk_seconds_count",
    "llamatelemetry_server_kv_cache_usage",
    "hw_energy_joules_total",
    "otel_sdk_exporter_span_exported_total",
]


@dataclass
class Service:
    """A running service, and everything around it.

    Attributes:
        llama: A llama.cpp server whose metrics the service scrapes, if the scenario has one.
        stop_llama: Stops it.
    """

    process: subprocess.Popen[str]
    engine: Exposition
    driver: nvml.Driver
    receiver: Received
    scraper: Prometheus
    llama: LlamaServer | None
    stop_llama: Callable[[], None]

    def send(self, script: Script) -> None:
        """Set the prompt of the next calls."""
        assert self.process.stdin
        self.process.stdin.write(f"{script.text()}\n")
        self.process.stdin.flush()

    def report(self, **values: float) -> None:
        """Change values of the engine's metrics."""
        text = self.engine.texts["/metrics"]
        for name, value in values.items():
            text = re.sub(rf"^(vllm:{name}{{.*}}) .*$", rf"\1 {value}", text, flags=re.MULTILINE)
        self.engine.texts["/metrics"] = text

    def is_healthy(self) -> bool:
        """Return whether Prometheus has scraped calls, an engine, a GPU and exported spans."""
        return all(self.scraper.at(time.time(), name) for name in HEALTHY)

    def fires(self, alert: str) -> bool:
        """Return whether an alert fires now."""
        firing = f'ALERTS{{alertstate="firing",alertname="{alert}"}}'
        return bool(self.scraper.at(time.time(), firing))


def grow_queue(service: Service) -> None:
    """Send more requests to the slot of the llama.cpp server than it can complete."""
    assert service.llama
    body = json.dumps({"prompt": "Hi", "n_predict": 900, "ignore_eos": True}).encode()
    request = urllib.request.Request(f"{service.llama.origin}/completion", body)

    def post() -> None:
        with suppress(OSError, HTTPException), urllib.request.urlopen(request, timeout=60) as reply:
            reply.read()

    for _ in range(30):
        threading.Thread(target=post, daemon=True).start()
        time.sleep(0.6)


def preempt(service: Service) -> None:
    for count in range(1, 15):
        service.report(num_preemptions_total=count)
        time.sleep(1)


def triple_power(service: Service) -> None:
    elapsed = time.time() - service.driver.machine["start"]
    service.driver.change(power=[[0, 300], [elapsed, 900]])


def stop(service: Service) -> None:
    assert service.process.stdin
    service.process.stdin.close()


@dataclass(frozen=True)
class Scenario:
    """What changes in a healthy service.

    Attributes:
        week: Duration of a week in the rules. By default longer than the scenario, because most
            changes also reduce the number of tokens per joule.
        healthy_s: Time before the change.
    """

    change: Callable[[Service], object]
    has_llama: bool = False
    week: str = "10m"
    healthy_s: float = 2


SCENARIOS = {
    "LlmErrorBudgetBurn": Scenario(lambda service: service.send(replace(CALL, status=500))),
    "LlmTtftBudgetBurn": Scenario(lambda service: service.send(replace(CALL, first_s=3))),
    "LlmTpotBudgetBurn": Scenario(lambda service: service.send(replace(CALL, gaps_s=[0.4] * 4))),
    "LlmServerDown": Scenario(lambda service: service.stop_llama(), has_llama=True),
    "LlmQueueGrowing": Scenario(grow_queue, has_llama=True),
    "LlmKvCacheNearlyFull": Scenario(lambda service: service.report(kv_cache_usage_perc=0.97)),
    "LlmPreemptions": Scenario(preempt),
    "GpuThrottled": Scenario(lambda service: service.driver.change(throttle=THERMAL)),
    "GpuFailing": Scenario(lambda service: service.driver.lose()),
    # A day is 15 s. The week ago, it must be complete.
    "EnergyPerTokenUp": Scenario(triple_power, week="30s", healthy_s=48),
    "NoTelemetry": Scenario(stop),
    "TelemetryLost": Scenario(lambda service: setattr(service.receiver, "status", 400)),
}


@contextmanager
def healthy_service(folder: Path, scenario: Scenario) -> Iterator[Service]:
    port = free_port()
    with ExitStack() as stack:
        enter = stack.enter_context
        llama_stack = enter(ExitStack())
        llama = None
        if scenario.has_llama:
            options = {"port": free_port(), "metrics": True, "parallel": 1, "alias": "smol"}
            llama = llama_stack.enter_context(embedded_server(**options))
        model = enter(scripted_server(folder))
        engine = enter(exposition({"/metrics": idle(RECORDED["/metrics"])}))
        receiver = enter(http_receiver())
        driver = nvml.Driver(folder, nvml.machine(nvml.gpu()))
        targets = [engine.url, *([llama.origin] if llama else [])]
        variables = {
            **driver.environment,
            "OTEL_PYTHON_DISTRO": "llamatelemetry",
            "OTEL_SERVICE_NAME": "shop",
            "OTEL_METRICS_EXPORTER": "prometheus",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
            "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_BSP_SCHEDULE_DELAY": "500",
            "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
            "LLAMATELEMETRY_SERVER_METRICS_URLS": ",".join(f"{url}/metrics" for url in targets),
            "LLAMATELEMETRY_GPU_INTERVAL_MS": "200",
            "TMPDIR": str(folder),  # the lock file of the leader election
        }
        log = enter((folder / "service.log").open("w"))
        process = subprocess.Popen(
            [INSTRUMENT, sys.executable, str(PROGRAM), f"{model.url}/v1", CALL.text()],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        stack.callback(process.wait, 60)
        stack.callback(process.stdin.close)
        scraper = enter(prometheus(folder, {"shop": [port]}, {**DURATIONS, "1w": scenario.week}))
        yield Service(process, engine, driver, receiver, scraper, llama, llama_stack.close)


def fired_in(folder: Path, name: str) -> set[str]:
    """Run a scenario until its alert fires, and longer than any other would take to fire."""
    start_s = time.time()
    scenario = SCENARIOS[name]
    with healthy_service(folder, scenario) as service:
        wait_for(service.is_healthy, timeout_s=60)
        time.sleep(scenario.healthy_s)
        scenario.change(service)
        # The set of alerts says what happened instead.
        with suppress(AssertionError):
            wait_for(partial(service.fires, name), timeout_s=60)
        time.sleep(LONGEST_WAIT_S)
        firing = service.scraper.during('ALERTS{alertstate="firing"}', start_s, time.time())
    return {each["metric"]["alertname"] for each in firing}


@pytest.fixture(scope="module")
def scenarios(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[set[str]]]]:
    """Run the selected scenarios, some of them at a time, because they mostly wait."""
    selected = " ".join(item.name for item in request.session.items)
    with ThreadPoolExecutor(4) as pool:
        yield {
            name: pool.submit(fired_in, tmp_path_factory.mktemp(name), name)
            for name in SCENARIOS
            if f"[{name}]" in selected
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.needs("xllamacpp")] if scenario.has_llama else [])
        for name, scenario in SCENARIOS.items()
    ],
)
def test_only_alert_of_scenario_fires(name: str, scenarios: dict[str, Future[set[str]]]):
    assert scenarios[name].result() == {name}


def test_every_alert_has_a_live_scenario():
    alerts = {each.place.removeprefix("alert: ") for each in rule_expressions("alert")}
    assert alerts == SCENARIOS.keys()
