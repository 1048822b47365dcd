"""Ctrl-C during a benchmark: the requests measured until then are kept."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import httpx2
import pytest

from llamatelemetry.bench import BenchmarkProfile, BenchmarkRunner
from llamatelemetry.llama import LlamaCppClient
from tests.support.children import with_signals
from tests.support.selection import slow_except
from tests.support.timed_server import Script, ScriptedServer, scripted_server

PROGRAM = """
import sys
from llamatelemetry.bench import BenchmarkProfile, BenchmarkRunner
from llamatelemetry.llama import LlamaCppClient
import openai

url, kind, prompt = sys.argv[1:]
client = LlamaCppClient(url) if kind != "threads" else openai.OpenAI(base_url=url + "/v1", api_key="x")
profile = BenchmarkProfile.QUICK if kind == "quick" else BenchmarkProfile.STANDARD
runner = BenchmarkRunner(client, profile, concurrency=4)
print("started", flush=True)
results = runner.run("scripted", [prompt])
print(len(results.requests), results.runs[0].planned, results.runs[0].interrupted, flush=True)
print(results.warnings[-1] if results.warnings else "", flush=True)
print(all(record.ok for record in results.requests), flush=True)
"""


REPEATED = """
import sys
from llamatelemetry.bench import BenchmarkProfile, BenchmarkRunner
from llamatelemetry.llama import LlamaCppClient

url, kind, prompt = sys.argv[1:]
runner = BenchmarkRunner(LlamaCppClient(url), BenchmarkProfile.QUICK, concurrency=5)
print("started", flush=True)
if kind == "repeats":
    found = [runner.run("scripted", [prompt], repeats=3)]
elif kind == "sweep":
    points = runner.sweep("scripted", [prompt], concurrencies=[5, 10]).points
    found = [point.results for point in points]
else:
    found = runner.run_interleaved(runner, "scripted", [prompt], repeats=3)
print([len(results.requests) >= 10 for results in found], flush=True)
print(any(results.runs[-1].interrupted for results in found), flush=True)
print(any("Interrupted" in text for results in found for text in results.warnings), flush=True)
"""


def interrupted(
    program: str,
    server: ScriptedServer,
    kind: str,
    script: Script,
    requests: int,
    *,
    ignored: Sequence[signal.Signals] = (),
):
    """Return the output lines and stderr of a program that gets SIGINT after some requests."""
    before = len(server.truths())
    with subprocess.Popen(
        with_signals(
            [sys.executable, "-c", program, server.url, kind, script.text()], ignored=ignored
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "started\n"
            while len(server.truths()) < before + requests:
                assert process.poll() is None
                time.sleep(0.05)
            time.sleep(0.1)  # time for the program to process the last of them
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, err
    return out.splitlines(), err


@pytest.mark.parametrize("kind", slow_except({"async"}, ["async", "threads"]))
def test_interrupted_run_keeps_measured_requests(scripted, kind):
    warm_up, some = 10, 6
    out, err = interrupted(PROGRAM, scripted, kind, Script(0, first_s=0.3), warm_up + some)
    counted, warning, all_good = out
    measured, planned, was_interrupted = counted.split()
    assert 4 <= int(measured) < 50
    assert (planned, was_interrupted) == ("50", "True")
    assert warning == f"Interrupted: {measured} of 50 requests were measured"
    assert all_good == "True"
    assert err == ""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "benchmarks"), [("repeats", 1), ("interleaved", 2), ("sweep", 1)])
def test_interrupted_series_keeps_earlier_runs(scripted, kind, benchmarks):
    """Ctrl-C arrives after the next run has started, before any of its requests ends."""
    warm_up, run = 4, 10
    out, err = interrupted(
        REPEATED, scripted, kind, Script(0, first_s=0.6), benchmarks * (warm_up + run)
    )
    assert out == [str([True] * benchmarks), "True", "True"]
    assert err == ""


@pytest.mark.slow
def test_run_is_kept_when_interrupted_while_reading_counters(tmp_path):
    """The server stops responding to `/metrics`, which is read between the runs."""
    warm_up, run = 4, 10
    with scripted_server(tmp_path, "--metrics-answers", "2") as server:
        out, err = interrupted(PROGRAM, server, "quick", Script(0), warm_up + run)
    assert out == ["10 10 True", "Interrupted: 10 of 10 requests were measured", "True"]
    assert err == ""


def test_benchmark_continues_when_sigint_is_ignored(scripted):
    """SIGINT is ignored under `nohup` and in a background job of a script."""
    warm_up, some = 4, 2
    out, err = interrupted(
        PROGRAM, scripted, "quick", Script(0, first_s=0.3), warm_up + some, ignored=[signal.SIGINT]
    )
    counted, _, all_good = out
    assert (counted, all_good) == ("10 10 False", "True")
    assert err == ""


def runner(server: ScriptedServer) -> BenchmarkRunner:
    return BenchmarkRunner(LlamaCppClient(server.url), BenchmarkProfile.QUICK, progress=False)


def test_requests_are_kept_when_the_server_crashes(tmp_path):
    warm_up, before_the_crash = 4, 5
    with scripted_server(tmp_path, "--crashes-after", str(warm_up + before_the_crash)) as server:
        results = runner(server).run("scripted", Script(0).text(), repeats=2)
    assert [record.ok for record in results.requests] == [True] * before_the_crash + [False] * 15
    assert [run.engine for run in results.runs] == [{}, {}]
    assert "15 of 20 requests failed: latencies exclude them" in results.warnings


def test_sweep_keeps_earlier_loads_when_the_server_crashes(tmp_path):
    warm_up, run = 4, 10
    with scripted_server(tmp_path, "--crashes-after", str(warm_up + run)) as server:
        sweep = runner(server).sweep("scripted", Script(0).text(), concurrencies=[1, 2, 4])
    (point,) = sweep.points
    assert (point.level, len(point.results.requests)) == (1, 10)
    assert point.results.warnings[-1].startswith("The sweep ended before concurrency 2: Conn")
    assert not point.results.runs[-1].interrupted
    assert "Warning: The sweep ended before concurrency 2" in sweep.summary()


def test_sweep_raises_when_its_first_load_fails(tmp_path):
    with scripted_server(tmp_path, "--crashes-after", "4") as server:
        runner(server).run("scripted", Script(0).text())
        with pytest.raises(httpx2.ConnectError):
            runner(server).sweep("scripted", Script(0).text(), concurrencies=[1, 2])
