"""The plugins' tests, run again with each version of their library that they promise to support."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "test_versions.py"
OPENAI_ROWS = ("1.26", "1.109", "2", "3")
TRANSFORMERS_ROWS = ("transformers-4.46", "transformers-4", "transformers-5")
ROWS = OPENAI_ROWS + TRANSFORMERS_ROWS


@pytest.mark.slow
@pytest.mark.needs("package-index")
@pytest.mark.timeout(900)  # an environment is made on first use, from a package index
@pytest.mark.parametrize("row", ROWS)
def test_a_plugin_passes_its_tests_with(row: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, row], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]


def test_a_row_that_is_not_there_is_refused_with_those_that_are() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "0.28"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no such row: 0.28; there are " + ", ".join(ROWS) in done.stderr


def test_ci_runs_every_row() -> None:
    workflow = (SCRIPT.parents[1] / ".github" / "workflows" / "ci.yml").read_text()
    assert f"openai: {json.dumps(OPENAI_ROWS)}" in workflow
    assert f"transformers: {json.dumps(TRANSFORMERS_ROWS)}" in workflow
