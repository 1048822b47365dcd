"""NVIDIA's GPUs through the real nvidia-ml-py, as each kind of machine answers it."""

from __future__ import annotations

import os

import pytest

from llamatelemetry.gpu import GpuDetails, GpuDevice, GpuState, GpuUnavailableError, NvmlReader
from llamatelemetry.gpu.reader import GpuLostError
from tests.gpu import nvml


@pytest.fixture
def reader():
    reader = NvmlReader()
    yield reader
    reader.close()


def test_one_gpu_is_read_in_full(driver_with, reader):
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


def test_eight_gpus_keep_the_order_of_the_driver(driver_with, reader):
    driver_with(nvml.eight_with_nvswitch())
    devices = reader.open()
    assert [device.uuid for device in devices] == [nvml.uuid(i) for i in range(8)]
    assert [device.index for device in devices] == list(range(8))


def test_a_device_that_supports_almost_nothing_has_no_zeros(driver_with, reader):
    driver_with(nvml.answers_almost_nothing())
    (device,) = reader.open()
    assert device == GpuDevice(index=0, uuid=nvml.uuid(0))
    assert reader.state(device) == GpuState()
    assert reader.details(device) == GpuDetails()


def test_what_is_not_supported_is_not_asked_again(driver_with, reader):
    driver = driver_with(nvml.answers_almost_nothing())
    (device,) = reader.open()
    for _ in range(3):
        reader.state(device)
    assert driver.count()["nvmlDeviceGetPowerUsage"] == 1


def test_instant_power_is_preferred_to_the_average_of_a_second(driver_with, reader):
    driver_with(nvml.one_gpu(fields={"186": 612_345}))
    (device,) = reader.open()
    assert reader.state(device).power_w == pytest.approx(612.345)


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x1, ()),  # idle is no throttling
        (0x4, ("power_cap",)),
        (0x8 | 0x40, ("hw_slowdown", "hw_thermal")),
        (0x20 | 0x80, ("sw_thermal", "power_brake")),
    ],
)
def test_throttle_reasons_are_named(driver_with, reader, bits, reasons):
    driver_with(nvml.one_gpu(throttle=bits))
    (device,) = reader.open()
    assert reader.details(device).throttle_reasons == reasons


def test_mig_instances_follow_their_board_and_have_memory_of_their_own(driver_with, reader):
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


def test_a_gpu_that_dies_is_told_apart_from_the_others(driver_with, reader):
    driver = driver_with(nvml.eight_with_nvswitch())
    devices = reader.open()
    driver.lose(3)
    with pytest.raises(GpuLostError):
        reader.state(devices[3])
    assert reader.state(devices[4]).power_w == 300.5


def test_a_gpu_that_is_dead_from_the_start_does_not_hide_the_others(driver_with, reader):
    driver = driver_with(nvml.eight_with_nvswitch())
    driver.lose(0)
    assert [device.index for device in reader.open()] == list(range(1, 8))


def test_a_driver_that_was_loaded_anew_ends_the_session_and_can_be_opened_again(
    driver_with, reader
):
    driver = driver_with(nvml.one_gpu())
    (device,) = reader.open()
    driver.machine["driver_loads"] = 1
    driver.write()
    with pytest.raises(GpuUnavailableError):
        reader.state(device)
    reader.close()
    reader.open()
    assert reader.state(device).power_w == 300.5


def test_a_session_of_its_own_is_needed_after_a_fork(driver_with, reader):
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


def test_no_driver_is_an_answer_with_a_reason(tmp_path, monkeypatch, reader):
    nvml.load()
    monkeypatch.setenv("NVML_DEVICES", str(tmp_path / "none"))
    with pytest.raises(GpuUnavailableError, match="Driver Not Loaded") as caught:
        reader.open()
    assert not caught.value.for_good


def test_no_library_is_an_answer_for_good():
    code = """
from llamatelemetry.gpu import GpuUnavailableError, NvmlReader
try:
    NvmlReader().open()
except GpuUnavailableError as error:
    print(error.for_good, error)
"""
    assert "True the NVIDIA driver's library" in nvml.run_python(code, None)
