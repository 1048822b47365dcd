"""The commands `doctor`, `bench` and `run` with a real vLLM, and the demo that starts one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from llamatelemetry.bench import BenchmarkProfile, BenchmarkRunner
from llamatelemetry.cli.doctor.inference_server import server_checks
from tests.support.any_engine import run_any_engine, table_rows
from tests.support.llama_server import LlamaServer
from tests.support.vllm_server import HOME, MODEL, VllmServer

pytestmark = [pytest.mark.needs("vllm"), pytest.mark.slow, pytest.mark.timeout(600)]

UNKNOWN = "–"  # noqa: RUF001 - the sign that the tables use


def test_doctor_names_vllm_its_flags_and_its_metrics(server: VllmServer) -> None:
    health, engine, chat, responses, metrics = server_checks(server.url, 10)
    assert health.status == engine.status == metrics.status == "ok"
    assert re.fullmatch(r"vLLM \d+\.\d+\.\d+, proved by owned_by in /v1/models", engine.detail)
    for report in (chat, responses):
        assert "--enable-per-request-metrics" in report.detail
    assert metrics.detail == "/metrics is reachable"


def test_benchmark_has_the_figures_of_vllm(server: VllmServer) -> None:
    client = openai.AsyncOpenAI(base_url=server.url, api_key="none")
    runner = BenchmarkRunner(
        client, BenchmarkProfile.QUICK, concurrency=2, max_tokens=8, progress=False
    )
    results = runner.run(MODEL, ["hello there"])
    good = [record for record in results.requests if record.ok]
    assert good  # A model with random weights may generate only bytes that are not text.
    for record in good:
        assert record.queue_source == "engine"
        assert None not in (record.queue_s, record.prefill_s, record.decode_s)
        assert record.engine_tpot_s == pytest.approx((record.decode_s or 0) / 7)
        # The engine is slower to reply than its phases take, but not faster.
        assert (record.remainder_s or 0) > 0
    for name in ("queue", "prefill", "decode", "engine_tpot"):
        assert results.figures[name].count == len(good)
    assert results.fingerprint["server"] == "vllm"


def test_one_program_has_every_phase_with_llama_cpp_and_vllm(
    llama_server: LlamaServer, server: VllmServer
) -> None:
    done = run_any_engine(llama_server.url, server.url)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table_rows(done.stderr)
    assert rows.keys() == {
        (operation, model)
        for operation in ("chat", "text_completion")
        for model in (llama_server.model, MODEL)
    }
    assert not any(UNKNOWN in row for row in rows.values())


@pytest.mark.needs("ps")
def test_demo_starts_vllm_shows_every_phase_and_ends_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llamatelemetry.cli", "demo", "--engine", "vllm"]
    vllm = HOME / "bin" / "vllm"
    done = subprocess.run(
        [*command, "--vllm", vllm, "--output", tmp_path / "new"],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "COLUMNS": "150"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "This tiny model has random weights: its text is noise." in done.stdout
    assert "All 10 calls were recorded." in done.stdout
    calls = [line.split() for line in done.stdout.splitlines() if re.match(r" ?\d+ ", line)]
    *generations, embeddings, refused = calls
    assert [row[1] for row in generations] == [*["chat"] * 7, "text_completion"]
    assert not any(UNKNOWN in row for row in generations)
    assert (embeddings[-1], refused[-1]) == ("404", "400")
    port = re.search(r" at http://127\.0\.0\.1:(\d+)/v1", done.stdout)
    assert port is not None
    processes = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True)
    assert f"--port {port[1]}" not in processes.stdout
