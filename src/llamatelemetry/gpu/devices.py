"""The NVIDIA GPUs that this process can use: `detect_cuda`, `require_cuda`, visibility."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llamatelemetry.gpu.nvml.reader import NvmlReader
from llamatelemetry.gpu.reader import GpuDevice, GpuUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence


# Name of a MIG instance up to driver 465: UUID of the board, GPU instance, compute instance.
_INSTANCE: Final = re.compile(r"MIG-(GPU-[^/]+)/(\d{1,4})/(\d{1,4})")


@dataclass(frozen=True, slots=True)
class CudaInfo:
    """The NVIDIA GPUs that this process can use.

    Attributes:
        available: Whether this process can use a GPU.
        driver_version: Version of the driver, such as `570.133.20`; `None` without a driver.
        cuda_version: Newest CUDA version that the driver supports.
        devices: Visible devices, in CUDA's order.
        reason: Why no GPU is available; `None` if one is.
    """

    available: bool
    driver_version: str | None = None
    cuda_version: str | None = None
    devices: tuple[GpuDevice, ...] = ()
    reason: str | None = None


def detect_cuda() -> CudaInfo:
    """Return the NVIDIA GPUs that this process can use. Never raises.

    Examples:
        >>> from llamatelemetry import detect_cuda
        >>> info = detect_cuda()
        >>> names = [device.name for device in info.devices]
        >>> info.available == bool(names)
        True
    """
    reader = NvmlReader()
    try:
        found = reader.open()
    except GpuUnavailableError as error:
        return CudaInfo(available=False, reason=str(error))
    except Exception as error:  # a broken library counts as no GPU
        return CudaInfo(available=False, reason=f"NVML failed: {error}")
    reader.close()
    setting = cuda_visible_devices()
    usable = visible(found, setting)
    return CudaInfo(
        available=bool(usable),
        driver_version=found[0].driver_version if found else None,
        cuda_version=found[0].cuda_version if found else None,
        devices=usable,
        reason=None if usable else _why_none(len(found), setting),
    )


def _why_none(count: int, setting: str | None) -> str:
    if count == 0:
        return "the NVIDIA driver is installed, but lists no GPU"
    if setting is None:
        return "the GPU is in MIG mode, but has no MIG instance"
    return f"CUDA_VISIBLE_DEVICES={setting!r} selects none of the {count} installed GPUs"


def require_cuda(
    min_compute_capability: tuple[int, int] | float | str | None = None,
) -> list[GpuDevice]:
    """Return the NVIDIA GPUs that this process can use.

    Args:
        min_compute_capability: Minimum compute capability: `(8, 0)`, `8.0` or `"8.0"`.

    Raises:
        RuntimeError: There is no such GPU. The message explains what to do.
        ValueError: `min_compute_capability` is not a version.

    Examples:
        >>> from llamatelemetry import require_cuda
        >>> try:
        ...     device = require_cuda(min_compute_capability="8.0")[0].name
        ... except RuntimeError as error:
        ...     device = "cpu"
    """
    wanted = _capability(min_compute_capability)
    info = detect_cuda()
    if not info.available:
        raise RuntimeError(
            f"No NVIDIA GPU available: {info.reason}. Searched with NVML (libnvidia-ml.so.1) for the "
            "devices of CUDA_VISIBLE_DEVICES. Check that `nvidia-smi` lists a GPU; start a "
            "container with `--gpus all`. Tracing itself needs no GPU"
        )
    if wanted is None:
        return list(info.devices)
    able = [d for d in info.devices if d.compute_capability and d.compute_capability >= wanted]
    if not able:
        seen = ", ".join(
            f"{d.name or d.uuid} ({dotted(d.compute_capability)})" for d in info.devices
        )
        raise RuntimeError(
            f"No NVIDIA GPU of compute capability {dotted(wanted)} or higher; available: {seen}. "
            "Use a newer GPU or a lower min_compute_capability"
        )
    return able


def _capability(given: tuple[int, int] | float | str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    try:
        major, minor = given if isinstance(given, tuple) else str(given).split(".")
        return int(major), int(minor)
    except ValueError:
        message = f"min_compute_capability must be a version such as (8, 0) or '8.0', got {given!r}"
        raise ValueError(message) from None


def dotted(capability: tuple[int, int] | None) -> str:
    """Return a compute capability as text, such as `9.0`."""
    return "unknown" if capability is None else "{}.{}".format(*capability)


def cuda_visible_devices() -> str | None:
    """Return `CUDA_VISIBLE_DEVICES`; `None` if it is unset, which differs from an empty value."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def visible(devices: Sequence[GpuDevice], setting: str | None) -> tuple[GpuDevice, ...]:
    """Return the devices that a program can use, in CUDA's order. NVML ignores the variable.

    | Setting | Devices |
    |---|---|
    | `None` | all; the MIG instances instead of a partitioned board |
    | `"2,0"` | by index, in the driver's order (`CUDA_DEVICE_ORDER=PCI_BUS_ID`) |
    | `"GPU-8932f937"` | by UUID or a unique prefix of it |
    | `"MIG-..."` | one MIG instance |
    | `"MIG-GPU-8932f937/1/0"` | one MIG instance, by board, GPU instance and compute instance |
    | `"0,-1,1"` | those before the first invalid entry, as in CUDA |
    | `""` | none |
    """
    usable = [device for device in devices if not device.is_partitioned]
    if setting is None:
        return tuple(usable)
    chosen: list[GpuDevice] = []
    for word in (word.strip() for word in setting.split(",")):
        found = _named(devices, usable, word)
        if found is None or found in chosen:
            break
        chosen.append(found)
    return tuple(chosen)


def _named(
    devices: Sequence[GpuDevice], usable: Sequence[GpuDevice], word: str
) -> GpuDevice | None:
    if word.isdigit():
        boards = [device for device in devices if device.parent_uuid is None]
        if int(word) >= len(boards):
            return None
        board = boards[int(word)]
        # CUDA uses the first MIG instance of a partitioned board.
        return next((d for d in usable if board.uuid in (d.uuid, d.parent_uuid)), None)
    if not word.startswith(("GPU-", "MIG-")):
        return None
    matching = [device for device in usable if device.uuid.startswith(word)]
    instance = _INSTANCE.fullmatch(word)
    if instance is not None and not matching:
        board, *ids = instance.groups()
        matching = [
            device
            for device in usable
            if (device.parent_uuid or "").startswith(board)
            and [device.gpu_instance_id, device.compute_instance_id] == [int(each) for each in ids]
        ]
    return matching[0] if len(matching) == 1 else None
