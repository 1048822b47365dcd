"""A real Prometheus server with the rules of `deploy/prometheus`, and the generated queries."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


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
def prometheus(folder: Path, jobs: Mapping[str, Sequence[int]]) -> Iterator[Prometheus]:
    """Start Prometheus with all rules; it scrapes the ports of each job every second."""
    scrapes = [
        {
            "job_name": job,
            "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}],
        }
        for job, ports in jobs.items()
    ]
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in RULES],
        "scrape_configs": scrapes,
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    port = free_port()
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    server = Prometheus(port)

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        with suppress(OSError), urllib.request.urlopen(f"{server.url}/-/ready", timeout=5):
            return True
        return False

    try:
        wait_for(is_ready, timeout_s=60)
        yield server
    finally:
        process.terminate()
        process.wait(30)
