"""Benchmarks without numpy and SciPy: the same means and percentiles, but no intervals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llamatelemetry.bench import BenchmarkResults, RequestRecord
from llamatelemetry.bench.analysis import statistics
from llamatelemetry.bench.analysis.metrics import METRIC_BY_NAME, summarize_metric

NOTE = (
    "A confidence interval or a comparison needs {}. "
    "Install it: pip install 'llamatelemetry[bench]'"
)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 59, 200, 1001])
@pytest.mark.parametrize("q", statistics.QUANTILES)
def test_percentile_matches_numpy(n: int, q: float) -> None:
    values = np.random.default_rng(n).lognormal(-2, 1, n)
    assert statistics.percentile(list(values), q) == pytest.approx(
        np.quantile(values, q), rel=1e-12
    )


def test_summary_statistics_match_numpy() -> None:
    paces = np.random.default_rng(1).lognormal(-2, 1, (50, 20))
    times = [tuple(float(time) for time in np.cumsum(pace)) for pace in paces]
    records = [
        RequestRecord(
            index=i, prompt=0, due_s=0, lag_s=0, e2e_s=float(each[-1]), token_times_s=each
        )
        for i, each in enumerate(times)
    ]
    for name, values in (
        ("itl", np.concatenate([np.diff(each) for each in times])),
        ("e2e", np.array([each[-1] for each in times])),
    ):
        found = summarize_metric(records, METRIC_BY_NAME[name], 0)
        assert found.mean.value == pytest.approx(values.mean(), rel=1e-12)
        assert found.sd == pytest.approx(values.std(ddof=1), rel=1e-12)
        assert (found.minimum, found.maximum) == pytest.approx((values.min(), values.max()))


def test_proportion_interval_matches_scipy() -> None:
    from scipy import stats

    for successes, trials in ((0, 5), (5, 5), (3, 10), (199, 200)):
        expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
        found = statistics.proportion(successes, trials)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


PROGRAM = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
from llamatelemetry.bench import BenchmarkResults
results = BenchmarkResults.load(sys.argv[2])
print(results.summary())
for name in ("out.json", "out.html", "out.md"):
    results.save(name)
try:
    results.compare(results)
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("missing", ["numpy,scipy", "numpy", "scipy"])
def test_results_without_numpy_or_scipy_lack_only_intervals(missing: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    requests = [
        RequestRecord(
            index=i, prompt=0, due_s=i / 10, lag_s=0.001, e2e_s=float(e2e), ttft_s=float(e2e) / 3
        )
        for i, e2e in enumerate(rng.lognormal(0, 0.5, 60))
    ]
    made = BenchmarkResults("m", {}, {"model": "m"}, {}, requests, [])
    saved = made.save(tmp_path / "results.json")
    results = BenchmarkResults.load(saved)  # saved times have nanosecond resolution
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, missing, saved],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    note = NOTE.format(missing.partition(",")[0])
    *summary, compared = done.stdout.rstrip().splitlines()
    assert compared == note
    assert summary.count(note) == 1
    assert "95% CI" not in done.stdout
    # Apart from the interval, the rows equal those with numpy and SciPy.
    row = next(line.split() for line in summary if line.startswith("E2E"))
    full = next(line.split() for line in results.summary().splitlines() if line.startswith("E2E"))
    assert row == [*full[:5], *full[8:]]
    plain = json.loads((tmp_path / "out.json").read_text())["summary"]
    assert plain["note"] == note
    complete = json.loads(results.to_json())["summary"]
    assert "note" not in complete
    for name, expected in complete["figures"].items():
        found = plain["figures"][name]
        for key, value in expected.items():
            if isinstance(value, dict):
                assert found[key].keys() == {"value", "supported"}
                assert found[key].items() <= value.items()
            else:
                assert found[key] == value
    for name in ("out.html", "out.md"):
        assert "pip install" in (tmp_path / name).read_text()
