"""`NvmlReader` through the real nvidia-ml-py, on several kinds of machines."""

from __future__ import annotations

import os
from dataclasses import fields

import pytest

from llamatelemetry.gpu import GpuDetails, GpuDevice, GpuState, GpuUnavailableError, NvmlReader
from llamatelemetry.gpu.nvml import reader as reader_module
from llamatelemetry.gpu.nvml.plausibility import EnergyCounter, memory
from llamatelemetry.gpu.reader import GpuLostError
from tests.support import nvml


@pytest.fixture
def reader():
    reader = NvmlReader()
    yield reader
    reader.close()


def test_reader_returns_all_values_of_one_gpu(driver_with, reader):
    driver = driver_with(nvml.one_gpu(processes=[{"pid": 4711, "memory": 5}, {"pid": 4712}]))

    (device,) = reader.open()

    assert device == GpuDevice(
        index=0,
        uuid=nvml.uuid(0),
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=80 * nvml.GIB,
        compute_capability=(9, 0),
        driver_version="570.133.20",
        cuda_version="12.8",
        pci_bus_id="00000000:1B:00.0",
        serial_number="1654223000000",
        firmware_version="96.00.74.00.01",
    )
    state = reader.state(device)
    assert state == GpuState(
        utilization=0.4,
        memory_used_bytes=20 * nvml.GIB,
        power_w=300.5,
        energy_j=pytest.approx(driver.energy_j(), abs=60),
        temperature_c=55.0,
    )
    assert reader.details(device) == GpuDetails(
        memory_utilization=0.25,
        encoder_utilization=0.0,
        decoder_utilization=0.05,
        power_limit_w=700.0,
        clocks_hz={"sm": 1_980_000_000, "memory": 2_619_000_000},
        throttle_reasons=(),
        pcie_generation=5,
        pcie_generation_max=5,
        pcie_width=16,
        pcie_width_max=16,
        io_bytes={"receive": 2_000_000, "transmit": 1_000_000},
        nvlink_bytes={"receive": 4_000 * 1024, "transmit": 3_000 * 1024},
        errors={"corrected": 2, "uncorrected": 0},
    )
    assert reader.processes(device) == {4711: 5, 4712: None}


def test_open_returns_gpus_in_the_order_of_the_driver(driver_with, reader):
    driver_with(nvml.eight_with_nvswitch())
    devices = reader.open()
    assert [device.uuid for device in devices] == [nvml.uuid(i) for i in range(8)]
    assert [device.index for device in devices] == list(range(8))


def test_unsupported_values_are_none(driver_with, reader):
    driver_with(nvml.answers_almost_nothing())
    (device,) = reader.open()
    assert device == GpuDevice(index=0, uuid=nvml.uuid(0))
    assert reader.state(device) == GpuState()
    assert reader.details(device) == GpuDetails()


def test_unsupported_query_is_not_repeated(driver_with, reader):
    driver = driver_with(nvml.answers_almost_nothing())
    (device,) = reader.open()
    for _ in range(3):
        reader.state(device)
    assert driver.count()["nvmlDeviceGetPowerUsage"] == 1


def test_state_prefers_instant_power(driver_with, reader):
    driver_with(nvml.one_gpu(fields={"186": 612_345}))
    (device,) = reader.open()
    assert reader.state(device).power_w == pytest.approx(612.345)


ALL_BITS = 2**32 - 1
FAR_TOO_LARGE = 9 * 10**18


@pytest.mark.parametrize(
    ("changes", "unknown"),
    [
        ({"utilization": {"gpu": ALL_BITS, "memory": 25}}, {"utilization"}),
        ({"utilization": {"gpu": 101, "memory": 25}}, {"utilization"}),
        ({"power": ALL_BITS / 1000}, {"power_w"}),
        ({"power": 10_001}, {"power_w"}),
        ({"power": 10_001, "fields": {"186": ALL_BITS}}, {"power_w"}),
        ({"temperature": 255}, {"temperature_c"}),
        ({"temperature": ALL_BITS - 4}, {"temperature_c"}),
        ({"memory_total": 0}, {"memory_used_bytes"}),
        ({"memory_total": FAR_TOO_LARGE}, {"memory_used_bytes"}),
        ({"memory_used": 81 * nvml.GIB}, {"memory_used_bytes"}),
        ({"energy_base_j": FAR_TOO_LARGE / 1000}, {"energy_j"}),
    ],
)
def test_state_omits_only_value_that_is_impossible(driver_with, reader, changes, unknown):
    driver_with(nvml.one_gpu(**changes))
    (device,) = reader.open()
    state = reader.state(device)
    assert {each.name for each in fields(state) if getattr(state, each.name) is None} == unknown


