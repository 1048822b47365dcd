"""The exporter `prometheus`, scraped over HTTP in programs of their own and in this process."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import re
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections import Counter
from collections.abc import Iterator

import prometheus_client
import pytest
from opentelemetry import metrics

import llamatelemetry
from llamatelemetry.otel.export.prometheus_reader import PORTS
from tests.support.ports import neighboring_ports

PORT = "OTEL_EXPORTER_PROMETHEUS_PORT"
HOST = "OTEL_EXPORTER_PROMETHEUS_HOST"


def scrape(port: int | str) -> str:
    with urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=30) as answer:
        return answer.read().decode()


def samples(text: str) -> Counter[str]:
    """Return how often each series is in the text."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return Counter(line.rpartition(" ")[0] for line in lines)


@pytest.fixture
def port(monkeypatch) -> Iterator[int]:
    """Return the configured port, which is free, as is the next one."""
    free = neighboring_ports(2)
    monkeypatch.setenv(PORT, str(free))
    monkeypatch.setenv(HOST, "localhost")
    yield free
    llamatelemetry.shutdown()


def port_in(log: str) -> int:
    """Return the port that the log names."""
    found = re.search(r"at http://localhost:(\d+)/metrics", log)
    assert found, log
    return int(found[1])


def record() -> None:
    metrics.get_meter("test").create_counter("pages", unit="{page}").add(2)


def test_metrics_are_served_once_also_after_flush(port):
    llamatelemetry.init("shop", exporter="prometheus")
    record()
    assert llamatelemetry.flush()
    text = scrape(port)
    assert re.search(r"^pages_total\{.*\} 2\.0$", text, re.MULTILINE)
    assert 'service_name="shop"' in text
    assert {*samples(text).values()} == {1}


def status_of(address: str, port: int, host: str | None) -> int:
    """Return the status of a scrape with a `Host` header, or without one."""
    connection = http.client.HTTPConnection(address, port, timeout=30)
    connection.putrequest("GET", "/metrics", skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    with contextlib.closing(connection):
        return connection.getresponse().status


LOOPBACK_HOSTS = ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.2:9464", "[::1]:9464", None]
OTHER_HOSTS = [
    "evil.example",
    "localhost.evil.example:9464",
    "127.evil.example",
    "10.0.0.1",
    "[::1",
    "",
]


@pytest.mark.parametrize("host", [*LOOPBACK_HOSTS, *OTHER_HOSTS])
def test_server_on_loopback_rejects_other_hosts(port, host):
    llamatelemetry.init(exporter="prometheus")
    assert status_of("localhost", port, host) == (200 if host in LOOPBACK_HOSTS else 403)


def test_server_on_another_address_accepts_the_name_of_a_service(port, monkeypatch):
    monkeypatch.setenv(HOST, "0.0.0.0")
    llamatelemetry.init(exporter="prometheus")
    assert status_of("127.0.0.1", port, "shop.default.svc:9464") == 200


def test_port_in_use_moves_metrics_with_warning(port, caplog):
    with socket.create_server(("localhost", port)):
        llamatelemetry.init(exporter="prometheus")
        used = port_in(caplog.text)
        assert port < used < port + PORTS
        record()
        assert "pages_total" in scrape(used)
    assert f"Port {port} is in use" in caplog.text


@pytest.mark.parametrize(
    ("host", "port_text"), [("no-such-host.invalid", "9464"), ("localhost", "70000")]
)
def test_address_that_cannot_be_used_is_logged_and_other_exporters_work(
    host, port_text, monkeypatch, caplog, tmp_path
):
    monkeypatch.setenv(HOST, host)
    monkeypatch.setenv(PORT, port_text)
    llamatelemetry.init(exporter="file,prometheus", export_path=str(tmp_path))
    record()
    assert llamatelemetry.flush()
    llamatelemetry.shutdown()
    assert f"Cannot serve Prometheus metrics on {host}" in caplog.text
    assert "pages" in next(tmp_path.glob("metrics-*")).read_text()


def test_port_zero_is_any_free_port(port, monkeypatch, caplog):
    monkeypatch.setenv(PORT, "0")
    caplog.set_level(logging.INFO, "llamatelemetry")
    llamatelemetry.init(exporter="prometheus")
    record()
    assert "pages_total" in scrape(port_in(caplog.text))
    assert [each.levelname for each in caplog.records if "Prometheus" in each.message] == ["INFO"]


def test_shutdown_frees_port_for_next_setup(port, caplog):
    for _ in range(2):
        llamatelemetry.init(exporter="prometheus")
        record()
        assert "pages_total" in scrape(port)
        llamatelemetry.shutdown()
    with socket.socket() as probe:
        assert probe.connect_ex(("localhost", port)) != 0
    assert "in use" not in caplog.text


def test_application_registry_is_left_alone(port):
    before = prometheus_client.generate_latest()
    llamatelemetry.init(exporter="prometheus")
    record()
    scrape(port)
    assert samples(prometheus_client.generate_latest().decode()) == samples(before.decode())


def test_missing_package_is_named_and_traces_are_exported(monkeypatch, caplog, tmp_path):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.prometheus", None)
    llamatelemetry.init(exporter="file,prometheus", export_path=str(tmp_path))
    llamatelemetry.shutdown()
    assert "pip install 'llamatelemetry[prometheus]'. Using llamatelemetry_file" in caplog.text


FORKED = """
import os, socket, sys, urllib.request
import llamatelemetry
from opentelemetry import metrics

llamatelemetry.init(exporter="prometheus")
counter = metrics.get_meter("test").create_counter("pages")
counter.add(1)
to_child, from_parent = os.pipe()
to_parent, from_child = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(from_parent)  # Otherwise it would wait for a parent that has failed.
    counter.add(5)
    os.write(from_child, b"ready")
    os.read(to_child, 10)
    os._exit(0)
os.close(from_child)
os.read(to_parent, 10)
for port in map(int, sys.argv[1:]):
    with urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    print(port, next(line.rpartition(" ")[2] for line in lines if line.startswith("pages_total")))
llamatelemetry.shutdown()
# The child has closed its copy of the parent's socket.
with socket.socket() as probe:
    print("closed" if probe.connect_ex(("localhost", int(sys.argv[1]))) else "open")
os.write(from_parent, b"end")
os.waitpid(pid, 0)
"""


# The set-up replaces invalid values, also for the servers of forked children.
@pytest.mark.parametrize("host", ["localhost", "localhost\r"])
def test_forked_child_serves_its_own_metrics(port, host):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORKED), str(port), str(port + 1)],
        env={**os.environ, "OTEL_EXPORTER_PROMETHEUS_HOST": host},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines() == [f"{port} 1.0", f"{port + 1} 5.0", "closed"], done.stderr
