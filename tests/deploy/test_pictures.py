"""Pictures of the dashboards from real query results.

With DASHBOARD_PICTURES=docs/images the pictures of the documentation are written again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.conftest import Traffic
from tests.deploy.prometheus import DASHBOARDS, RATE_INTERVAL, ROOT


@pytest.mark.slow
def test_every_dashboard_is_rendered_from_real_data(traffic: Traffic, tmp_path: Path):
    pytest.importorskip("matplotlib")
    folder = Path(os.environ.get("DASHBOARD_PICTURES") or tmp_path)
    options = {
        "url": traffic.prometheus.url,
        "start": traffic.start_s,
        "end": traffic.end_s,
        "rate-interval": RATE_INTERVAL,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "scripts/render_dashboards.py", str(folder), *arguments]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    assert {path.stem for path in folder.glob("llamatelemetry-*.png")} == {
        p.stem for p in DASHBOARDS
    }
