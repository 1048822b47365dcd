"""How the GPUs of this machine are connected.

print(TopologyMapper().detect())
"""

from __future__ import annotations

from llamatelemetry.gpu.topology import Links, Topology, TopologyGpu, TopologyNic
from llamatelemetry.gpu.topology_nvml import read_topology

__all__ = ["Links", "Topology", "TopologyGpu", "TopologyMapper", "TopologyNic"]


class TopologyMapper:
    """Finds out how the GPUs of this machine are connected.

    The GPUs, NVLinks, PCIe levels, peer-to-peer states and affinities are NVML's; the NICs are
    those that ``nvidia-smi topo -m`` lists, where that program is installed.
    """

    def detect(self) -> Topology:
        """Look now, in the calling thread: some milliseconds, or what nvidia-smi takes to start.

        Never raises. Without a GPU the topology is empty and its ``reason`` says why.
        """
        return read_topology()
