"""The generated dashboards: up to date, valid for Grafana, and complete."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.prometheus import DASHBOARDS, ROOT, panels

pytest.importorskip("grafana_foundation_sdk")

by_file = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def test_generated_files_are_up_to_date():
    command = [sys.executable, "deploy/grafana/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@by_file
def test_dashboard_has_only_fields_of_grafana_schema(path: Path):
    """Grafana's SDK is generated from the schema; it drops what the schema does not have."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    text = path.read_text()
    read = Dashboard.from_json(json.loads(text))
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == json.loads(text)


@by_file
def test_every_panel_has_unit_description_and_legend(path: Path):
    for panel in panels(path):
        assert len(panel["description"].split()) >= 5, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"


@by_file
def test_queries_use_only_variables_of_the_dashboard(path: Path):
    board = json.loads(path.read_text())
    names = {each["name"] for each in board["templating"]["list"]}
    for panel in panels(path):
        for target in panel["targets"]:
            used = {word for word in variables(target["expr"]) if not word.startswith("__")}
            assert used <= names, panel["title"]


@by_file
def test_dashboards_link_to_each_other(path: Path):
    links: list[dict[str, Any]] = json.loads(path.read_text())["links"]
    assert any(
        link["type"] == "dashboards" and link["tags"] == ["llamatelemetry"] for link in links
    )


# Grafana inserts the value `.*` of All as it is, in every format.
@pytest.mark.parametrize(
    ("value", "matched"),
    [(".*", ["shop", "batch"]), ("shop", ["shop"]), ("shop|batch", ["shop", "batch"])],
    ids=["all services", "one service", "two services"],
)
@by_file
def test_link_to_traces_selects_the_services_of_the_dashboard(
    path: Path, value: str, matched: list[str]
):
    board = json.loads(path.read_text())
    links = [link for link in board["links"] if link["title"] == "Traces"]
    has_services = any(each["name"] == "service" for each in board["templating"]["list"])
    assert len(links) == has_services
    for link in links:
        url = link["url"].replace("${service:pipe}", value)
        query = json.loads(url.partition("left=")[2])["queries"][0]["query"]
        found = re.fullmatch(r'{resource\.service\.name(=~?)"(.*)"}', query)
        assert found, query
        operator, operand = found.groups()
        pattern = operand if operator == "=~" else re.escape(operand)
        assert [name for name in ("shop", "batch") if re.fullmatch(pattern, name)] == matched


def variables(expr: str) -> set[str]:
    return set(re.findall(r"\$(\w+)", expr))
