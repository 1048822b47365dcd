"""The monitor thread: its readings, their intervals, and its failures."""

from __future__ import annotations

import logging
import os
import threading
import time

import pytest

from llamatelemetry.genai import internal_errors
from llamatelemetry.gpu.monitor import background
from llamatelemetry.gpu.monitor.monitor import GpuMonitor, Snapshot
from llamatelemetry.gpu.nvml.reader import NvmlReader
from llamatelemetry.gpu.reader import GpuState
from tests.support import nvml
from tests.support.waiting import wait_for


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "llamatelemetry-gpu" in thread.name]


def test_snapshot_does_not_change(driver_with, start_monitor):
    driver = driver_with(nvml.one_gpu())
    monitor = start_monitor()
    before = monitor.snapshot
    driver.change(power=444)
    wait_for(lambda: monitor.snapshot.states[nvml.uuid(0)].power_w == 444)
    assert before.states[nvml.uuid(0)].power_w == 300.5


def test_leader_reads_all_devices_and_others_only_visible_ones(
    driver_with, start_monitor, monkeypatch
):
    driver_with(nvml.eight_with_nvswitch())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,1")

    worker = start_monitor()
    reporter = start_monitor(reports_host=lambda: True)

    assert list(worker.snapshot.states) == [nvml.uuid(5), nvml.uuid(1)]
    assert worker.snapshot.details == {}
    assert len(reporter.snapshot.states) == len(reporter.snapshot.details) == 8
    assert [device.index for device in reporter.history.devices] == [5, 1]


def test_slow_queries_run_less_often(driver_with, start_monitor):
    driver = driver_with(nvml.one_gpu())
    monitor = start_monitor(reports_host=lambda: True)
    wait_for(lambda: len(monitor.history) > 10)
    calls = driver.count()
    assert calls["nvmlDeviceGetTotalEnergyConsumption"] > 10
    assert calls["nvmlDeviceGetClockInfo"] == 2  # two domains, once
    assert calls["nvmlDeviceGetComputeRunningProcesses_v3"] == 1
    assert calls["nvmlInitWithFlags"] == 1


def test_only_the_monitor_thread_calls_the_driver(driver_with, start_monitor):
    driver = driver_with(nvml.one_gpu())
    monitor = start_monitor()
    (caller,) = {call.thread for call in driver.calls()}
    assert caller != threading.get_native_id()
    monitor.stop(10)
    assert {call.thread for call in driver.calls()} == {caller}


def test_stop_ends_thread_and_session_for_good(driver_with, start_monitor):
    driver = driver_with(nvml.one_gpu())
    monitor = start_monitor()
    assert len(threads()) == 1
    assert monitor.stop(10)
    assert threads() == []
    assert driver.calls()[-1].function == "nvmlShutdown"
    monitor.ensure_running()  # a span that ends late calls this
    assert threads() == []


def test_lost_gpu_is_excluded_until_it_responds_again(driver_with, start_monitor, caplog):
    driver = driver_with(nvml.eight_with_nvswitch())
    monitor = start_monitor(reports_host=lambda: True, reopen_every_s=0.1)
    driver.lose(2)
    wait_for(lambda: monitor.snapshot.lost == {nvml.uuid(2)})
    assert monitor.snapshot.states[nvml.uuid(2)] == GpuState()
    assert monitor.snapshot.states[nvml.uuid(3)].power_w == 300.5
    # A new NVML session no longer lists the GPU. It is still reported as lost.
    wait_for(lambda: driver.count()["nvmlInitWithFlags"] > 2)
    assert monitor.snapshot.lost == {nvml.uuid(2)}
    assert len(monitor.history.devices) == 8
    driver.change(2, errors={})
    wait_for(lambda: not monitor.snapshot.lost)
    assert monitor.snapshot.states[nvml.uuid(2)].power_w == 300.5
    (warning,) = (r for r in caplog.records if r.levelno >= logging.WARNING)
    assert nvml.uuid(2) in warning.getMessage()


def test_monitor_reopens_reloaded_driver(driver_with, start_monitor):
    driver = driver_with(nvml.one_gpu())
    monitor = start_monitor(reopen_every_s=0.05)
    driver.machine["driver_loads"] = 1
    driver.write()
    wait_for(lambda: driver.count()["nvmlInitWithFlags"] == 2)
    wait_for(lambda: monitor.snapshot.states)


def test_monitor_finds_driver_that_is_loaded_later(driver_with, start_monitor):
    driver = driver_with(nvml.one_gpu())
    driver.file.unlink()
    monitor = start_monitor(first_reading=False, reopen_every_s=0.05)
    time.sleep(0.1)
    assert monitor.snapshot.devices == ()
    driver.write()
    wait_for(lambda: monitor.snapshot.states)