def test_state_takes_mean_power_when_instant_power_is_impossible(driver_with, reader):
    driver_with(nvml.one_gpu(fields={"186": ALL_BITS}))
    (device,) = reader.open()
    assert reader.state(device).power_w == 300.5


def test_details_omit_values_that_are_impossible(driver_with, reader):
    driver_with(
        nvml.one_gpu(
            utilization={"gpu": 40, "memory": ALL_BITS},
            encoder={"utilization": ALL_BITS, "period": 1},
            decoder={"utilization": 200, "period": 1},
            power_limit=ALL_BITS / 1000,
            clocks={"sm": ALL_BITS, "memory": 2619},
            pcie={"generation": 0, "width": ALL_BITS, "max_generation": 5, "max_width": 16},
            ecc={"corrected": FAR_TOO_LARGE, "uncorrected": 0},
            fields={"197": FAR_TOO_LARGE, "198": 7, f"138/{nvml.EVERY_LINK}": 2**45},
            processes=[{"pid": 1, "memory": FAR_TOO_LARGE}, {"pid": 2, "memory": 5}],
        )
    )
    (device,) = reader.open()
    assert reader.details(device) == GpuDetails(
        clocks_hz={"memory": 2_619_000_000},
        throttle_reasons=(),
        pcie_generation_max=5,
        pcie_width_max=16,
        io_bytes={"receive": 7},
        errors={"uncorrected": 0},
    )
    assert reader.processes(device) == {1: None, 2: 5}


def test_open_omits_versions_that_are_negative(driver_with, reader):
    negative = {"major": 9, "minor": -1}
    driver_with({**nvml.one_gpu(compute_capability=negative), "cuda": -1})
    (device,) = reader.open()
    assert (device.compute_capability, device.cuda_version) == (None, None)


def test_open_returns_no_total_memory_when_driver_reports_zero(driver_with, reader):
    driver_with(nvml.one_gpu(memory_total=0, memory_used=0))
    (device,) = reader.open()
    assert device.memory_total_bytes is None


@pytest.mark.parametrize("error", [3, 13, 25])  # not supported, no such function, version mismatch
def test_state_falls_back_to_memory_with_share_of_driver(driver_with, reader, error):
    driver = driver_with(nvml.one_gpu(errors={"nvmlDeviceGetMemoryInfo_v2": error}))
    (device,) = reader.open()
    assert device.memory_total_bytes == 80 * nvml.GIB
    for _ in range(3):
        assert reader.state(device).memory_used_bytes == 20.5 * nvml.GIB
    assert driver.count()["nvmlDeviceGetMemoryInfo_v2"] == 1


@pytest.mark.parametrize("wrong_j", [0, 10**9])
def test_state_omits_energy_of_single_wrong_reading(driver_with, reader, wrong_j):
    driver = driver_with(nvml.one_gpu(power=0))
    (device,) = reader.open()
    energy_j = [reader.state(device).energy_j]
    for reading_j in (wrong_j, 1_000_001, 1_000_002):
        driver.change(energy_base_j=reading_j)
        energy_j.append(reader.state(device).energy_j)
    # The reading after the wrong one cannot be told from another wrong one.
    assert energy_j == [1_000_000, None, None, 1_000_002]


def test_state_raises_when_every_query_has_failed_for_long(driver_with, reader, monkeypatch):
    driver = driver_with(nvml.one_gpu())
    (device,) = reader.open()
    driver.change(errors={"*": 999})
    assert reader.state(device) == GpuState()
    monkeypatch.setattr(reader_module, "_LOST_AFTER_S", 0.0)
    with pytest.raises(GpuLostError):
        reader.state(device)
    driver.change(errors={"*": 999, "nvmlDeviceGetTemperature": 0})
    assert reader.state(device) == GpuState(temperature_c=55.0)


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x1, ()),  # idle is not throttling
        (0x4, ("power_cap",)),
        (0x8 | 0x40, ("hw_slowdown", "hw_thermal")),
        (0x20 | 0x80, ("sw_thermal", "power_brake")),
    ],
)
def test_details_names_throttle_reasons(driver_with, reader, bits, reasons):
    driver_with(nvml.one_gpu(throttle=bits))
    (device,) = reader.open()
    assert reader.details(device).throttle_reasons == reasons


