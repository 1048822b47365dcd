"""Names of what is recorded of collectives. The conventions have none, so all are our own."""

from __future__ import annotations

from typing import Final

from llamatelemetry.semconv.metrics import HistogramSpec

# --- on the resource -------------------------------------------------------------------
RANK: Final = "llamatelemetry.collective.rank"

# --- on the resource and on metric points ----------------------------------------------
WORLD_SIZE: Final = "llamatelemetry.collective.world_size"
BACKEND: Final = "llamatelemetry.collective.backend"

# --- on metric points ------------------------------------------------------------------
OPERATION: Final = "llamatelemetry.collective.operation"
SIZE: Final = "llamatelemetry.collective.size"
"""Bytes that each rank puts in."""

COLLECTIVE_DURATION: Final = HistogramSpec(
    "llamatelemetry.collective.duration",
    "s",
    "Duration of one collective operation on the slowest rank.",
    (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
)
ALGORITHM_BANDWIDTH: Final = "llamatelemetry.collective.algorithm_bandwidth"
BUS_BANDWIDTH: Final = "llamatelemetry.collective.bus_bandwidth"
"""Gauges (By/s), as nccl-tests define them."""
