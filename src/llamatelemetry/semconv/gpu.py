"""Names of what is recorded of GPUs: attributes of spans, the resource's, metrics.

The ``hw.*`` names are those of the OpenTelemetry semantic conventions (v1.44, development). What
they have no name for is in our own namespace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

# --- on a span; arrays run over the GPUs of `GPU_IDS` ----------------------------------
GPU_IDS: Final = "llamatelemetry.gpu.ids"
GPU_UTILIZATION: Final = "llamatelemetry.gpu.utilization"
GPU_UTILIZATION_PEAK: Final = "llamatelemetry.gpu.utilization_peak"
GPU_MEMORY_USED: Final = "llamatelemetry.gpu.memory_used"
GPU_POWER: Final = "llamatelemetry.gpu.power"
GPU_TEMPERATURE: Final = "llamatelemetry.gpu.temperature"
GPU_ENERGY: Final = "llamatelemetry.gpu.energy"
GPU_ENERGY_ABOVE_IDLE: Final = "llamatelemetry.gpu.energy_above_idle"
GPU_ENERGY_PER_OUTPUT_TOKEN: Final = "llamatelemetry.gpu.energy_per_output_token"
GPU_ENERGY_ATTRIBUTION: Final = "llamatelemetry.gpu.energy_attribution"

# --- on the resource; arrays run over the GPUs of `GPU_IDS` ----------------------------
GPU_COUNT: Final = "llamatelemetry.gpu.count"
GPU_NAMES: Final = "llamatelemetry.gpu.names"
GPU_MEMORY_TOTAL: Final = "llamatelemetry.gpu.memory_total"
GPU_COMPUTE_CAPABILITY: Final = "llamatelemetry.gpu.compute_capability"
GPU_DRIVER_VERSION: Final = "llamatelemetry.gpu.driver_version"
GPU_CUDA_VERSION: Final = "llamatelemetry.gpu.cuda_version"

# --- on metric points ------------------------------------------------------------------
HW_ID: Final = "hw.id"
HW_NAME: Final = "hw.name"
HW_PARENT: Final = "hw.parent"
HW_TYPE: Final = "hw.type"
HW_STATE: Final = "hw.state"
HW_GPU_TASK: Final = "hw.gpu.task"
HW_MODEL: Final = "hw.model"
HW_VENDOR: Final = "hw.vendor"
HW_SERIAL_NUMBER: Final = "hw.serial_number"
HW_DRIVER_VERSION: Final = "hw.driver_version"
HW_FIRMWARE_VERSION: Final = "hw.firmware_version"
HW_SENSOR_LOCATION: Final = "hw.sensor_location"
NETWORK_IO_DIRECTION: Final = "network.io.direction"
PROCESS_PID: Final = "process.pid"
CLOCK_DOMAIN: Final = "llamatelemetry.gpu.clock_domain"
THROTTLE_REASON: Final = "llamatelemetry.gpu.throttle_reason"

THROTTLE_REASONS: Final = (
    "power_cap",
    "hw_slowdown",
    "sw_thermal",
    "hw_thermal",
    "power_brake",
)
"""Why clocks are held down; idling and clocks that a user has set are no reasons."""

Kind = Literal["gauge", "counter", "up_down_counter"]


@dataclass(frozen=True, slots=True)
class ObservedSpec:
    """An instrument that is observed when metrics are collected."""

    name: str
    kind: Kind
    unit: str
    description: str


HW_GPU_UTILIZATION: Final = ObservedSpec(
    "hw.gpu.utilization", "gauge", "1", "Fraction of time spent in a specific task."
)
HW_GPU_MEMORY_UTILIZATION: Final = ObservedSpec(
    "hw.gpu.memory.utilization", "gauge", "1", "Fraction of GPU memory used."
)
HW_GPU_MEMORY_USAGE: Final = ObservedSpec(
    "hw.gpu.memory.usage", "up_down_counter", "By", "GPU memory used."
)
HW_GPU_MEMORY_LIMIT: Final = ObservedSpec(
    "hw.gpu.memory.limit", "up_down_counter", "By", "Size of the GPU memory."
)
HW_GPU_IO: Final = ObservedSpec(
    "hw.gpu.io", "counter", "By", "Received and transmitted bytes by the GPU over PCIe."
)
HW_ERRORS: Final = ObservedSpec(
    "hw.errors", "counter", "{error}", "Number of errors encountered by the component."
)
HW_STATUS: Final = ObservedSpec(
    "hw.status",
    "up_down_counter",
    "1",
    "Operational status: 1 for the state that the component is in, 0 for the others.",
)
HW_POWER: Final = ObservedSpec(
    "hw.power", "gauge", "W", "Instantaneous power consumed by the component."
)
HW_ENERGY: Final = ObservedSpec(
    "hw.energy", "counter", "J", "Energy consumed by the component since its driver was loaded."
)
HW_TEMPERATURE: Final = ObservedSpec(
    "hw.temperature", "gauge", "Cel", "Temperature in degrees Celsius."
)
POWER_LIMIT: Final = ObservedSpec(
    "llamatelemetry.gpu.power.limit", "gauge", "W", "Power limit in force."
)
CLOCK: Final = ObservedSpec("llamatelemetry.gpu.clock", "gauge", "Hz", "Clock by domain.")
THROTTLED: Final = ObservedSpec(
    "llamatelemetry.gpu.throttled",
    "up_down_counter",
    "1",
    "1 while the clocks are held down for this reason, else 0.",
)
MEMORY_ACTIVITY: Final = ObservedSpec(
    "llamatelemetry.gpu.memory.activity",
    "gauge",
    "1",
    "Fraction of time in which GPU memory was read or written.",
)
PCIE_GENERATION: Final = ObservedSpec(
    "llamatelemetry.gpu.pcie.generation", "gauge", "1", "PCIe generation of the link just now."
)
PCIE_GENERATION_MAX: Final = ObservedSpec(
    "llamatelemetry.gpu.pcie.generation.limit",
    "gauge",
    "1",
    "PCIe generation that GPU and slot are able to.",
)
PCIE_WIDTH: Final = ObservedSpec(
    "llamatelemetry.gpu.pcie.width", "gauge", "{lane}", "PCIe lanes of the link just now."
)
PCIE_WIDTH_MAX: Final = ObservedSpec(
    "llamatelemetry.gpu.pcie.width.limit",
    "gauge",
    "{lane}",
    "PCIe lanes that GPU and slot are able to.",
)
NVLINK_IO: Final = ObservedSpec(
    "llamatelemetry.gpu.nvlink.io", "counter", "By", "Payload over all NVLinks of the GPU."
)
PROCESS_MEMORY: Final = ObservedSpec(
    "llamatelemetry.gpu.process.memory",
    "up_down_counter",
    "By",
    "GPU memory of this process, and of the servers on this machine that it calls.",
)
SAMPLING_DURATION: Final = "llamatelemetry.gpu.sampling.duration"
"""A histogram (s): what one reading of all GPUs took."""
SAMPLING_BOUNDARIES_S: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
