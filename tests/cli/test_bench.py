"""`llamatelemetry bench`: output, files and exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from llamatelemetry.bench import BenchmarkResults
from llamatelemetry.cli._app import app
from tests.support.timed_server import Script, scripted_server


def bench(*arguments, **environ):
    return subprocess.run(
        [sys.executable, "-m", "llamatelemetry.cli", "bench", *map(str, arguments)],
        env=os.environ | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with scripted_server(tmp_path_factory.mktemp("scripted")) as server:
        yield server


@pytest.fixture
def prompts(tmp_path):
    def write(**script):
        path = tmp_path / "prompts.jsonl"
        path.write_text(json.dumps({"prompt": Script(**script).text()}))
        return path

    return write


@pytest.mark.slow
@pytest.mark.clock
def test_bench_exits_with_1_when_slower_than_the_baseline(server, prompts, tmp_path):
    old, new, page = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "new.html"
    options = ["--url", server.url, "--profile", "quick"]
    fast, slow = {"first_s": 0.02, "gaps_s": [0.05] * 3}, {"first_s": 0.2, "gaps_s": [0.05] * 3}

    done = bench(*options, "--prompts", prompts(**fast), "-o", old)
    assert (done.returncode, done.stderr) == (0, "")
    assert "scripted: concurrency 1" in done.stdout
    assert "10 requests in" in done.stdout

    wanted = ["--compare", old, "-o", new, "--html", page, "--slo", "ttft=100ms"]
    done = bench(*options, "--prompts", prompts(**slow), *wanted, "--allow", "prompt_lengths")
    assert done.returncode == 1, done.stderr
    assert "The candidate is slower in ttft, e2e." in done.stdout
    assert "SLO attainment 0.0%" in done.stdout
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert len(BenchmarkResults.load(new).requests) == 10

    done = bench(*options, "--prompts", prompts(**fast), "--compare", new, "--max-tokens", 9)
    assert done.returncode == 2
    assert "max_tokens: 128 and 9" in done.stderr


@pytest.mark.slow
@pytest.mark.clock
def test_bench_compares_two_servers_in_interleaved_runs(server, prompts, tmp_path):
    (tmp_path / "other").mkdir()
    out, script = tmp_path / "new.json", prompts(first_s=0.03)
    with scripted_server(tmp_path / "other", "--pace", "2") as slower:
        options = ["--profile", "quick", "--prompts", script, "--repeats", "4", "-o", out]
        done = bench("--url", slower.url, "--against", server.url, *options)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"against {server.url}:" in done.stdout
    assert "slower in ttft, e2e." in done.stdout
    assert "each run was compared with the run next to it" in done.stdout
    kept = [BenchmarkResults.load(path) for path in (out, tmp_path / "new-against.json")]
    assert [len(results.runs) for results in kept] == [4, 4]
    assert kept[0].compare(kept[1]).exit_code == 1


@pytest.mark.slow
@pytest.mark.clock
def test_bench_runs_a_sweep_and_saves_it(server, prompts, tmp_path):
    out = tmp_path / "sweep.json"
    wanted = ["--sweep", "concurrency=1,2,4", "--profile", "quick", "-o", out]
    done = bench("--url", server.url, "--prompts", prompts(first_s=0.05), *wanted)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Knee: none up to the highest load" in done.stdout
    assert [point["level"] for point in json.loads(out.read_text())["points"]] == [1, 2, 4]


def test_bench_uses_openai_client_for_other_servers(tmp_path, prompts):
    with scripted_server(tmp_path, "--owner", "somebody") as other:
        options = ["--url", other.url, "--profile", "quick", "--rate", "50", "--concurrency", "4"]
        done = bench(*options, "--prompts", prompts(timings=False))
        assert (done.returncode, done.stderr) == (0, "")
        assert "50 requests/s (poisson), max concurrency 4" in done.stdout
        assert (
            bench("--url", other.url).returncode == 2
        )  # no prompts, and no server that counts tokens


def test_bench_exits_with_1_when_all_requests_fail(server, prompts):
    options = ["--url", server.url, "--profile", "quick"]
    done = bench(*options, "--prompts", prompts(status=500))
    assert done.returncode == 1
    assert "all 4 warm-up requests failed: server_error" in done.stderr


def test_bench_exits_with_1_when_server_is_unreachable():
    done = bench("--url", "http://127.0.0.1:9", "--profile", "quick")
    assert done.returncode == 1
    assert "Cannot connect to http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate", "fast"],
        ["--rate", "1:0"],
        ["--slo", "speed=1s"],
        ["--sweep", "level=1"],
        ["--concurrency", "0"],
        ["--profile", "huge"],
        ["--compare", "nowhere.json"],
        ["--against", "nowhere"],
        ["--against", "http://127.0.0.1:9", "--sweep", "rate=1"],
        ["-o", "out.txt"],
        ["-o", "nowhere/out.json"],
        ["--url", "127.0.0.1"],
    ],
    ids=" ".join,
)
def test_bench_exits_with_2_for_invalid_options(server, prompts, arguments):
    given = ["bench", "--url", server.url, "--prompts", str(prompts()), *arguments]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2, done.output
    assert done.stderr.strip()


@pytest.mark.slow
def test_bench_exports_telemetry_as_the_environment_configures(server, prompts, tmp_path):
    options = ["--url", server.url, "--profile", "quick", "--prompts", prompts()]
    done = bench(
        *options, LLAMATELEMETRY_EXPORTER="file", LLAMATELEMETRY_EXPORT_PATH=str(tmp_path / "data")
    )
    assert (done.returncode, done.stderr) == (0, "")
    (traces,) = (tmp_path / "data").glob("traces-*.jsonl")
    assert traces.read_text().count('"benchmark scripted"') == 1
    assert traces.read_text().count('"chat scripted"') == 10
