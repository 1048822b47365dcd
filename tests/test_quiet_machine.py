"""Tests marked `clock` are skipped under load of other processes, and fail otherwise."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.orphans import start_orphan
from tests.support.quiet_machine import cores_used_by_others, read_cpu_time

ROOT = Path(__file__).parents[1]
needs_proc = pytest.mark.skipif(read_cpu_time() is None, reason="needs /proc/stat")


@needs_proc
def test_cpu_time_of_unrelated_process_counts_as_load():
    before = read_cpu_time()
    start_orphan(1)
    time.sleep(0.8)  # the load of the other process
    assert cores_used_by_others(before, read_cpu_time()) > 0.2


@needs_proc
def test_cpu_time_of_child_does_not_count_as_load():
    before = read_cpu_time()
    subprocess.run([sys.executable, "-c", "sum(range(30_000_000))"], check=True)
    after = read_cpu_time()
    assert after.ours - before.ours > 0.1


def test_load_is_zero_when_counters_are_unreadable():
    assert cores_used_by_others(None, read_cpu_time()) == 0


@needs_proc
@pytest.mark.clock
@pytest.mark.parametrize(
    ("load", "outcome"), [("start_orphan(2)", "1 skipped"), ("", "1 failed")], ids=["busy", "quiet"]
)
def test_clock_test_is_skipped_only_under_load(tmp_path, load, outcome):
    source = "import time\nimport pytest\nfrom tests.support.orphans import start_orphan\n\n"
    source += (
        f"@pytest.mark.clock\ndef test_times():\n    {load}\n    time.sleep(1)\n    assert False\n"
    )
    (tmp_path / "test_times.py").write_text(source, encoding="utf-8")
    (tmp_path / "none.ini").write_text("[pytest]\nmarkers = clock\n", encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.support.quiet_machine",
            "-c",
            "none.ini",
            "-rs",
            tmp_path,
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert outcome in done.stdout, done.stdout
    assert ("compares clocks, and failed while others used" in done.stdout) is bool(load)
