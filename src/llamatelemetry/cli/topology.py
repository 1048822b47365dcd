"""``llamatelemetry topology``: the matrix of GPUs and what connects them."""

from __future__ import annotations

import json
import sys

from llamatelemetry.distributed import TopologyMapper


def run_topology(*, as_json: bool = False) -> int:
    """Print the topology. Always 0: to have no GPU is a normal state."""
    topology = TopologyMapper().detect()
    shown = json.dumps(topology.to_dict(), indent=2) if as_json else str(topology)
    sys.stdout.write(f"{shown}\n")
    return 0
