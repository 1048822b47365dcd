"""Resource detector for the GPUs that this process can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource, ResourceDetector

from llamatelemetry.gpu.devices import detect_cuda, dotted
from llamatelemetry.semconv import gpu as names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.gpu.devices import CudaInfo


class GpuResourceDetector(ResourceDetector):
    """Detector of GPU count, names, UUIDs, memory and versions. Without a GPU it adds nothing."""

    def detect(self) -> Resource:
        """Return the resource attributes. Starts NVML, which may take some 100 ms."""
        return Resource(resource_attributes(detect_cuda()))


def resource_attributes(info: CudaInfo) -> dict[str, AttributeValue]:
    """Return the resource attributes of the detected GPUs; empty without a GPU."""
    if not info.available:
        return {}
    devices = info.devices
    capabilities = [d.compute_capability and dotted(d.compute_capability) for d in devices]
    arrays: dict[str, Sequence[str | int | None]] = {
        names.GPU_IDS: [device.uuid for device in devices],
        names.GPU_NAMES: [device.name for device in devices],
        names.GPU_MEMORY_TOTAL: [device.memory_total_bytes for device in devices],
        names.GPU_COMPUTE_CAPABILITY: capabilities,
    }
    attributes: dict[str, AttributeValue] = {names.GPU_COUNT: len(devices)}
    if info.driver_version is not None:
        attributes[names.GPU_DRIVER_VERSION] = info.driver_version
    if info.cuda_version is not None:
        attributes[names.GPU_CUDA_VERSION] = info.cuda_version
    for name, values in arrays.items():
        known = [value for value in values if value is not None]
        if len(known) == len(devices):  # omit incomplete arrays: their indexes would not match
            attributes[name] = known  # type: ignore[assignment]
    return attributes
