"""The HTML report in a real browser: it draws, it asks nobody for anything, it says no error."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from llamatelemetry.bench import RunRecord, SweepResults
from llamatelemetry.bench.sweep import SweepPoint
from tests.bench.test_results import EVIL, record, results

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium"),
]


def pages():
    requests = [record(i, prompt_text=EVIL) for i in range(60)]
    failed = [replace(record(60), error=EVIL, ttft_s=None)]
    run = RunRecord(started_unix_s=1.8e9, duration_s=30.0, planned=61)
    plain = results(requests=[*requests, *failed], model=EVIL, warnings=[EVIL], runs=[run])
    client_only = [replace(each, queue_s=None, prefill_s=None, decode_s=None) for each in requests]
    points = [SweepPoint(level, results(seed=level)) for level in (1, 2, 4)]
    return {
        "results": plain.to_html(),
        "client only": results(requests=client_only).to_html(),
        "sweep": SweepResults("concurrency", points).to_html(),
    }


@pytest.mark.parametrize("name", ["results", "client only", "sweep"])
def test_the_page_draws_in_a_browser(tmp_path, name):
    page = tmp_path / "page.html"
    page.write_text(pages()[name], encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            # Whatever it wanted from a network would be an error in its console.
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--virtual-time-budget=5000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    body = done.stdout[: done.stdout.index("<script>")]
    plots = len(re.findall(r'id="plot-\d+"', body))
    assert plots == (1 if name == "sweep" else 4)
    assert len(re.findall(r'class="main-svg"[^>]*>', body)) >= plots
    assert "<img" not in body
    assert "alert('x')&lt;/script&gt;" in body or name != "results"
