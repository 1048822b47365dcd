"""How the GPUs of a machine are connected, as data: what `read_topology` finds.

The words for a connection are those of ``nvidia-smi topo -m``: ``NV#`` over that many NVLinks,
then by what a PCIe transfer has to pass, from near to far: ``PIX``, ``PXB``, ``PHB``, ``NODE``,
``SYS``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry._optional import required_by
from llamatelemetry.gpu.topology_text import as_text, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SELF: Final = "X"
_UNKNOWN: Final = "N/A"


@dataclass(frozen=True, slots=True)
class TopologyGpu:
    """A GPU and the part of the machine that is near to it.

    Attributes:
        index: in the driver's order, as ``nvidia-smi`` counts.
        uuid: as ``GPU-...``.
        name: the product's.
        pci_bus_id: as ``00000000:1B:00.0``.
        cpu_affinity: the CPUs that are near, as ``0-55,112-167``.
        numa_affinity: the NUMA nodes whose memory is near, likewise.
        gpu_numa_node: the node that the GPU's own memory is, where it is one, as on a GH200.
        nvlinks_active: of this GPU, to wherever they lead.
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
        """As in the matrix: ``GPU0``."""
        return f"GPU{self.index}"


@dataclass(frozen=True, slots=True)
class TopologyNic:
    """A network adapter that ``nvidia-smi topo -m`` lists.

    Attributes:
        label: as in the matrix: ``NIC0``.
        name: of the device: ``mlx5_0``.
    """

    label: str
    name: str


@dataclass(frozen=True, slots=True)
class Links:
    """What lies between two devices. Both ways are told where there are both.

    Attributes:
        nvlinks: how many NVLinks carry data between the two.
        through_nvswitch: whether these go through a switch, which shares them among all GPUs.
        pcie: what a transfer over PCIe passes: ``PIX`` to ``SYS``.
        p2p: for ``read``, ``write``, ``nvlink``, ``atomics``, ``pcie``: whether the driver allows
            one GPU to reach the other's memory so, in the words of ``nvidia-smi topo -p2p``:
            ``OK``, ``CNS``, ``GNS``, ``TNS``, ``DR``, ``NS``, ``U``.
    """

    nvlinks: int = 0
    through_nvswitch: bool = False
    pcie: str | None = None
    p2p: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def label(self) -> str | None:
        """As in the matrix: ``NV18``, ``PIX``; None when nothing is known."""
        return f"NV{self.nvlinks}" if self.nvlinks else self.pcie


@dataclass(frozen=True, slots=True)
class Topology:
    """The GPUs of this machine and what lies between them; ``print`` shows the matrix.

    It is of the machine: ``CUDA_VISIBLE_DEVICES`` hides nothing here, and MIG instances are part
    of their board.

    Attributes:
        gpus: in the driver's order; empty without a GPU.
        nics: the adapters that ``nvidia-smi topo -m`` lists beside them.
        between: by the labels of two devices, the one that is listed first in front.
        reason: why there are no GPUs; None when there are.
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
        """All devices in the order of the matrix: GPUs, then NICs."""
        return tuple(device.label for device in (*self.gpus, *self.nics))

    def links(self, a: int | str, b: int | str) -> Links:
        """Give what lies between two devices; the order does not matter.

        Args:
            a: a GPU by its index, label (``"GPU0"``) or UUID; a NIC by label or name.
            b: another one.

        Raises:
            ValueError: there is no such device, or both are the same.
        """
        one, other = self._label_of(a), self._label_of(b)
        if one == other:
            raise ValueError(f"{a!r} and {b!r} are the same device, {one}; name two")
        return self.between.get((one, other)) or self.between.get((other, one)) or Links()

    def cell(self, row: str, column: str) -> str:
        """Give one cell of the matrix by the labels: ``X``, ``NV18``, ``PIX`` ... or ``N/A``."""
        return _SELF if row == column else self.links(row, column).label or _UNKNOWN

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as plain data, ready for JSON. Unknown values are None."""
        return {
            "reason": self.reason,
            "gpus": [_gpu_as_dict(gpu) for gpu in self.gpus],
            "nics": [{"label": nic.label, "name": nic.name} for nic in self.nics],
            "links": [
                {
                    "a": one,
                    "b": other,
                    "label": links.label,
                    "nvlinks": links.nvlinks,
                    "through_nvswitch": links.through_nvswitch,
                    "pcie": links.pcie,
                    "p2p": dict(links.p2p),
                }
                for (one, other), links in self.between.items()
            ],
        }

    def to_dataframe(self) -> Any:
        """Give the matrix as a pandas frame: a row for each device, a column for each and for affinity.

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
        there = ", ".join(self.labels) or f"none, because {self.reason}"
        raise ValueError(f"There is no device {device!r}; there are: {there}")

    def _names(self) -> Iterator[tuple[str, tuple[int | str, ...]]]:
        for gpu in self.gpus:
            yield gpu.label, (gpu.index, gpu.label, gpu.uuid)
        for nic in self.nics:
            yield nic.label, (nic.label, nic.name)


def _gpu_as_dict(gpu: TopologyGpu) -> dict[str, Any]:
    return {
        "label": gpu.label,
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "pci_bus_id": gpu.pci_bus_id,
        "cpu_affinity": gpu.cpu_affinity,
        "numa_affinity": gpu.numa_affinity,
        "gpu_numa_node": gpu.gpu_numa_node,
        "nvlinks_active": gpu.nvlinks_active,
    }
