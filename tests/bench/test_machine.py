"""GPU energy of a run, through real NVML calls into a test library."""

from __future__ import annotations

import time

import pytest

from llamatelemetry.bench import BenchmarkProfile, BenchmarkRunner
from llamatelemetry.llama import LlamaCppClient
from tests.support import nvml
from tests.support.nvml import driver_with
from tests.support.timed_server import Script

__all__ = ["driver_with"]  # a fixture


def run(server):
    runner = BenchmarkRunner(LlamaCppClient(server.url), BenchmarkProfile.QUICK, progress=False)
    return runner.run("scripted", [Script(0, first_s=0.05, gaps_s=[0.0]).text()])


def test_run_records_gpu_energy_over_its_duration(driver_with, scripted):
    driver_with(nvml.one_gpu(power=200.0, processes=[{"pid": 1, "memory": 1}]))
    started_s = time.monotonic()
    results = run(scripted)
    elapsed_s = time.monotonic() - started_s
    measured = results.runs[0]
    assert measured.gpu_idle_w == pytest.approx(200.0)
    assert 200.0 * measured.duration_s <= measured.gpu_energy_j < 200.0 * elapsed_s
    assert results.totals.energy_per_token_j == pytest.approx(measured.gpu_energy_j / 20)
    assert results.fingerprint["gpus"]
    assert "J per output token" in results.summary()


def test_run_has_no_energy_without_a_gpu(scripted):
    results = run(scripted)
    assert results.totals.energy_per_token_j is None
    assert "gpus" not in results.fingerprint
