"""Data classes for the topology of the GPUs of a machine.

Connections have the names of `nvidia-smi topo -m`: `NV#` for a number of NVLinks; for PCIe, from
near to far, `PIX`, `PXB`, `PHB`, `NODE`, `SYS`.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry._optional import required_by
from llamatelemetry.gpu.topology.text import as_text, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SELF: Final = "X"
_UNKNOWN: Final = "N/A"


@dataclass(frozen=True, slots=True)
class TopologyGpu:
    """A GPU and its affinities.

    Attributes:
        index: Index in the driver's order, as in `nvidia-smi`.
        uuid: UUID of the board.
        name: Product name.
        pci_bus_id: PCI bus ID, such as `00000000:1B:00.0`.
        cpu_affinity: Nearest CPUs, such as `0-55,112-167`.
        numa_affinity: NUMA nodes with the nearest memory, such as `0-1`.
        gpu_numa_node: NUMA node of the GPU's own memory, if it is one, as on a GH200.
        nvlinks_active: Number of active NVLinks of this GPU, to any device.
    """

    index: int
    uuid: str
    name: str | None = None
    pci_bus_id: str | None = None
    cpu_affinity: str | None = None
    numa_affinity: str | None = None
    gpu_numa_node: int | None = None
    nvlinks_active: int = 0

    @property
    def label(self) -> str:
        """Label in the matrix, such as `GPU0`."""
        return f"GPU{self.index}"


@dataclass(frozen=True, slots=True)
class TopologyNic:
    """A network adapter listed by `nvidia-smi topo -m`.

    Attributes:
        label: Label in the matrix, such as `NIC0`.
        name: Name of the device, such as `mlx5_0`.
    """

    label: str
    name: str


@dataclass(frozen=True, slots=True)
class Links:
    """Connection between two devices: NVLink, PCIe, or both.

    Attributes:
        nvlinks: Number of NVLinks between the devices.
        through_nvswitch: Whether they pass an NVSwitch, which shares them among all GPUs.
        pcie: PCIe distance: `PIX`, `PXB`, `PHB`, `NODE` or `SYS`.
        p2p: Peer-to-peer status for `read`, `write`, `nvlink`, `atomics` and `pcie`, as in
            `nvidia-smi topo -p2p`: `OK`, `CNS`, `GNS`, `TNS`, `DR`, `NS`, `U`.
    """

    nvlinks: int = 0
    through_nvswitch: bool = False
    pcie: str | None = None
    p2p: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def label(self) -> str | None:
        """Label in the matrix, such as `NV18` or `PIX`; `None` if unknown."""
        return f"NV{self.nvlinks}" if self.nvlinks else self.pcie


@dataclass(frozen=True, slots=True)
class Topology:
    """The GPUs of this machine and their connections. Printing it shows the matrix.

    It shows the whole machine: `CUDA_VISIBLE_DEVICES` has no effect, and MIG instances are part of
    their board.

    Attributes:
        gpus: GPUs in the driver's order; empty without a GPU.
        nics: Network adapters listed by `nvidia-smi topo -m`.
        between: Connections by the labels of two devices, in the order of the matrix.
        reason: Why there are no GPUs; `None` if there are.

    Examples:
        >>> from llamatelemetry.distributed import Links, Topology, TopologyGpu
        >>> gpus = (TopologyGpu(0, "GPU-a", numa_affinity="0"), TopologyGpu(1, "GPU-b"))
        >>> topology = Topology(gpus, between={("GPU0", "GPU1"): Links(nvlinks=4)})
        >>> topology.links(0, 1).label
        'NV4'
        >>> for row in topology.labels:
        ...     print(row, *(topology.cell(row, column) for column in topology.labels))
        GPU0 X NV4
        GPU1 NV4 X
        >>> len(topology.to_dict()["gpus"]), topology.to_dataframe().shape
        (2, (2, 5))
    """

    gpus: tuple[TopologyGpu, ...] = ()
    nics: tuple[TopologyNic, ...] = ()
    between: Mapping[tuple[str, str], Links] = field(
        default_factory=dict[tuple[str, str], Links], repr=False
    )
    reason: str | None = None

    def __str__(self) -> str:
        return as_text(self)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of all devices in the order of the matrix: GPUs, then NICs."""
        return tuple(device.label for device in (*self.gpus, *self.nics))

    def links(self, a: int | str, b: int | str) -> Links:
        """Return the connection between two devices, in either order.

        Args:
            a: GPU by its index, label (`"GPU0"`) or UUID; NIC by label or name.
            b: Another device, in the same way.

        Raises:
            ValueError: A device does not exist, or both are the same.
        """
        one, other = self._label_of(a), self._label_of(b)
        if one == other:
            raise ValueError(
                f"a and b must be two devices, got {a!r} and {b!r}, which are both {one}"
            )
        return self.between.get((one, other)) or self.between.get((other, one)) or Links()

    def cell(self, row: str, column: str) -> str:
        """Return one cell of the matrix by its labels: `X`, `NV18`, `PIX` ... or `N/A`."""
        return _SELF if row == column else self.links(row, column).label or _UNKNOWN

    def to_dict(self) -> dict[str, Any]:
        """Return the topology as JSON-compatible data. Unknown values are `None`."""
        return {
            "reason": self.reason,
            "gpus": [{"label": gpu.label, **asdict(gpu)} for gpu in self.gpus],
            "nics": [asdict(nic) for nic in self.nics],
            "links": [
                {"a": one, "b": other, "label": links.label, **asdict(links)}
                for (one, other), links in self.between.items()
            ],
        }

    def to_dataframe(self) -> Any:
        """Return the matrix as a pandas DataFrame: one row per device, columns for devices and affinity.

        Raises:
            ImportError: pandas is not installed.
        """
        with required_by("to_dataframe()", "pandas"):
            pandas: Any = importlib.import_module("pandas")
        columns, rows = rows_of(self)
        frame = pandas.DataFrame([row[1:] for row in rows], [row[0] for row in rows], columns)
        frame.attrs["reason"] = self.reason
        return frame

    def _label_of(self, device: int | str) -> str:
        for label, names in self._names():
            if device in names:
                return label
        present = ", ".join(self.labels) or f"none ({self.reason})"
        raise ValueError(f"device must be one of {present}; got {device!r}")

    def _names(self) -> Iterator[tuple[str, tuple[int | str, ...]]]:
        for gpu in self.gpus:
            yield gpu.label, (gpu.index, gpu.label, gpu.uuid)
        for nic in self.nics:
            yield nic.label, (nic.label, nic.name)
