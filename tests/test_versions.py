"""The locked versions, and the script that runs the tests with other versions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "test_versions.py"
OPENAI_ROWS = ("1.26", "1.109", "2", "3")
TRANSFORMERS_ROWS = ("transformers-4.46", "transformers-4", "transformers-5")
WEEKLY = ("newest", "oldest", "prerelease")
ROWS = WEEKLY + OPENAI_ROWS + TRANSFORMERS_ROWS


def test_script_lists_rows_when_row_is_unknown() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "0.28"], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"ROW must be one of {', '.join(ROWS)}, got 0.28" in done.stderr


def test_workflows_run_every_row() -> None:
    workflows = SCRIPT.parents[1] / ".github" / "workflows"
    on_push = (workflows / "ci.yml").read_text()
    assert f"openai: {json.dumps(OPENAI_ROWS)}" in on_push
    assert f"transformers: {json.dumps(TRANSFORMERS_ROWS)}" in on_push
    weekly = (workflows / "versions.yml").read_text()
    assert "cron:" in weekly
    assert f"row: {json.dumps(WEEKLY)}" in weekly


def test_every_requirement_has_locked_version() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT.with_name("lock.py"), "--check"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
