"""GPU metrics as an exporter receives them."""

from __future__ import annotations

import os

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from llamatelemetry.gpu.metrics import GpuMetrics
from llamatelemetry.gpu.monitor import monitor as monitor_module
from llamatelemetry.gpu.nvml import reader as nvml_reader
from llamatelemetry.gpu.reader import GpuState
from llamatelemetry.semconv import gpu as names
from tests.support import nvml
from tests.support.telemetry_names import metrics_problems
from tests.support.waiting import wait_for

DEVICE = {
    "hw.id": nvml.uuid(0),
    "hw.name": "GPU 0",
    "hw.model": "NVIDIA H100 80GB HBM3",
    "hw.vendor": "NVIDIA",
    "hw.serial_number": "1654223000000",
    "hw.driver_version": "570.133.20",
    "hw.firmware_version": "96.00.74.00.01",
}
GPU = {"hw.type": "gpu"}


class Exported:
    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.instruments = GpuMetrics(self._provider)

    def metrics(self) -> dict:
        data = self._reader.get_metrics_data()
        assert set(metrics_problems(data)) == set()
        return {
            metric.name: metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str, *without: str) -> dict:
        """Return the values by the attributes that do not describe the device."""
        metric = self.metrics().get(name)
        return {
            tuple(v for k, v in sorted(p.attributes.items()) if k not in DEVICE or k in without): (
                p.value
            )
            for p in (metric.data.data_points if metric else ())
        }


@pytest.fixture
def exported():
    exported = Exported()
    yield exported
    exported.instruments.show(None)


def host(start_monitor, exported, **options):
    monitor = start_monitor(reports_host=lambda: True, **options)
    exported.instruments.show(monitor)
    return monitor


def test_gpu_metrics_have_attributes_and_units_of_the_conventions(
    driver_with, start_monitor, exported
):
    driver = driver_with(
        nvml.one_gpu(
            throttle=0x4,
            ecc={"corrected": 2, "uncorrected": 0},
            pcie={"generation": 1, "width": 16, "max_generation": 5, "max_width": 16},
        )
    )
    host(start_monitor, exported, record_pass=exported.instruments.record_pass)

    metrics = exported.metrics()

    units = {name: metric.unit for name, metric in metrics.items()}
    assert units == {
        "hw.gpu.utilization": "1",
        "hw.gpu.memory.usage": "By",
        "hw.gpu.memory.limit": "By",
        "hw.gpu.memory.utilization": "1",
        "hw.gpu.io": "By",
        "hw.power": "W",
        "hw.energy": "J",
        "hw.temperature": "Cel",
        "hw.errors": "{error}",
        "hw.status": "1",
        "llamatelemetry.gpu.power.limit": "W",
        "llamatelemetry.gpu.clock": "Hz",
        "llamatelemetry.gpu.throttled": "1",
        "llamatelemetry.gpu.memory.activity": "1",
        "llamatelemetry.gpu.pcie.generation": "1",
        "llamatelemetry.gpu.pcie.generation.limit": "1",
        "llamatelemetry.gpu.pcie.width": "{lane}",
        "llamatelemetry.gpu.pcie.width.limit": "{lane}",
        "llamatelemetry.gpu.nvlink.io": "By",
        "llamatelemetry.gpu.sampling.duration": "s",
    }
    points = {
        name: [(dict(p.attributes), p.value) for p in metric.data.data_points]
        for name, metric in metrics.items()
        if name != names.SAMPLING_DURATION.name
    }
    energy_j = points.pop("hw.energy")[0][1]
    assert energy_j == pytest.approx(driver.energy_j(), abs=300)
    assert points == {
        "hw.gpu.utilization": [
            ({**DEVICE, "hw.gpu.task": "general"}, 0.4),
            ({**DEVICE, "hw.gpu.task": "encoder"}, 0.0),
            ({**DEVICE, "hw.gpu.task": "decoder"}, 0.05),
        ],
        "hw.gpu.memory.usage": [(DEVICE, 20 * nvml.GIB)],
        "hw.gpu.memory.limit": [(DEVICE, 80 * nvml.GIB)],
        "hw.gpu.memory.utilization": [(DEVICE, 0.25)],
        "hw.gpu.io": [
            ({**DEVICE, "network.io.direction": "receive"}, 2_000_000),
            ({**DEVICE, "network.io.direction": "transmit"}, 1_000_000),
        ],
        "hw.power": [({**DEVICE, **GPU}, 300.5)],
        "hw.temperature": [({**DEVICE, "hw.sensor_location": "gpu"}, 55.0)],
        "hw.errors": [
            ({**DEVICE, **GPU, "error.type": "corrected"}, 2),
            ({**DEVICE, **GPU, "error.type": "uncorrected"}, 0),
        ],
        "hw.status": [
            ({**DEVICE, **GPU, "hw.state": "ok"}, 1),
            ({**DEVICE, **GPU, "hw.state": "degraded"}, 0),
            ({**DEVICE, **GPU, "hw.state": "failed"}, 0),
        ],
        "llamatelemetry.gpu.power.limit": [(DEVICE, 700.0)],
        "llamatelemetry.gpu.clock": [
            ({**DEVICE, "llamatelemetry.gpu.clock_domain": "sm"}, 1_980_000_000),
            ({**DEVICE, "llamatelemetry.gpu.clock_domain": "memory"}, 2_619_000_000),
        ],
        "llamatelemetry.gpu.throttled": [
            ({**DEVICE, "llamatelemetry.gpu.throttle_reason": reason}, int(reason == "power_cap"))
            for reason in names.THROTTLE_REASONS
        ],
        "llamatelemetry.gpu.memory.activity": [(DEVICE, 0.25)],
        "llamatelemetry.gpu.pcie.generation": [(DEVICE, 1)],
        "llamatelemetry.gpu.pcie.generation.limit": [(DEVICE, 5)],
        "llamatelemetry.gpu.pcie.width": [(DEVICE, 16)],
        "llamatelemetry.gpu.pcie.width.limit": [(DEVICE, 16)],
        "llamatelemetry.gpu.nvlink.io": [
            ({**DEVICE, "network.io.direction": "receive"}, 4_000 * 1024),
            ({**DEVICE, "network.io.direction": "transmit"}, 3_000 * 1024),
        ],
    }


