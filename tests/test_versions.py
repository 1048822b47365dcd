"""Locked versions, and the script that runs the tests with others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "test_versions.py"
OPENAI_ROWS = ("1.26", "1.109", "2", "3")
TRANSFORMERS_ROWS = ("transformers-4.46", "transformers-4", "transformers-5")
WHOLE_PROJECT = ("newest", "oldest")
ROWS = WHOLE_PROJECT + OPENAI_ROWS + TRANSFORMERS_ROWS


def test_an_unknown_row_is_a_usage_error_that_lists_the_rows() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "0.28"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no such row: 0.28; there are " + ", ".join(ROWS) in done.stderr


def test_the_workflows_run_every_row() -> None:
    workflows = SCRIPT.parents[1] / ".github" / "workflows"
    on_push = (workflows / "ci.yml").read_text()
    assert f"openai: {json.dumps(OPENAI_ROWS)}" in on_push
    assert f"transformers: {json.dumps(TRANSFORMERS_ROWS)}" in on_push
    weekly = (workflows / "versions.yml").read_text()
    assert "cron:" in weekly
    assert f"row: {json.dumps(WHOLE_PROJECT)}" in weekly


def test_every_requirement_has_a_locked_version() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT.with_name("lock.py"), "--check"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
