"""`require_cuda`, `detect_cuda` and CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import pytest

import llamatelemetry
from llamatelemetry.gpu.devices import visible
from llamatelemetry.gpu.reader import GpuDevice
from tests.support import nvml

BOARDS = tuple(GpuDevice(index=i, uuid=f"GPU-{i}{i}{i}-abc") for i in range(3))
PARTITIONED = GpuDevice(index=3, uuid="GPU-333-abc", is_partitioned=True)
INSTANCES = tuple(
    GpuDevice(
        index=3,
        uuid=f"MIG-{i}-abc",
        parent_uuid=PARTITIONED.uuid,
        gpu_instance_id=i + 1,
        compute_instance_id=0,
    )
    for i in range(2)
)
ALL = (*BOARDS, PARTITIONED, *INSTANCES)


@pytest.mark.parametrize(
    ("setting", "uuids"),
    [
        (None, ["GPU-000-abc", "GPU-111-abc", "GPU-222-abc", "MIG-0-abc", "MIG-1-abc"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,0", ["GPU-222-abc", "GPU-000-abc"]),
        (" 1 , 2 ", ["GPU-111-abc", "GPU-222-abc"]),
        ("0,-1,1", ["GPU-000-abc"]),
        ("0,9,1", ["GPU-000-abc"]),
        ("0,0", ["GPU-000-abc"]),
        ("GPU-111-abc", ["GPU-111-abc"]),
        ("GPU-22", ["GPU-222-abc"]),
        ("GPU-", []),  # ambiguous
        ("MIG-1-abc", ["MIG-1-abc"]),
        ("3", ["MIG-0-abc"]),
        ("MIG-GPU-333-abc/2/0", ["MIG-1-abc"]),
        ("MIG-GPU-333-abc/2/1", []),
        ("MIG-GPU-333-abc/9/0", []),
        ("MIG-GPU-111-abc/1/0", []),
        ("MIG-GPU-333-abc/1", []),
    ],
)
def test_visible_interprets_variable_as_cuda_does(setting, uuids):
    assert [device.uuid for device in visible(ALL, setting)] == uuids


def test_detect_cuda_returns_versions_and_visible_devices(driver_with, monkeypatch):
    driver_with(nvml.eight_with_nvswitch())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,2")
    info = llamatelemetry.detect_cuda()
    assert (info.available, info.driver_version, info.cuda_version) == (True, "570.133.20", "12.8")
    assert [device.index for device in info.devices] == [5, 2]
    assert info.reason is None


def test_detect_cuda_finds_mig_instance_by_its_old_name(driver_with, monkeypatch):
    driver_with(nvml.with_mig())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"MIG-{nvml.uuid(0)}/2/0")
    (device,) = llamatelemetry.detect_cuda().devices
    assert device.uuid == "MIG-00000002-aaaa-bbbb-cccc-dddddddddddd"


@pytest.mark.parametrize(
    ("machine", "setting", "reason"),
    [
        (nvml.machine(), None, "lists no GPU"),
        (nvml.one_gpu(), "", "CUDA_VISIBLE_DEVICES='' selects none of the 1"),
        (nvml.one_gpu(mig={"mode": 1, "instances": []}), None, "has no MIG instance"),
        (nvml.machine(errors={"nvmlInitWithFlags": 999}), None, "NVML failed to start"),
    ],
)
def test_detect_cuda_explains_why_no_gpu_is_available(
    driver_with, monkeypatch, machine, setting, reason
):
    driver_with(machine)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    info = llamatelemetry.detect_cuda()
    assert not info.available
    assert reason in info.reason
    with pytest.raises(RuntimeError, match="No NVIDIA GPU"):
        llamatelemetry.require_cuda()


@pytest.mark.parametrize("wanted", [None, (8, 9), 8.9, "8.9"])
def test_require_cuda_filters_by_compute_capability(driver_with, wanted):
    driver_with(nvml.four_on_pcie())
    assert [device.index for device in llamatelemetry.require_cuda(wanted)] == [0, 1, 2, 3]


def test_require_cuda_lists_available_gpus_when_all_are_too_old(driver_with):
    driver_with(nvml.one_gpu(name="Tesla P4", compute_capability={"major": 6, "minor": 1}))
    with pytest.raises(RuntimeError, match=r"7\.0 or higher.*Tesla P4 \(6\.1\)"):
        llamatelemetry.require_cuda(min_compute_capability=7.0)


def test_require_cuda_rejects_invalid_compute_capability():
    with pytest.raises(ValueError, match="must be a version"):
        llamatelemetry.require_cuda("ampere")


def test_require_cuda_raises_with_remedy_and_detect_cuda_does_not_raise_without_a_driver():
    code = """
import llamatelemetry
print(llamatelemetry.detect_cuda())
try:
    llamatelemetry.require_cuda()
except RuntimeError as error:
    print(error)
"""
    said = nvml.run_python(code, None)
    assert "available=False" in said
    assert "libnvidia-ml.so.1" in said
    assert "nvidia-smi" in said
