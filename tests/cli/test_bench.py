"""`llamatelemetry bench`: output, files and exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from typer.testing import CliRunner

from llamatelemetry.bench import BenchmarkResults
from llamatelemetry.cli._app import app
from tests.support.http_server import http_server
from tests.support.loopback_server import ScriptedResponse, loopback
from tests.support.timed_server import Script, scripted_server
from tests.support.v1_proxy import v1_proxy


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


def test_bench_keeps_the_loads_before_a_crash_of_the_server_and_exits_with_1(tmp_path, prompts):
    out, warm_up, run = tmp_path / "sweep.json", 4, 10
    with scripted_server(tmp_path, "--crashes-after", str(warm_up + run)) as server:
        wanted = ["--sweep", "concurrency=1,2,4", "--profile", "quick", "-o", out]
        done = bench("--url", server.url, "--prompts", prompts(), *wanted)
    assert (done.returncode, done.stderr) == (1, "")
    assert "Warning: The sweep ended before concurrency 2: ConnectError" in done.stdout
    assert [point["level"] for point in json.loads(out.read_text())["points"]] == [1]


def test_bench_uses_openai_client_for_other_servers(tmp_path, prompts):
    with scripted_server(tmp_path, "--owner", "somebody") as other:
        options = ["--url", other.url, "--profile", "quick", "--rate", "50", "--concurrency", "4"]
        done = bench(*options, "--prompts", prompts(timings=False))
        assert (done.returncode, done.stderr) == (0, "")
        assert "50 requests/s (poisson), max concurrency 4" in done.stdout


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


@contextmanager
def forward_proxy(status: int):
    """Start a proxy that responds to every request with a status, and yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_CONNECT = do_GET  # noqa: N815 - the name of the method

        def log_message(self, *args: object) -> None:
            pass

    with http_server(Handler) as port:
        yield f"http://user:password@127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("url", "status", "reason"),
    [
        ("http://llm.internal:8000", 502, "cannot list its models: HTTP 502"),
        ("https://llm.internal", 403, "Cannot connect to https://llm.internal: 403"),
    ],
)
def test_bench_names_proxy_that_refuses_the_request(url, status, reason):
    variable = f"{url.split(':')[0].upper()}_PROXY"
    with forward_proxy(status) as proxy:
        done = bench("--url", url, **{variable: proxy, "NO_PROXY": "", "no_proxy": ""})
    assert done.returncode == 1
    assert reason in done.stderr
    assert f"the proxy 127.0.0.1:{proxy.rpartition(':')[2]} of {variable}" in done.stderr
    assert "Set NO_PROXY=llm.internal" in done.stderr
    assert "password" not in done.stderr


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (ScriptedResponse(401, {"error": {"message": "no", "type": "auth"}}), "OPENAI_API_KEY"),
        (ScriptedResponse(503, {"error": {"message": "Loading model"}}), "still loading its model"),
        (ScriptedResponse(500, {}), "cannot list its models: HTTP 500"),
        (ScriptedResponse(404, {}), "does not list its models. Name one with --model"),
    ],
)
def test_bench_explains_response_of_server_without_list_of_models(response, message):
    with loopback(lambda _: response) as server:
        done = bench("--url", server.url)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_bench_measures_llama_cpp_server_behind_proxy_that_exposes_only_v1(llama_server):
    with v1_proxy(llama_server.origin) as url:
        done = bench("--url", url, "--profile", "quick", "--max-tokens", 2, "--input-tokens", 48)
    assert done.returncode == 0, done.stderr
    assert "Prompts of 48 tokens, estimated from the usage of two requests" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "localhost:9090"], "Did you mean http://localhost:9090?"),
        (["--url", "ftp://host"], "must start with http:// or https://, got ftp://host"),
        (["--slo", "ttft=5"], "--slo: ttft must have a unit, got '5'. Use 5s or 5ms"),
        (["--slo", "ttft=fast"], "--slo: ttft must be a time such as 500ms or 1.5s, got 'fast'"),
        (["--rate", "fast"], "--rate must be requests per second"),
        (["--min-effect", "nan"], "--min-effect: min_effect must be a fraction such as 0.05"),
        (["--min-effect", "inf"], "--min-effect: min_effect must be a fraction such as 0.05"),
        (["--min-effect", "-1"], "--min-effect: min_effect must be a fraction such as 0.05"),
    ],
)
def test_bench_explains_invalid_option_before_it_connects(arguments, message):
    done = CliRunner().invoke(app, ["bench", "--url", "http://127.0.0.1:9", *arguments])
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.slow
def test_bench_exits_with_1_when_all_measured_requests_fail_beside_a_baseline(
    server, prompts, tmp_path
):
    old = tmp_path / "old.json"
    options = ["--url", server.url, "--profile", "quick", "--prompts", prompts(), "-o", old]
    assert bench(*options).returncode == 0
    data = json.loads(old.read_text())
    for record in data["requests"]:
        record["error"] = "empty_response"
    old.write_text(json.dumps(data))
    done = bench(*options, "--compare", old)
    assert done.returncode == 2
    assert "both benchmarks must have values" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate", "fast"],
        ["--rate", "1:0"],
        ["--slo", "speed=1s"],
        ["--sweep", "level=1"],
        ["--sweep", "concurrency=1,1.5"],
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
