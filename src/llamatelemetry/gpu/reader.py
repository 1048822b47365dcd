"""What is known of a GPU, and what a vendor's library has to answer for it.

`GpuReader` is the whole of what the sampler, the metrics and the spans know of a vendor. That of
NVIDIA is in `nvml_reader`; another one's needs the four methods and nothing else. Whatever a
device does not tell is ``None``: unknown, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class GpuUnavailableError(Exception):
    """There is no GPU to read, which is a normal state. ``str()`` says why.

    Args:
        reason: for a person.
        for_good: whether asking again is of no use, as when no driver is installed.
    """

    def __init__(self, reason: str, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.for_good = for_good


class GpuLostError(Exception):
    """This one device does not answer any more; the others may."""


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """The facts about one GPU, or one MIG instance, that do not change.

    Attributes:
        index: in the driver's order, of the board.
        uuid: of the board, or of the instance.
        name: the product's.
        vendor: who makes it.
        memory_total_bytes: all of it, the driver's own share included.
        compute_capability: major and minor, as ``(9, 0)``.
        driver_version: of the vendor's driver.
        cuda_version: the newest that the driver supports, as ``12.8``.
        pci_bus_id: as ``00000000:1B:00.0``.
        serial_number: of the board.
        firmware_version: of the board's VBIOS.
        parent_uuid: of the board that a MIG instance is a part of.
        is_partitioned: whether this is a board that is cut into MIG instances: programs run on
            those, never on the board itself.
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


@dataclass(frozen=True, slots=True)
class GpuState:
    """What changes from moment to moment.

    Attributes:
        utilization: 0 to 1, of the time in which any kernel ran.
        memory_used_bytes: of all processes.
        power_w: watts.
        energy_j: of the counter, since the driver was loaded.
        temperature_c: of the chip, in degrees Celsius.
    """

    utilization: float | None = None
    memory_used_bytes: int | None = None
    power_w: float | None = None
    energy_j: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class GpuDetails:
    """What changes slowly, or is slow to ask for.

    Attributes:
        memory_utilization: 0 to 1, of the time in which memory was read or written.
        encoder_utilization: 0 to 1.
        decoder_utilization: 0 to 1.
        power_limit_w: in force.
        clocks_hz: by domain: ``sm``, ``memory``.
        throttle_reasons: why the clocks are held down just now; None where it does not tell.
        pcie_generation: of the link as it is, which falls when idle; the other is of what it can.
        pcie_generation_max: see there.
        pcie_width: lanes, likewise.
        pcie_width_max: see there.
        io_bytes: over PCIe since the driver was loaded, by ``receive`` and ``transmit``.
        nvlink_bytes: over all NVLinks, likewise.
        errors: of memory since the driver was loaded, by ``corrected`` and ``uncorrected``.
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
    """One session with a vendor's library, used by one thread at a time."""

    def open(self) -> tuple[GpuDevice, ...]:
        """Start the session, and give every device of this machine.

        Raises:
            GpuUnavailableError: there is no driver, or it does not answer.
        """
        ...

    def state(self, device: GpuDevice) -> GpuState:
        """Ask for what changes fast.

        Raises:
            GpuLostError: this device is gone.
            GpuUnavailableError: the session is over, as when the driver was loaded anew.
        """
        ...

    def details(self, device: GpuDevice) -> GpuDetails:
        """Ask for what changes slowly; errors as of `state`."""
        ...

    def processes(self, device: GpuDevice) -> Mapping[int, int | None] | None:
        """Ask for the memory in bytes of each process by its id; errors as of `state`.

        ``None`` for a process whose memory is not told, and altogether where none are told.
        """
        ...

    def close(self) -> None:
        """End the session; never raises."""
        ...
