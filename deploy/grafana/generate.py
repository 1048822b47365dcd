"""Write the dashboards and rules: `python deploy/grafana/generate.py`.

`--check` only compares, and exits with 1 if a file is out of date. Needs the packages
grafana-foundation-sdk and pyyaml.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from engines import ENGINES_BOARD
from gpus import GPU_BOARD
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from inference import INFERENCE
from operations import HEALTH, SLO
from rules import alerts, recording_rules

DASHBOARDS = (INFERENCE, ENGINES_BOARD, GPU_BOARD, HEALTH, SLO)
DEPLOY = Path(__file__).parents[1]
NOTICE = "# Written by deploy/grafana/generate.py.\n"


def files() -> dict[Path, str]:
    """Return the text of each generated file."""
    groups = {"recording": recording_rules(), "alerts": alerts()}
    found = {
        DEPLOY / "prometheus" / f"{name}.rules.yaml": _yaml({"groups": each})
        for name, each in groups.items()
    }
    found[DEPLOY / "kubernetes" / "prometheus-rule.yaml"] = _yaml(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "llamatelemetry"},
            "spec": {"groups": [group for each in groups.values() for group in each]},
        }
    )
    for board in DASHBOARDS:
        text = json.dumps(board.build(), cls=JSONEncoder, indent=1, sort_keys=True)
        found[DEPLOY / "grafana" / "dashboards" / f"{board.uid}.json"] = f"{text}\n"
    return found


def _yaml(data: dict[str, Any]) -> str:
    return NOTICE + yaml.safe_dump(data, sort_keys=False, width=100)


def main(arguments: list[str]) -> int:
    """Write or compare the files. Return the exit status."""
    outdated = {path: text for path, text in files().items() if _read(path) != text}
    if arguments == ["--check"]:
        for path in outdated:
            print(f"{path.relative_to(DEPLOY.parent)} is out of date")  # noqa: T201
        return 1 if outdated else 0
    for path, text in outdated.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
