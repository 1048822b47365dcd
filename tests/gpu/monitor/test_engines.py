"""The GPUs of an engine."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from llamatelemetry.gpu.monitor.engines import IN_PROCESS, Engines

ORIGIN = "http://127.0.0.1:8080"
PROCESSES = {"GPU-0": {7, 8}, "GPU-1": {8}, "GPU-2": set()}


@pytest.mark.parametrize(
    ("pids", "devices"),
    [
        ({7}, {"GPU-0"}),
        ({8}, {"GPU-0", "GPU-1"}),
        ({9}, set()),
        (set(), set()),
        ({1, 8}, {"GPU-0", "GPU-1"}),
    ],
)
def test_server_runs_on_gpus_that_list_one_of_its_processes(pids, devices):
    engines = Engines(lambda origin: pids)
    engines.look_up([ORIGIN], PROCESSES, 0.0)
    assert engines.devices() == {ORIGIN: devices}
    assert engines.pids() == pids


def test_in_process_engine_is_found_by_its_process_id():
    engines = Engines(lambda origin: pytest.fail("it has no origin"))
    engines.look_up([IN_PROCESS], {**PROCESSES, "GPU-2": {os.getpid()}}, 0.0)
    assert engines.devices() == {IN_PROCESS: {"GPU-2"}}


def torch_on(*used: int) -> SimpleNamespace:
    """Return a module with the part of torch's interface that reports allocated memory."""
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 3,
        memory_reserved=lambda index: 1000 if index in used else 0,
        get_device_properties=lambda index: SimpleNamespace(uuid=index),
    )
    return SimpleNamespace(cuda=cuda)


def test_in_process_engine_is_found_by_torch_when_driver_lists_host_process_ids(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch_on(1, 2))
    engines = Engines(lambda origin: set())
    engines.look_up([IN_PROCESS, ORIGIN], {"GPU-0": {7}, "GPU-1": {7}}, 0.0)
    assert engines.devices() == {IN_PROCESS: {"GPU-1"}, ORIGIN: set()}


@pytest.mark.parametrize(
    "torch",
    [
        SimpleNamespace(),
        SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: False)),
        SimpleNamespace(
            cuda=SimpleNamespace(
                is_initialized=lambda: True,
                device_count=lambda: 1,
                memory_reserved=lambda _: 1,
                get_device_properties=lambda _: SimpleNamespace(),
            )
        ),
    ],
)
def test_torch_without_device_uuid_is_ignored(monkeypatch, torch):
    monkeypatch.setitem(sys.modules, "torch", torch)
    engines = Engines(lambda origin: set())
    engines.look_up([IN_PROCESS], {"GPU-0": {7}}, 0.0)
    assert engines.devices() == {IN_PROCESS: set()}


def test_lookup_is_valid_for_seconds_and_removed_when_unused():
    engines = Engines(lambda origin: {7})
    assert engines.need_lookup([ORIGIN], 0.0)
    engines.look_up([ORIGIN], PROCESSES, 0.0)
    assert not engines.need_lookup([ORIGIN], 4.0)
    assert engines.need_lookup([ORIGIN], 6.0)
    engines.look_up([], PROCESSES, 700.0)
    assert engines.devices() == {}
