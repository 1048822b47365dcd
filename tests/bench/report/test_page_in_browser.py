"""The HTML report in a real browser: it draws its plots, without requests or errors."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from llamatelemetry.bench import RunRecord, SweepResults
from llamatelemetry.bench.report.tables import comparison_table
from llamatelemetry.bench.sweep import SweepPoint
from tests.support import browser
from tests.support.example_results import EVIL, record, results

pytestmark = browser.MARKS


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
def test_report_page_draws_plots_in_browser(tmp_path, name):
    document = browser.rendered_document(tmp_path, pages()[name], budget_ms=5000)
    body = document[: document.index("<script ")]
    plots = re.findall(r'id="plot-\d+".*?</svg></div>', body, re.DOTALL)
    drawn = [len(re.findall(r'class="series" d="M', plot)) for plot in plots]
    # Curves of TTFT, TPOT, E2E; marks of TTFT, E2E, failed; bars per phase; chunk rate.
    assert drawn == {"results": [3, 3, 5, 1], "client only": [3, 2, 2, 1], "sweep": [3]}[name]
    assert "<img" not in body
    assert "alert('x')&lt;/script&gt;" in body or name != "results"


def test_page_shows_comparison_and_server(tmp_path):
    environment = {"server.url": "http://127.0.0.1:8080"}
    baseline = results()
    candidate = results(environment=environment)
    comparison = candidate.compare(baseline)
    page = candidate.to_html(tmp_path / "bench.html", comparison=comparison)
    assert (tmp_path / "bench.html").read_text(encoding="utf-8") == page
    assert "http://127.0.0.1:8080" in page
    said = browser.run_in_page(
        tmp_path,
        page,
        """
        const width = document.documentElement.clientWidth;
        said.headings = [...document.querySelectorAll("h2")].map((each) => each.textContent);
        said.verdicts = [...document.querySelectorAll("td[data-label=Verdict]")].length;
        said.wide = [...document.querySelectorAll("main *")].filter((each) =>
          !each.closest("svg") && each.getBoundingClientRect().right > width + 1).length;
        """,
        frame_width=400,
    )
    assert said["headings"][:2] == [comparison_table(comparison).title, "Results"]
    assert said["verdicts"] == len(comparison.metrics)
    assert said["wide"] == 0
