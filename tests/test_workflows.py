"""The workflows of GitHub: what runs in them is fixed, and has no more rights than it needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = [
    path
    for folder in (".github/workflows", "examples")
    for path in sorted((ROOT / folder).rglob("*.yml"))
]
_PINNED = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")


def _jobs(path: Path) -> dict[str, dict[str, Any]]:
    return yaml.safe_load(path.read_text())["jobs"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestWorkflow:
    def test_workflow_pins_every_action_by_commit_and_names_its_version(self, path: Path) -> None:
        used = [line.strip(" -") for line in path.read_text().splitlines() if "uses:" in line]
        assert used
        assert [line for line in used if not _PINNED.fullmatch(line)] == []

    def test_workflow_has_read_access_only(self, path: Path) -> None:
        assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}

    def test_workflow_limits_time_of_every_job(self, path: Path) -> None:
        assert [name for name, job in _jobs(path).items() if "timeout-minutes" not in job] == []

    def test_workflow_keeps_no_credentials_after_checkout(self, path: Path) -> None:
        steps = [step for job in _jobs(path).values() for step in job["steps"]]
        checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)

    def test_workflow_passes_expressions_to_shell_only_as_variables(self, path: Path) -> None:
        steps = [step for job in _jobs(path).values() for step in job["steps"]]
        assert [step["run"] for step in steps if "${{" in step.get("run", "")] == []


def test_only_publishing_jobs_have_id_token() -> None:
    may = {
        name
        for path in WORKFLOWS
        for name, job in _jobs(path).items()
        if "id-token" in job.get("permissions", {})
    }
    assert may == {"core", "plugins", "distro", "publish-site"}


def test_release_publishes_every_distribution_once() -> None:
    jobs = _jobs(ROOT / ".github/workflows/release.yml")
    moved = " ".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    assert re.findall(r"all/(\S+)", moved) == [
        "llamatelemetry_core-*",
        "llamatelemetry_instrumentation_*",
        "llamatelemetry-[0-9]*",
    ]