def test_thread_ends_with_info_message_without_a_driver(driver_with, start_monitor):
    code = """
import logging, threading, time
logging.basicConfig(level=logging.INFO)
from llamatelemetry.gpu.monitor.monitor import GpuMonitor
from llamatelemetry.gpu.nvml.reader import NvmlReader
monitor = GpuMonitor(NvmlReader())
monitor.start()
while any("gpu" in thread.name for thread in threading.enumerate()):
    time.sleep(0.01)
monitor.ensure_running()
print(threading.active_count(), monitor.snapshot.devices, monitor.stop(1))
import sys
print("pynvml" in sys.modules)
"""
    assert nvml.run_python(code, None).split() == ["1", "()", "True", "False"]


@pytest.mark.slow
def test_slow_driver_is_called_at_most_half_of_the_time(driver_with, start_monitor):
    driver = driver_with(nvml.slow(30))
    took_s = []
    monitor = start_monitor(record_pass=took_s.append)
    wait_for(lambda: len(took_s) >= 3)
    began, count = time.monotonic(), len(took_s)
    wait_for(lambda: len(took_s) >= count + 2)
    assert min(took_s) > 0.03 * 5
    assert time.monotonic() - began > sum(took_s[count : count + 2]) * 1.5
    assert driver.calls()
    monitor.stop(10)


def test_forked_child_uses_its_own_thread_and_session(driver_with, start_monitor):
    driver = driver_with(nvml.one_gpu())
    monitor = start_monitor()
    key = Key()
    monitor.ledger.start(key, "parent's engine", 0.0)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = f"{threads()} {monitor.snapshot.states} {monitor.ledger.engines_in_flight()}"
            monitor.ensure_running()
            wait_for(lambda: monitor.snapshot.states)
            answer += f" {monitor.snapshot.states[nvml.uuid(0)].power_w} {monitor.stop(5)}"
        finally:
            os.write(writing, answer.encode())
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 1000) == b"[] {} set() 300.5 True"
    assert driver.count()["nvmlInitWithFlags"] == 2
    before = len(monitor.history)
    wait_for(lambda: len(monitor.history) > before)


class Key:
    pass


def test_fork_waits_for_running_pass_with_a_time_limit(driver_with, start_monitor):
    driver_with(nvml.slow(30))
    start_monitor()
    for _ in range(5):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0


def test_internal_error_is_logged_and_reading_continues(monkeypatch, caplog):
    internal_errors.set_strict(False)
    monkeypatch.setattr(background, "_AFTER_FAILURE_S", 0.01)
    passes = []

    def run_pass():
        passes.append(None)
        raise ZeroDivisionError

    loop = background.BackgroundLoop("llamatelemetry-gpu", run_pass, lambda: None, lambda: None)
    loop.start()
    wait_for(lambda: len(passes) > 2)
    assert loop.stop(5)
    assert [r.getMessage().split(" (")[0] for r in caplog.records if r.levelno > logging.INFO] == [
        "llamatelemetry failed while reading the GPUs"
    ]


@pytest.mark.parametrize(("where", "paces"), [({nvml.uuid(0)}, "fast"), (set(), "slow")])
def test_gpu_is_read_ten_times_per_second_while_a_call_is_in_flight(
    driver_with, start_monitor, where, paces
):
    server = 4711
    driver_with(nvml.one_gpu(processes=[{"pid": server, "memory": 1}] if where else []))
    monitor = start_monitor(interval_s=30.0, pids_of=lambda origin: {server})
    key = Key()
    count = len(monitor.history)
    monitor.ledger.start(key, "http://127.0.0.1:8080", time.monotonic())
    monitor.read_soon()
    if paces == "fast":
        wait_for(lambda: len(monitor.history) >= count + 5)
        assert monitor.snapshot.engine_pids == {server}
        monitor.ledger.finish(key, time.monotonic())
        time.sleep(0.25)
        count = len(monitor.history)
    else:
        wait_for(lambda: len(monitor.history) == count + 1)
        count += 1
    time.sleep(0.35)
    assert len(monitor.history) <= count + 1


@pytest.mark.parametrize(
    ("interval_s", "took_s", "allowed_s"), [(1.0, 1.0, 10), (30.0, 1.0, 150), (1.0, 60.0, 300)]
)
def test_readings_are_current_for_ten_seconds_or_five_intervals(interval_s, took_s, allowed_s):
    monitor = GpuMonitor(NvmlReader(), interval_s=interval_s)
    monitor._took_s = took_s
    states = {nvml.uuid(0): GpuState(power_w=300.0)}
    monitor.snapshot = Snapshot(states=states, at_s=time.monotonic() - allowed_s + 5)
    assert monitor.current() is monitor.snapshot
    monitor.snapshot = Snapshot(states=states, at_s=time.monotonic() - allowed_s)
    found = monitor.current()
    assert (found.states, found.lost) == ({nvml.uuid(0): GpuState()}, {nvml.uuid(0)})
