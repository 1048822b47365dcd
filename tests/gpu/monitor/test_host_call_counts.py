"""Call counts shared by the processes of one host."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from llamatelemetry.gpu.monitor.host_call_counts import HostCallCounts
from tests.gpu.calls import LLAMA_SERVER, LONG_ENOUGH_S, call, pids_of, with_server
from tests.gpu.conftest import Tracing
from tests.gpu.meter import HERE, Meter
from tests.support import nvml


@pytest.fixture
def process(tmp_path):
    """Return a function that creates the counts of another process."""
    made = []

    def make(folder=lambda: tmp_path):
        made.append(HostCallCounts(folder))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_exchange_returns_sum_of_other_processes(process):
    one, two, three = process(), process(), process()
    one.exchange(10.0, {0: 2, 5: 1})
    two.exchange(10.0, {0: 1})
    assert three.exchange(10.1, {0: 7}) == {0: 3, 5: 1}
    assert one.exchange(10.1, {0: 2}) == {0: 8}


def test_exchange_ignores_stale_records(process):
    one, two = process(), process()
    one.exchange(10.0, {0: 2})
    assert two.exchange(11.0, {}) == {0: 2}
    assert two.exchange(13.0, {}) == {}


def test_record_from_before_a_reboot_is_reused(process):
    process().exchange(5000.0, {0: 2})
    assert process().exchange(3.0, {}) == {}


def test_only_this_user_can_read_the_file(process, tmp_path):
    process().exchange(10.0, {0: 2})
    assert (tmp_path / "gpu-calls").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("age_s", "expected"), [(0.0, {0: 2}), (1.9, {0: 2}), (2.0, {}), (-0.1, {})]
)
def test_record_counts_for_two_seconds(process, age_s, expected):
    process().exchange(10.0, {0: 2})
    assert process().exchange(10.0 + age_s, {}) == expected


def test_close_removes_record_at_once(process):
    one, two = process(), process()
    one.exchange(10.0, {0: 2})
    one.close()
    assert two.exchange(10.1, {}) == {}


def test_exchange_only_reads_when_all_records_are_used(process):
    for _ in range(256):
        early = process()
        early.exchange(10.0, {0: 1})
        early.after_fork()  # keeps the record and closes the file: 256 open files may exceed the limit
    late = process()
    assert late.exchange(10.0, {0: 1}) == {0: 256}
    assert process().exchange(10.0, {}) == {0: 256}


def test_exchange_returns_nothing_without_a_directory(process, tmp_path):
    assert process(lambda: None).exchange(10.0, {0: 1}) == {}
    assert process(lambda: tmp_path / "not there").exchange(10.0, {0: 1}) == {}


def test_exchange_ignores_invalid_file(process, tmp_path):
    (tmp_path / "gpu-calls").write_bytes(os.urandom(1000))
    one, two = process(), process()
    one.exchange(10.0, {0: 2})
    assert two.exchange(10.0, {}).keys() <= set(range(32))


def test_forked_child_writes_its_own_record(process):
    one, two = process(), process()
    one.exchange(10.0, {0: 2})
    pid = os.fork()
    if pid == 0:
        one.after_fork()
        one.exchange(10.0, {0: 5})
        os._exit(0)
    os.waitpid(pid, 0)
    assert two.exchange(10.0, {}) == {0: 7}


def test_calls_of_other_processes_reduce_the_share():
    meter = Meter(lambda _: 300.0)
    call_here = meter.begin()
    for _ in range(20):
        meter.energy_j += 30
        meter.now_s = round(meter.now_s + 0.1, 6)
        readings = dict.fromkeys(HERE, (meter.now_s, meter.energy_j))
        meter.ledger.settle(readings, (), dict.fromkeys(HERE, 2))
    energy = meter.end(call_here)
    assert energy.joules == pytest.approx(200)
    assert energy.attribution == "shared"


OTHER = """
import sys, time
from pathlib import Path
from llamatelemetry.gpu.monitor.monitor import GpuMonitor
from llamatelemetry.gpu.nvml.reader import NvmlReader
monitor = GpuMonitor(
    NvmlReader(), interval_s=0.02, pids_of=lambda _: {4711},
    shared_folder=lambda: Path(sys.argv[1]),
)
class Key: pass
key = Key()
monitor.ledger.start(key, "http://127.0.0.1:8080", time.monotonic())
monitor.start()
print("started", flush=True)
time.sleep(60)
"""


@pytest.mark.clock
def test_call_overlapping_with_another_process_gets_half_of_the_energy(
    driver_with, start_monitor, tmp_path
):
    driver = driver_with(with_server())
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)],
        env=os.environ | driver.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        other.stdout.readline()
        time.sleep(0.5)
        tracing = Tracing(start_monitor(pids_of=pids_of, shared_folder=lambda: tmp_path))
        found = call(tracing, LLAMA_SERVER)
    finally:
        other.kill()
        other.communicate()
    assert found["energy"] == pytest.approx(300.5 * LONG_ENOUGH_S / 2, rel=0.15)
    assert found["energy_attribution"] == "shared"
    assert nvml.uuid(0) in found["ids"]
