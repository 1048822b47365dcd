"""GPU telemetry: names of span, resource and metric attributes, and metric specifications.

The names `hw.*` and their descriptions are those of the OpenTelemetry semantic conventions
(v1.44, development). Names that the conventions lack start with `llamatelemetry.gpu`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from llamatelemetry.semconv.metrics import HistogramSpec

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

# Span attributes. Arrays have one item for each GPU in `GPU_IDS`.
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

# Resource attributes. Arrays have one item for each GPU in `GPU_IDS`.
GPU_COUNT: Final = "llamatelemetry.gpu.count"
GPU_NAMES: Final = "llamatelemetry.gpu.names"
GPU_MEMORY_TOTAL: Final = "llamatelemetry.gpu.memory_total"
GPU_COMPUTE_CAPABILITY: Final = "llamatelemetry.gpu.compute_capability"
GPU_DRIVER_VERSION: Final = "llamatelemetry.gpu.driver_version"
GPU_CUDA_VERSION: Final = "llamatelemetry.gpu.cuda_version"

# Metric attributes.
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

THROTTLE_REASONS: Final = ("power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "power_brake")
"""Reasons for throttled clocks. Idling and application clocks are not throttling."""

InstrumentKind = Literal["gauge", "counter", "up_down_counter"]


@dataclass(frozen=True, slots=True)
class ObservedSpec:
    """An observable instrument, read when metrics are collected."""

    name: str
    kind: InstrumentKind
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
    "hw.gpu.io", "counter", "By", "Received and transmitted bytes by the GPU."
)
HW_ERRORS: Final = ObservedSpec(
    "hw.errors", "counter", "{error}", "Number of errors encountered by the component."
)
HW_STATUS: Final = ObservedSpec(
    "hw.status",
    "up_down_counter",
    "1",
    "Operational status: `1` (true) or `0` (false) for each of the possible states.",
)
HW_POWER: Final = ObservedSpec(
    "hw.power", "gauge", "W", "Instantaneous power consumed by the component."
)
HW_ENERGY: Final = ObservedSpec("hw.energy", "counter", "J", "Energy consumed by the component.")
HW_TEMPERATURE: Final = ObservedSpec(
    "hw.temperature", "gauge", "Cel", "Temperature in degrees Celsius."
)
POWER_LIMIT: Final = ObservedSpec(
    "llamatelemetry.gpu.power.limit", "gauge", "W", "Enforced power limit."
)
CLOCK: Final = ObservedSpec("llamatelemetry.gpu.clock", "gauge", "Hz", "Clock frequency by domain.")
THROTTLED: Final = ObservedSpec(
    "llamatelemetry.gpu.throttled",
    "up_down_counter",
    "1",
    "1 while clocks are throttled for this reason, else 0.",
)
MEMORY_ACTIVITY: Final = ObservedSpec(
    "llamatelemetry.gpu.memory.activity",
    "gauge",
    "1",
    "Fraction of time in which GPU memory was read or written.",
)
PCIE_GENERATION: Final = ObservedSpec(
    "llamatelemetry.gpu.pcie.generation", "gauge", "1", "Current PCIe generation of the link."
)
PCIE_GENERATION_MAX: Final = ObservedSpec(
    "llamatelemetry.gpu.pcie.generation.limit",
    "gauge",
    "1",
    "Highest PCIe generation that both the GPU and the slot support.",
)
PCIE_WIDTH: Final = ObservedSpec(
    "llamatelemetry.gpu.pcie.width", "gauge", "{lane}", "Current number of PCIe lanes of the link."
)
PCIE_WIDTH_MAX: Final = ObservedSpec(
    "llamatelemetry.gpu.pcie.width.limit",
    "gauge",
    "{lane}",
    "Highest number of PCIe lanes that both the GPU and the slot support.",
)
NVLINK_IO: Final = ObservedSpec(
    "llamatelemetry.gpu.nvlink.io", "counter", "By", "Payload bytes over all NVLinks of the GPU."
)
PROCESS_MEMORY: Final = ObservedSpec(
    "llamatelemetry.gpu.process.memory",
    "up_down_counter",
    "By",
    "GPU memory used by this process and by the local servers that it calls.",
)
SAMPLING_DURATION: Final = HistogramSpec(
    "llamatelemetry.gpu.sampling.duration",
    "s",
    "Duration of one reading of all GPUs.",
    (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
