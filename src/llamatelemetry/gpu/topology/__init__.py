"""How the GPUs and NICs of a machine are connected."""

from __future__ import annotations

from llamatelemetry.gpu.topology.model import Links, Topology, TopologyGpu, TopologyNic
from llamatelemetry.gpu.topology.read import read_topology

__all__ = ["Links", "Topology", "TopologyGpu", "TopologyNic", "read_topology"]
