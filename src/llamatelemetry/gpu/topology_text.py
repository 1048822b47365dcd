"""A topology as text, laid out as ``nvidia-smi topo -m`` lays it out, tabs included.

So what reads the one reads the other. Only the legend is in words of our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llamatelemetry.gpu.topology import Topology

_AFFINITIES: Final = ("CPU Affinity", "NUMA Affinity", "GPU NUMA ID")
_LEGEND: Final = """\
Legend, from near to far:

  X    = the device itself
  NV#  = # NVLinks, direct or through NVSwitches
  PIX  = PCIe, one bridge at most
  PXB  = PCIe, several bridges, but not the host bridge
  PHB  = PCIe and the host bridge, mostly the CPU
  NODE = PCIe and the way between host bridges of one NUMA node
  SYS  = PCIe and the way between NUMA nodes (UPI, Infinity Fabric)"""


def as_text(topology: Topology) -> str:
    """Give the matrix with its legend, or the reason why there is none."""
    if not topology.gpus:
        return f"No GPU, so no topology: {topology.reason}"
    columns, rows = rows_of(topology)
    lines = ["\t".join(("", *columns)), *map(_line, rows), "", _LEGEND]
    if topology.nics:
        lines += ["", "NIC Legend:", "", *(f"  {nic.label}: {nic.name}" for nic in topology.nics)]
    return "\n".join(lines)


def rows_of(topology: Topology) -> tuple[list[str], list[list[str]]]:
    """Give the headings, and a row for each device: its label, then a cell for each heading."""
    labels = topology.labels
    near = {
        gpu.label: (
            gpu.cpu_affinity or "N/A",
            gpu.numa_affinity or "N/A",
            "N/A" if gpu.gpu_numa_node is None else str(gpu.gpu_numa_node),
        )
        for gpu in topology.gpus
    }
    rows = [
        [row, *(topology.cell(row, column) for column in labels), *near.get(row, ("", "", ""))]
        for row in labels
    ]
    return [*labels, *_AFFINITIES], rows


def _line(row: list[str]) -> str:
    label, *cells, cpus, nodes, own_node = row
    connections = (f" {cell} " if cell == "X" else cell for cell in cells)
    # The heading of the nodes is two tabs wide.
    affinity = (cpus, nodes, "", own_node) if cpus else ()
    return "\t".join((label, *connections, *affinity))
