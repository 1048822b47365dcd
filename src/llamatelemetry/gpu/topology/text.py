"""A topology as text, in the format of `nvidia-smi topo -m`, including its tabs.

Programs that parse that output can parse this text. Only the legend differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llamatelemetry.gpu.topology.model import Topology

_AFFINITIES: Final = ("CPU Affinity", "NUMA Affinity", "GPU NUMA ID")
_LEGEND: Final = """\
Legend, from nearest to farthest:

  X    = Same device
  NV#  = # NVLinks, direct or through NVSwitches
  PIX  = PCIe, at most one bridge
  PXB  = PCIe, several bridges, but not the host bridge
  PHB  = PCIe, including the host bridge (usually the CPU)
  NODE = PCIe, including the interconnect between host bridges of one NUMA node
  SYS  = PCIe, including the interconnect between NUMA nodes (UPI, Infinity Fabric)"""


def as_text(topology: Topology) -> str:
    """Return the matrix with its legend, or the reason why there is none."""
    if not topology.gpus:
        return f"No GPU topology: {topology.reason}"
    columns, rows = rows_of(topology)
    lines = ["\t".join(("", *columns)), *map(_line, rows), "", _LEGEND]
    if topology.nics:
        lines += ["", "NIC Legend:", "", *(f"  {nic.label}: {nic.name}" for nic in topology.nics)]
    return "\n".join(lines)


def rows_of(topology: Topology) -> tuple[list[str], list[list[str]]]:
    """Return the headers, and a row for each device: its label, then a cell per header."""
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
    # The header of the NUMA nodes is two tabs wide.
    affinity = (cpus, nodes, "", own_node) if cpus else ()
    return "\t".join((label, *connections, *affinity))