@pytest.mark.parametrize("name", ["EventReasons", "ThrottleReasons"])
def test_throttle_reasons_have_one_of_two_names(driver_with, reader, name):
    """Drivers before 535 have only the older name."""
    not_found = {f"nvmlDeviceGetCurrentClocks{name}": 13}
    driver_with(nvml.one_gpu(throttle=0x8, errors=not_found))
    (device,) = reader.open()
    assert reader.details(device).throttle_reasons == ("hw_slowdown",)


def test_open_returns_mig_instances_after_their_board(driver_with, reader):
    driver_with(nvml.with_mig())

    board, first, second, whole = reader.open()

    assert board.is_partitioned
    assert (first.parent_uuid, second.parent_uuid) == (board.uuid, board.uuid)
    assert first.memory_total_bytes == 20 * nvml.GIB
    assert whole.parent_uuid is None
    assert not whole.is_partitioned
    assert reader.state(second) == GpuState(memory_used_bytes=2 * nvml.GIB)
    assert reader.state(board).power_w == 300.5
    assert reader.state(board).utilization is None


def test_lost_gpu_raises_without_affecting_others(driver_with, reader):
    driver = driver_with(nvml.eight_with_nvswitch())
    devices = reader.open()
    driver.lose(3)
    with pytest.raises(GpuLostError):
        reader.state(devices[3])
    assert reader.state(devices[4]).power_w == 300.5


def test_open_skips_gpu_that_is_lost_from_the_start(driver_with, reader):
    driver = driver_with(nvml.eight_with_nvswitch())
    driver.lose(0)
    assert [device.index for device in reader.open()] == list(range(1, 8))


def test_reloaded_driver_ends_session_and_open_works_again(driver_with, reader):
    driver = driver_with(nvml.one_gpu())
    (device,) = reader.open()
    driver.machine["driver_loads"] = 1
    driver.write()
    with pytest.raises(GpuUnavailableError):
        reader.state(device)
    reader.close()
    reader.open()
    assert reader.state(device).power_w == 300.5


def test_forked_child_needs_its_own_session(driver_with, reader):
    driver_with(nvml.one_gpu())
    (device,) = reader.open()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            reader.state(device)
            answer = "inherited session works"
        except GpuUnavailableError:
            renewed = NvmlReader()
            answer = f"{renewed.state(renewed.open()[0]).power_w}"
        finally:
            os.write(writing, answer.encode())
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 100) == b"300.5"


def test_open_raises_with_reason_without_a_driver(tmp_path, monkeypatch, reader):
    nvml.load()
    monkeypatch.setenv("NVML_DEVICES", str(tmp_path / "none"))
    with pytest.raises(GpuUnavailableError, match="Driver Not Loaded") as caught:
        reader.open()
    assert not caught.value.is_permanent


def test_missing_library_is_permanent():
    code = """
from llamatelemetry.gpu import GpuUnavailableError, NvmlReader
try:
    NvmlReader().open()
except GpuUnavailableError as error:
    print(error.is_permanent, error)
"""
    assert "True libnvidia-ml.so.1 not found" in nvml.run_python(code, None)


def test_power_of_zero_is_a_value_and_a_limit_of_zero_is_not(driver_with, reader):
    driver_with(nvml.one_gpu(power=0, power_limit=0, fields={}))
    (device,) = reader.open()
    assert reader.state(device).power_w == 0.0
    assert reader.details(device).power_limit_w is None


@pytest.mark.parametrize(
    ("grown_mj", "is_plausible"), [(0, True), (30_000_000, True), (30_000_001, False), (-1, False)]
)
def test_energy_counter_grows_by_at_most_ten_kilowatts(grown_mj, is_plausible):
    """Two seconds, and one for the time between two updates of the counter: 30 MJ at 10 kW."""
    counter = EnergyCounter()
    assert counter.check(5000, 100.0) == 5000
    found = counter.check(5000 + grown_mj, 102.0)
    assert found == (5000 + grown_mj if is_plausible else None)
    # The next reading is compared with this one.
    assert counter.check(5001 + grown_mj, 103.0) == 5001 + grown_mj


@pytest.mark.parametrize("energy_mj", [None, -1, 2**53 + 1])
def test_energy_counter_ignores_values_that_are_impossible(energy_mj):
    counter = EnergyCounter()
    assert counter.check(energy_mj, 0.0) is None
    assert counter.check(7, 1.0) == 7
    assert counter.check(energy_mj, 2.0) is None
    assert counter.check(8, 3.0) == 8


@pytest.mark.parametrize(
    ("total", "used", "expected"),
    [(10, 10, (10, 10)), (10, 11, (10, None)), (0, 0, (None, None)), (2**48 + 1, 1, (None, None))],
)
def test_used_memory_is_at_most_the_total(total, used, expected):
    assert memory(total, used) == expected
