"""Ctrl-C in the middle: what was measured by then is kept."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.bench.scripted import Script

PROGRAM = """
import sys
from llamatelemetry.bench import BenchmarkProfile, BenchmarkRunner
from llamatelemetry.llama import LlamaCppClient
import openai

url, kind, prompt = sys.argv[1:]
client = LlamaCppClient(url) if kind == "async" else openai.OpenAI(base_url=url + "/v1", api_key="x")
runner = BenchmarkRunner(client, BenchmarkProfile.STANDARD, concurrency=4)
print("begins", flush=True)
results = runner.run("scripted", [prompt])
print(len(results.requests), results.runs[0].planned, results.runs[0].interrupted, flush=True)
print(results.warnings[-1] if results.warnings else "", flush=True)
print(all(record.ok for record in results.requests), flush=True)
"""


@pytest.mark.parametrize("kind", ["async", "threads"])
def test_an_interrupted_benchmark_keeps_what_was_measured(scripted, kind):
    before = len(scripted.truths())
    prompt = Script(0, first_s=0.3).text()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, scripted.url, kind, prompt],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "begins\n"
            while len(scripted.truths()) < before + 10 + 6:  # the warm-up, and some more
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, err
    counted, warning, all_good = out.splitlines()
    measured, planned, interrupted = counted.split()
    assert 4 <= int(measured) < 50
    assert (planned, interrupted) == ("50", "True")
    assert f"interrupted: {measured} of 50 requests were measured" in out
    assert all_good == "True"
    assert warning
    assert err == ""
