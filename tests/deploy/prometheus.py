"""A real Prometheus server with the rules of `deploy/prometheus`, and the generated queries."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from tests.support.http_server import http_server
from tests.support.ports import free_port
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "deploy" / "prometheus").glob("*.rules.yaml"))
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
RATE_INTERVAL = "60s"


@dataclass(frozen=True)
class Expression:
    """A PromQL expression of a panel or rule, and the place where it is."""

    place: str
    expr: str

    @property
    def executable(self) -> str:
        """The expression with every variable of Grafana set to All."""
        text = self.expr.replace("$__rate_interval", RATE_INTERVAL)
        return re.sub(r"\$\w+", ".*", text)


def panels(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the panels of a dashboard, without its rows."""
    for panel in json.loads(path.read_text())["panels"]:
        yield from (each for each in [panel, *panel.get("panels", ())] if each["type"] != "row")


def panel_expressions() -> list[Expression]:
    """Return every expression of every panel."""
    return [
        Expression(f"{path.stem.removeprefix('llamatelemetry-')}: {panel['title']}", target["expr"])
        for path in DASHBOARDS
        for panel in panels(path)
        for target in panel["targets"]
    ]


def rule_expressions(kind: str) -> list[Expression]:
    """Return the expressions of all rules of a kind, `record` or `alert`."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    rules = [rule for group in groups for rule in group["rules"] if kind in rule]
    return [Expression(f"{kind}: {rule[kind]}", rule["expr"]) for rule in rules]


def load_scale() -> Any:
    """Return the module `scripts/scale.py`."""
    spec = importlib.util.spec_from_file_location("scale", ROOT / "scripts" / "scale.py")
    assert spec
    assert spec.loader
    # Its dataclass looks its own module up.
    module = sys.modules["scale"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compressed(rules: Any, durations: Mapping[str, str]) -> Any:
    """Return rules with shorter durations, by the given ones: `[5m]` and `for: 5m` by that of `5m`.

    For any other duration an hour becomes a minute: `[5m]` becomes `[5s]`.
    """
    shorter = {"s": "s", "m": "s", "h": "m", "d": "h", "w": "d"}

    def scaled(text: str) -> str:
        return re.sub(
            r"\b(\d+)([smhdw])\b", lambda m: durations.get(m[0], f"{m[1]}{shorter[m[2]]}"), text
        )

    for group in rules["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            # Names of recorded series, such as `rate5m`, do not change.
            rule["expr"] = re.sub(r"\[[^]]*\]|offset \S+", lambda m: scaled(m[0]), rule["expr"])
            if "for" in rule:
                rule["for"] = scaled(rule["for"])
    return rules


class Prometheus:
    """A running server."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str | float) -> Any:
        """Return the data of a response of the API."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def at(self, moment_s: float, expr: str) -> list[dict[str, Any]]:
        """Return the series of an expression at a Unix time."""
        return self.get("query", query=expr, time=moment_s)["result"]

    def during(self, expr: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
        """Return the series of an expression over a time range, with a value every second."""
        found = self.get("query_range", query=expr, start=start_s, end=end_s, step=1)
        return found["result"]


@contextmanager
def prometheus(
    folder: Path,
    jobs: Mapping[str, Sequence[int]],
    durations: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Prometheus]:
    """Start Prometheus; it scrapes the ports of each job every second.

    It has all rules, with the given durations. For any other duration an hour is a minute.
    """
    durations = {"30s": "1s", **durations}  # the step of subqueries
    for path in RULES:
        (folder / path.name).write_text(
            yaml.safe_dump(compressed(yaml.safe_load(path.read_text()), durations))
        )
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / path.name) for path in RULES],
        "scrape_configs": scrapes(jobs),
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(command, folder / "prometheus.log", f"http://127.0.0.1:{port}/-/ready"):
        yield Prometheus(port)


@contextmanager
def victoria_metrics(folder: Path, jobs: Mapping[str, Sequence[int]]) -> Iterator[Prometheus]:
    """Start VictoriaMetrics, another server with the same API; it scrapes the same ports."""
    settings = {"global": {"scrape_interval": "1s"}, "scrape_configs": scrapes(jobs)}
    (folder / "scrapes.yaml").write_text(yaml.safe_dump(settings))
    port = free_port()
    command = [
        "victoria-metrics",
        f"-promscrape.config={folder / 'scrapes.yaml'}",
        f"-storageDataPath={folder / 'victoria'}",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-memory.allowedPercent=5",
        # The last 30 s would be left out otherwise.
        "-search.latencyOffset=0s",
        "-search.disableCache",
    ]
    with running(command, folder / "victoria.log", f"http://127.0.0.1:{port}/health"):
        yield Prometheus(port)


def scrapes(jobs: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Return the scrape configurations of both servers."""
    return [
        {
            "job_name": job,
            "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}],
        }
        for job, ports in jobs.items()
    ]


class Exposition:
    """A server of metrics in Prometheus' text format, by path."""

    def __init__(self, port: int, texts: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.texts = texts


@contextmanager
def exposition(texts: Mapping[str, str]) -> Iterator[Exposition]:
    """Serve metrics, which can be changed while the server runs."""
    served = dict(texts)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in served:
                self.send_error(404)
                return
            body = served[self.path].encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http_server(Handler) as port:
        yield Exposition(port, served)


@contextmanager
def running(command: Sequence[str], log: Path, url: str) -> Iterator[None]:
    """Run a server until the end of the `with` block, which starts when the URL responds."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return True
        return False

    try:
        wait_for(is_ready, timeout_s=60)
        yield
    finally:
        process.terminate()
        process.wait(30)