def test_instruments_have_the_kind_of_the_conventions(driver_with, start_monitor, exported):
    driver_with(nvml.one_gpu())
    host(start_monitor, exported)
    data = {name: metric.data for name, metric in exported.metrics().items()}
    assert {name for name, each in data.items() if getattr(each, "is_monotonic", False)} == {
        *("hw.gpu.io", "hw.energy", "hw.errors", "llamatelemetry.gpu.nvlink.io"),
    }
    assert {name for name, each in data.items() if type(each).__name__ == "Gauge"} == {
        *("hw.gpu.utilization", "hw.gpu.memory.utilization", "hw.power", "hw.temperature"),
        *(f"llamatelemetry.gpu.{each}" for each in ("power.limit", "clock", "memory.activity")),
        *(f"llamatelemetry.gpu.pcie.{each}" for each in ("generation", "width")),
        *(f"llamatelemetry.gpu.pcie.{each}.limit" for each in ("generation", "width")),
    }


def test_device_without_support_reports_status_and_no_zeros(driver_with, start_monitor, exported):
    driver_with(nvml.answers_almost_nothing())
    host(start_monitor, exported)
    assert set(exported.metrics()) == {"hw.status"}


def test_process_that_is_not_leader_reports_only_its_own_memory(
    driver_with, start_monitor, exported
):
    processes = [
        {"pid": os.getpid(), "memory": 7},
        {"pid": 4711, "memory": 8},
        {"pid": 1, "memory": 9},
    ]
    driver_with(nvml.one_gpu(processes=processes))
    monitor = start_monitor(pids_of=lambda origin: {4711})
    exported.instruments.show(monitor)
    key = type("Key", (), {})()
    monitor.ledger.start(key, "http://127.0.0.1:8080", 0.0)
    monitor.read_soon()
    wait_for(lambda: monitor.snapshot.engine_pids)
    assert exported.points("llamatelemetry.gpu.process.memory") == {(os.getpid(),): 7}
    assert set(exported.metrics()) == {"llamatelemetry.gpu.process.memory"}


def test_leader_also_reports_memory_of_called_servers(driver_with, start_monitor, exported):
    processes = [{"pid": 4711, "memory": 8}, {"pid": 1, "memory": 9}]
    driver_with(nvml.one_gpu(processes=processes))
    monitor = host(start_monitor, exported, pids_of=lambda origin: {4711})
    key = type("Key", (), {})()
    monitor.ledger.start(key, "http://127.0.0.1:8080", 0.0)
    monitor.read_soon()
    wait_for(lambda: monitor.snapshot.engine_pids)
    assert exported.points("llamatelemetry.gpu.process.memory") == {(4711,): 8}


def test_counters_continue_when_driver_is_reloaded(driver_with, start_monitor, exported):
    driver = driver_with(nvml.one_gpu())
    monitor = host(start_monitor, exported, reopen_every_s=0.05)
    (before_j,) = exported.points("hw.energy").values()
    driver.machine["driver_loads"] = 1
    driver.change(energy_base_j=10)
    wait_for(lambda: driver.count()["nvmlInitWithFlags"] == 2)
    wait_for(lambda: monitor.snapshot.states)
    exported.points("hw.energy")  # a single lower value counts as a reading error
    (after_j,) = exported.points("hw.energy").values()
    assert before_j < after_j < before_j + 10_000


