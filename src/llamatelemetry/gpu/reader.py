"""Data about GPUs, and the interface to a vendor's library.

The monitor, metrics and spans use a vendor's library only through `GpuReader`. `nvml.reader`
implements it for NVIDIA. A value that a device does not report is `None`, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class GpuUnavailableError(Exception):
    """No GPU can be read, which is a normal state. The message is the reason, for users.

    A retry is useless if it `is_permanent`, for example without a driver.
    """

    def __init__(self, reason: str, *, is_permanent: bool = False) -> None:
        super().__init__(reason)
        self.is_permanent = is_permanent


class GpuLostError(Exception):
    """One device stopped responding, or each of its queries fails. Others may still respond."""


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """Constant properties of one GPU or MIG instance.

    Attributes:
        index: Index of the board, in the driver's order.
        uuid: UUID of the board or the MIG instance.
        name: Product name.
        vendor: Name of the vendor.
        memory_total_bytes: Total memory, including the driver's share.
        compute_capability: Compute capability, such as `(9, 0)`.
        driver_version: Version of the driver, such as `570.133.20`.
        cuda_version: Newest CUDA version that the driver supports, such as `12.8`.
        pci_bus_id: PCI bus ID, such as `00000000:1B:00.0`.
        serial_number: Serial number of the board.
        firmware_version: VBIOS version of the board.
        parent_uuid: UUID of the board of a MIG instance; `None` for a board.
        gpu_instance_id: ID of the GPU instance that a MIG instance belongs to.
        compute_instance_id: ID of the compute instance within it.
        is_partitioned: Whether this board is partitioned into MIG instances. Programs then run on
            the instances, not on the board.
    """

    index: int
    uuid: str
    name: str | None = None
    vendor: str = "NVIDIA"
    memory_total_bytes: int | None = None
    compute_capability: tuple[int, int] | None = None
    driver_version: str | None = None
    cuda_version: str | None = None
    pci_bus_id: str | None = None
    serial_number: str | None = None
    firmware_version: str | None = None
    parent_uuid: str | None = None
    is_partitioned: bool = False
    gpu_instance_id: int | None = None
    compute_instance_id: int | None = None


@dataclass(frozen=True, slots=True)
class GpuState:
    """Current state of a GPU. A value that the device does not report is `None`.

    Attributes:
        utilization: Fraction of time with a running kernel, 0 to 1.
        memory_used_bytes: Memory that all processes use.
        power_w: Power of the board, in watts.
        energy_j: Energy in joules since the driver was loaded.
        temperature_c: Temperature in degrees Celsius.
    """

    utilization: float | None = None
    memory_used_bytes: int | None = None
    power_w: float | None = None
    energy_j: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class GpuDetails:
    """Values that change slowly or are slow to query. Utilizations are 0 to 1.

    Attributes:
        memory_utilization: Fraction of time with memory traffic.
        encoder_utilization: Fraction of the video encoder's capacity that is used.
        decoder_utilization: Fraction of the video decoder's capacity that is used.
        power_limit_w: Enforced limit of the power, in watts.
        clocks_hz: Clock rate in hertz by domain: `sm`, `memory`.
        throttle_reasons: Reasons for reduced clocks; `None` if the device does not report them.
        pcie_generation: Current generation of the link, which is lower when idle.
        pcie_generation_max: Highest generation that both the GPU and the slot support.
        pcie_width: Current number of lanes.
        pcie_width_max: Highest number of lanes that both the GPU and the slot support.
        io_bytes: Bytes over PCIe since the driver was loaded, by `receive` and `transmit`.
        nvlink_bytes: The same for all NVLinks.
        errors: Memory errors since the driver was loaded, by `corrected` and `uncorrected`.
    """

    memory_utilization: float | None = None
    encoder_utilization: float | None = None
    decoder_utilization: float | None = None
    power_limit_w: float | None = None
    clocks_hz: Mapping[str, int] = field(default_factory=dict[str, int])
    throttle_reasons: Sequence[str] | None = None
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    io_bytes: Mapping[str, int] = field(default_factory=dict[str, int])
    nvlink_bytes: Mapping[str, int] = field(default_factory=dict[str, int])
    errors: Mapping[str, int] = field(default_factory=dict[str, int])


class GpuReader(Protocol):
    """One session with a vendor's library. Used by one thread at a time."""

    def open(self) -> tuple[GpuDevice, ...]:
        """Open the session and return all devices of this machine.

        Raises:
            GpuUnavailableError: There is no driver, or it does not respond.
        """
        ...

    def state(self, device: GpuDevice) -> GpuState:
        """Return the current state of a device.

        Raises:
            GpuLostError: The device is lost.
            GpuUnavailableError: The session has ended, for example after a reload of the driver.
        """
        ...

    def details(self, device: GpuDevice) -> GpuDetails:
        """Return the details of a device. Raises the same errors as `state`."""
        ...

    def processes(self, device: GpuDevice) -> Mapping[int, int | None] | None:
        """Return the memory in bytes of each compute process, by process ID.

        Returns `None` if the device does not report processes. Raises the same errors as `state`.
        """
        ...

    def close(self) -> None:
        """Close the session. Never raises."""
        ...
