"""Export and import of results, comparisons, SLOs, sweeps and the HTML page."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from llamatelemetry.bench import (
    BenchmarkResults,
    RunRecord,
    SweepResults,
)
from llamatelemetry.bench.analysis.metrics import parse_slo
from llamatelemetry.bench.report.plots import sweep_plots
from llamatelemetry.bench.sweep import SweepPoint
from tests.support.example_results import EVIL, record, results


def test_load_restores_saved_results(tmp_path):
    before = results()
    after = BenchmarkResults.load(before.save(tmp_path / "a.json"))
    one, other = before.to_dict(), after.to_dict()
    # Computed from times that are saved in nanosecond resolution.
    del one["summary"], other["summary"]
    assert other == one
    assert after.summary() == before.summary()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of file sizes")
@pytest.mark.parametrize("name", ["a.json", "a.html"])
def test_full_disk_keeps_the_earlier_file(tmp_path, name):
    import resource

    path = tmp_path / name
    path.write_text("earlier")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            results().save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [(name, "earlier")]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_saved_file_keeps_mode_and_symbolic_link(tmp_path):
    path, link = tmp_path / "a.json", tmp_path / "link.json"
    path.write_text("earlier")
    path.chmod(0o640)
    link.symlink_to(path.name)
    results().save(link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert BenchmarkResults.load(path).requests
    results().save("/dev/null")


def test_file_that_cannot_be_replaced_is_written_in_place(tmp_path):
    """A single file that is mounted into a container, for example."""
    outside, path = tmp_path / "outside.json", tmp_path / "a.json"
    outside.write_text("earlier")
    path.touch()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if not (mount and unmount) or os.geteuid() != 0:
        pytest.skip("needs root and mount")
    if subprocess.run([mount, "--bind", outside, path], check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        results().save(path)
        assert BenchmarkResults.load(outside).requests
    finally:
        subprocess.run([unmount, path], check=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.json", "outside.json"]


def test_json_contains_schema_and_summary(tmp_path):
    data = json.loads(results().to_json())
    assert data["schema"] == "llamatelemetry.bench/1"
    assert data["summary"]["figures"]["ttft"]["p50"]["value"] == pytest.approx(0.5, rel=0.1)
    assert data["summary"]["figures"]["ttft"]["p99"]["supported"] is False
    assert data["requests"][0]["ttft_s"] == results().requests[0].ttft_s


def test_load_ignores_unknown_fields_and_rejects_unknown_schema(tmp_path):
    data = results().to_dict()
    data["requests"][0]["brand_new"] = 1
    path = tmp_path / "a.json"
    path.write_text(json.dumps(data))
    assert len(BenchmarkResults.load(path).requests) == 60
    path.write_text(json.dumps(data | {"schema": "llamatelemetry.bench/2"}))
    with pytest.raises(ValueError, match="bench/2"):
        BenchmarkResults.load(path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "not json"])
def test_load_rejects_other_files(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="must be the JSON of a benchmark"):
        BenchmarkResults.load(path)


def test_load_names_what_the_file_lacks(tmp_path):
    path = results().save(tmp_path / "r.json")
    data = json.loads(path.read_text())
    for part, lacking in (("model", "'model'"), ("requests", "'requests'")):
        path.write_text(json.dumps({name: data[name] for name in data if name != part}))
        with pytest.raises(ValueError, match=f"lacks a part of a benchmark: {lacking}"):
            BenchmarkResults.load(path)
    del data["requests"][0]["due_s"]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"lacks a part of a benchmark: .*due_s"):
        BenchmarkResults.load(path)


def test_csv_has_one_row_per_request():
    rows = list(csv.DictReader(io.StringIO(results(n=3).to_csv())))
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    first = results(n=3).requests[0]
    assert float(rows[0]["tpot_s"]) == pytest.approx(first.tpot_s)
    assert rows[0]["error"] == ""


def test_dataframe_has_one_row_per_request():
    frame = results(n=3).to_dataframe()
    assert list(frame["index"]) == [0, 1, 2]
    assert frame["remainder_s"].iloc[0] == pytest.approx(results(n=3).requests[0].remainder_s)


def test_markdown_table_escapes_markup():
    lines = results(model="a|b<i>*c*").to_markdown().splitlines()
    assert lines[0] == "**a\\|b\\<i>\\*c\\*: concurrency 1**"
    assert lines[2].count("|") == lines[3].count("|") == lines[4].count("|") == 9


@pytest.mark.parametrize("suffix", [".json", ".csv", ".md", ".html"])
def test_save_selects_format_by_suffix(tmp_path, suffix):
    path = results(n=3).save(tmp_path / f"a{suffix}")
    prefixes = {".json": "{", ".csv": "run,", ".md": "**a", ".html": "<!DOCTYPE"}
    assert path.read_text().startswith(prefixes[suffix])


def test_summary_flags_percentiles_of_too_few_requests():
    (ttft,) = [line for line in results(n=10).summary().splitlines() if line.startswith("TTFT")]
    assert [cell.endswith("?") for cell in ttft.split()[-3:]] == [True, True, True]
    (ttft,) = [line for line in results(n=60).summary().splitlines() if line.startswith("TTFT")]
    assert [cell.endswith("?") for cell in ttft.split()[-3:]] == [False, False, True]


def test_summary_contains_failures_slo_attainment_and_warnings():
    failed = [record(i, error="timeout", ttft_s=None) for i in range(60, 70)]
    text = results(requests=[*results().requests, *failed]).summary()
    assert "failures: timeout 10" in text
    assert "Success rate 85.7%" in text
    assert "SLO attainment" in text
    assert "Warning: something was odd" in text


def test_totals_contain_energy_per_token_when_measured():
    run = RunRecord(
        started_unix_s=0, duration_s=30.0, planned=60, gpu_energy_j=9000.0, gpu_idle_w=100.0
    )
    totals = results(runs=[run]).totals
    assert totals.energy_per_token_j == pytest.approx(50.0)
    assert totals.energy_above_idle_per_token_j == pytest.approx(6000 / 180)
    assert results().totals.energy_per_token_j is None


@pytest.mark.parametrize(
    "given",
    ["ttft=500ms,tpot=50ms", {"ttft": 0.5, "tpot": "50ms"}, {"ttft_s": "0.5s", "tpot_s": 0.05}],
)
def test_parse_slo_accepts_texts_and_seconds(given):
    assert parse_slo(given) == pytest.approx({"ttft": 0.5, "tpot": 0.05})


@pytest.mark.parametrize("given", ["ttft", "speed=1s", "ttft=fast", "ttft=-1s", {"ttft": 0}])
def test_parse_slo_rejects_invalid_values(given):
    with pytest.raises(ValueError, match=r"must be"):
        parse_slo(given)


def test_goodput_counts_requests_that_meet_all_slos():
    requests = [
        record(0, ttft_s=0.1),
        record(1, ttft_s=0.9),
        record(2, ttft_s=None),
        record(3, ttft_s=0.1, error="timeout"),
    ]
    totals = results(requests=requests).totals
    assert totals.goodput.value == 0.25
    assert totals.goodput_rate == pytest.approx(1 / 30)


def test_response_of_one_token_meets_tpot_slo():
    one, unknown = record(0, output_tokens=1), record(1, output_tokens=None)
    made = results(requests=[one, unknown], slo={"tpot": 0.01})
    assert made.totals.goodput.value == 0.5


def sweep_of(throughputs):
    def at(rate):
        return results(n=60, runs=[RunRecord(started_unix_s=0, duration_s=180 / rate, planned=60)])

    points = [SweepPoint(level, at(rate)) for level, rate in throughputs.items()]
    return SweepResults("concurrency", points)


@pytest.mark.parametrize(
    ("throughputs", "knee"),
    [
        ({1: 10, 2: 19, 4: 36, 8: 38, 16: 38}, 4),
        ({1: 10, 2: 11, 4: 11}, 1),
        ({1: 10, 2: 20, 4: 40}, None),
    ],
)
def test_knee_is_last_load_with_sufficient_gain(throughputs, knee):
    sweep = sweep_of(throughputs)
    assert sweep.knee == knee
    assert f"Knee: {knee or 'none'}" in sweep.summary()


def test_sweep_does_not_compare_tokens_with_requests():
    sweep = sweep_of({1: 10, 2: 19, 4: 36})
    first, second, last = sweep.points
    unknown = [record(index, output_tokens=None) for index in range(60)]
    failed = [record(index, error="500") for index in range(60)]
    partly = SweepPoint(4, replace(last.results, requests=unknown))
    mixed = SweepResults("concurrency", [first, second, partly])
    assert (sweep.has_tokens, mixed.has_tokens) == (True, False)
    assert mixed.knee is None
    (plot,) = sweep_plots(mixed)
    assert (plot["x"]["title"], plot["series"][0]["x"]) == ("Requests/s", [3.333, 6.333, 12.0])

    broken = SweepPoint(4, replace(last.results, requests=failed))
    ended = SweepResults("concurrency", [first, second, broken])
    assert (ended.has_tokens, ended.knee) == (True, 2)
    (plot,) = sweep_plots(ended)
    assert (plot["x"]["title"], plot["series"][0]["x"]) == ("Output tokens/s", [10.0, 19.0])


def test_sweep_saves_json_markdown_and_html(tmp_path):
    sweep = sweep_of({1: 10, 2: 19})
    data = json.loads(sweep.save(tmp_path / "s.json").read_text())
    assert (data["schema"], data["parameter"]) == ("llamatelemetry.bench.sweep/1", "concurrency")
    assert [point["level"] for point in data["points"]] == [1, 2]
    assert "| Concurrency |" in sweep.save(tmp_path / "s.md").read_text()
    assert "Latency against throughput" in sweep.save(tmp_path / "s.html").read_text()


def test_html_page_escapes_markup():
    requests = [record(0, prompt_text=EVIL, error=EVIL), record(1)]
    page = results(model=EVIL, warnings=[EVIL], requests=requests).to_html()
    assert "<img src=x" not in page
    assert "alert('x')" not in page
    assert "{{ 7*7 }}" in page


def test_html_page_loads_no_external_resources():
    page = results().to_html()
    head = page[: page.index("<script ")]
    assert "default-src 'none'" in head
    assert "http:" not in head
    assert "https:" not in head


def test_exports_omit_prompts_unless_recorded():
    made = results(n=2)
    assert "prompt_text" not in json.loads(made.to_json())["requests"][0]
    assert ">Prompt<" not in made.to_html()
