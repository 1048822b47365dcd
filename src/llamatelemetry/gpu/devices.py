"""`require_cuda` and `detect_cuda`: which NVIDIA GPUs this process can use."""

from __future__ import annotations

from dataclasses import dataclass

from llamatelemetry.gpu.nvml_reader import NvmlReader
from llamatelemetry.gpu.reader import GpuDevice, GpuUnavailableError
from llamatelemetry.gpu.visibility import cuda_visible_devices, visible


@dataclass(frozen=True, slots=True)
class CudaInfo:
    """What a look at the NVIDIA driver has shown.

    Attributes:
        available: whether there is a GPU that this process can use.
        driver_version: as ``570.133.20``; None without a driver.
        cuda_version: the newest that the driver supports.
        devices: those that this process can use, in the order in which CUDA numbers them.
        reason: why none is available; None when one is.
    """

    available: bool
    driver_version: str | None = None
    cuda_version: str | None = None
    devices: tuple[GpuDevice, ...] = ()
    reason: str | None = None


def detect_cuda() -> CudaInfo:
    """Look for NVIDIA GPUs that this process can use. Never raises; none is a normal answer."""
    reader = NvmlReader()
    try:
        found = reader.open()
    except GpuUnavailableError as error:
        return CudaInfo(available=False, reason=str(error))
    except Exception as error:  # a library that is broken is no GPU either
        return CudaInfo(available=False, reason=f"NVML cannot be read: {error}")
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
        return "the NVIDIA driver is there, but shows no GPU"
    if setting is None:
        return "the GPU is cut into MIG mode without an instance"
    return f"CUDA_VISIBLE_DEVICES={setting!r} names none of the {count} that are there"


def require_cuda(
    min_compute_capability: tuple[int, int] | float | str | None = None,
) -> list[GpuDevice]:
    """Give the NVIDIA GPUs that this process can use.

    Args:
        min_compute_capability: those with less do not count: ``(8, 0)``, ``8.0`` or ``"8.0"``.

    Raises:
        RuntimeError: there is none; the message says what was looked for and what to do.
        ValueError: ``min_compute_capability`` is no version.
    """
    wanted = _capability(min_compute_capability)
    info = detect_cuda()
    if not info.available:
        raise RuntimeError(
            f"No NVIDIA GPU: {info.reason}. Looked for devices through NVML (libnvidia-ml.so.1), "
            "of those in CUDA_VISIBLE_DEVICES if it is set. Check that `nvidia-smi` lists a GPU; "
            "in a container, start it with `--gpus all`. Tracing itself needs no GPU"
        )
    if wanted is None:
        return list(info.devices)
    able = [d for d in info.devices if d.compute_capability and d.compute_capability >= wanted]
    if not able:
        seen = ", ".join(
            f"{d.name or d.uuid} ({_dotted(d.compute_capability)})" for d in info.devices
        )
        raise RuntimeError(
            f"No NVIDIA GPU of compute capability {_dotted(wanted)} or higher: this process can "
            f"use {seen}. Use a newer GPU, or ask for less"
        )
    return able


def _capability(given: tuple[int, int] | float | str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    try:
        major, minor = given if isinstance(given, tuple) else str(given).split(".")
        return int(major), int(minor)
    except ValueError:
        message = f"min_compute_capability={given!r} is no version; give (8, 0) or '8.0'"
        raise ValueError(message) from None


def _dotted(capability: tuple[int, int] | None) -> str:
    return "unknown" if capability is None else "{}.{}".format(*capability)
