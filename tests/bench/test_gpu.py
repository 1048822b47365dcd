"""Energy of a run, by the real NVML calls to a library that stands in for a driver's."""

from __future__ import annotations

import time

import pytest

from llamatelemetry.bench import BenchmarkProfile, BenchmarkRunner
from llamatelemetry.llama import LlamaCppClient
from tests.bench.scripted import Script
from tests.gpu import nvml
from tests.gpu.conftest import driver_with, no_cuda_settings

__all__ = ["driver_with", "no_cuda_settings"]  # fixtures


def run(server):
    runner = BenchmarkRunner(LlamaCppClient(server.url), BenchmarkProfile.QUICK, progress=False)
    return runner.run("scripted", [Script(0, first_s=0.05, gaps_s=[0.0]).text()])


def test_energy_of_a_run_is_that_of_the_gpus_while_it_lasted(driver_with, scripted):
    driver_with(nvml.one_gpu(power=200.0, processes=[{"pid": 1, "memory": 1}]))
    began_s = time.monotonic()
    results = run(scripted)
    took_s = time.monotonic() - began_s
    told = results.runs[0]
    assert told.gpu_idle_w == pytest.approx(200.0)
    assert 200.0 * told.duration_s <= told.gpu_energy_j < 200.0 * took_s
    assert results.totals.energy_per_token_j == pytest.approx(told.gpu_energy_j / 20)
    assert results.fingerprint["gpus"]
    assert "J per output token" in results.summary()


def test_without_a_gpu_nothing_is_told(scripted):
    results = run(scripted)
    assert results.totals.energy_per_token_j is None
    assert "gpus" not in results.fingerprint
