"""Which GPUs a program can use: ``CUDA_VISIBLE_DEVICES``, which NVML itself knows nothing of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.gpu.reader import GpuDevice


def cuda_visible_devices() -> str | None:
    """The variable of this process; ``None`` when it is not set, which is not the same as empty."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def visible(devices: Sequence[GpuDevice], setting: str | None) -> tuple[GpuDevice, ...]:
    """Those that programs can use, in the order in which CUDA numbers them.

    =====================  ===============================================================
    setting                devices
    =====================  ===============================================================
    ``None``               all; of a board that is cut into MIG instances, these
    ``"2,0"``              by index, in the driver's order (``CUDA_DEVICE_ORDER=PCI_BUS_ID``)
    ``"GPU-8932f937"``     by UUID, or by as much of it as tells them apart
    ``"MIG-..."``          one MIG instance
    ``"0,-1,1"``           as CUDA does it: those before the first that is not there
    ``""``                 none
    =====================  ===============================================================
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
        # Of a board that is cut, CUDA takes the first instance.
        return next((d for d in usable if board.uuid in (d.uuid, d.parent_uuid)), None)
    if not word.startswith(("GPU-", "MIG-")):
        return None
    matching = [device for device in usable if device.uuid.startswith(word)]
    return matching[0] if len(matching) == 1 else None