def test_single_lower_value_does_not_count_as_restart_of_counter(
    driver_with, start_monitor, exported
):
    driver = driver_with(nvml.one_gpu(ecc={"corrected": 5, "uncorrected": 0}))
    monitor = host(start_monitor, exported, reopen_every_s=0.05)
    corrected = []
    for loads, count in enumerate((5, 0, 7)):
        driver.machine["driver_loads"] = loads  # then the details are read at once
        driver.change(ecc={"corrected": count, "uncorrected": 0})
        wait_for(
            lambda expected=count: (
                monitor.snapshot.details
                and monitor.snapshot.details[nvml.uuid(0)].errors["corrected"] == expected
            )
        )
        points = exported.metrics()["hw.errors"].data.data_points
        (value,) = [p.value for p in points if p.attributes["error.type"] == "corrected"]
        corrected.append(value)
    assert corrected == [5, 5, 7]


def test_status_is_degraded_for_uncorrected_errors_and_failed_for_lost_gpu(
    driver_with, start_monitor, exported
):
    machine = nvml.four_on_pcie()
    machine["devices"][1]["ecc"]["uncorrected"] = 1
    driver = driver_with(machine)
    monitor = host(start_monitor, exported)
    driver.lose(2)
    wait_for(lambda: monitor.snapshot.lost)
    states = {
        point.attributes["hw.name"]: point.attributes["hw.state"]
        for point in exported.metrics()["hw.status"].data.data_points
        if point.value
    }
    assert states == {"GPU 0": "ok", "GPU 1": "degraded", "GPU 2": "failed", "GPU 3": "ok"}


@pytest.mark.parametrize("error", [2, 10, 999])  # invalid argument, time-out, unknown
def test_status_is_failed_when_every_query_fails_for_long(
    driver_with, start_monitor, exported, monkeypatch, error
):
    monkeypatch.setattr(nvml_reader, "_LOST_AFTER_S", 0.3)
    driver = driver_with(nvml.one_gpu())
    monitor = host(start_monitor, exported, reopen_every_s=0.1)
    driver.change(errors={"*": error})
    wait_for(lambda: monitor.snapshot.states[nvml.uuid(0)] == GpuState())
    wait_for(lambda: active_states(exported) == ["failed"])
    assert set(exported.metrics()) == {"hw.status", "hw.gpu.memory.limit"}
    driver.change(errors={})
    wait_for(lambda: active_states(exported) == ["ok"])


def test_status_is_failed_and_values_are_absent_while_driver_hangs(
    driver_with, start_monitor, exported, monkeypatch
):
    monkeypatch.setattr(monitor_module, "_STUCK_AFTER_S", 0.3)
    driver = driver_with(nvml.one_gpu())
    host(start_monitor, exported)
    assert active_states(exported) == ["ok"]
    driver.machine["delay_ms"] = {"nvmlDeviceGetTemperature": 3000}
    driver.write()
    wait_for(lambda: active_states(exported) == ["failed"])
    assert set(exported.metrics()) == {"hw.status", "hw.gpu.memory.limit"}
    driver.machine["delay_ms"] = {}
    driver.write()
    wait_for(lambda: active_states(exported) == ["ok"])


def active_states(exported) -> list[str]:
    return [
        point.attributes["hw.state"]
        for point in exported.metrics()["hw.status"].data.data_points
        if point.value
    ]


def test_mig_instances_name_their_board_and_have_no_power(driver_with, start_monitor, exported):
    driver_with(nvml.with_mig())
    host(start_monitor, exported)
    metrics = exported.metrics()
    parents = {
        p.attributes["hw.id"]: p.attributes.get("hw.parent")
        for p in metrics["hw.gpu.memory.usage"].data.data_points
    }
    assert [parent for parent in parents.values() if parent] == [nvml.uuid(0)] * 2
    powered = {p.attributes["hw.id"] for p in metrics["hw.power"].data.data_points}
    assert powered == {nvml.uuid(0), nvml.uuid(1)}


def test_metrics_are_empty_without_a_monitor(exported):
    assert exported.metrics() == {}


def test_sampling_duration_is_recorded(driver_with, start_monitor, exported):
    driver_with(nvml.slow(10))
    host(start_monitor, exported, record_pass=exported.instruments.record_pass)
    wait_for(lambda: "llamatelemetry.gpu.sampling.duration" in exported.metrics())
    (point,) = exported.metrics()["llamatelemetry.gpu.sampling.duration"].data.data_points
    assert point.sum / point.count > 0.05
