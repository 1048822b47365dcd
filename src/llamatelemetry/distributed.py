"""How the GPUs of this machine are connected.

    print(TopologyMapper().detect())

On a machine without a GPU the topology is empty.
"""

from __future__ import annotations

from llamatelemetry.gpu.topology import (
    Links,
    Topology,
    TopologyGpu,
    TopologyNic,
    read_topology,
)

__all__ = ["Links", "Topology", "TopologyGpu", "TopologyMapper", "TopologyNic"]


class TopologyMapper:
    """Detector of the connections between the GPUs of this machine.

    GPUs, NVLinks, PCIe levels, peer-to-peer states and affinities come from NVML. NICs come from
    `nvidia-smi topo -m`, if that program is installed.

    Examples:
        >>> from llamatelemetry.distributed import TopologyMapper
        >>> topology = TopologyMapper().detect()
        >>> bool(topology.gpus) == (topology.reason is None)
        True
    """

    def detect(self) -> Topology:
        """Return the topology.

        Runs in the calling thread. It takes some milliseconds, plus the start of nvidia-smi.
        Never raises. Without a GPU the topology is empty, and its `reason` explains why.
        """
        return read_topology()
