"""Limits of what a GPU can report.

For a value that it cannot read, a driver may return success and all bits set, the largest value of a
sensor, or 0. Such a reading would spoil every mean and peak, so it is treated as unknown.
"""

from __future__ import annotations

from typing import Final, TypeVar

PERCENT: Final = 100
POWER_MW: Final = 10_000_000
"""10 kW. A board of two GPUs and a processor draws less than 3 kW."""
TEMPERATURE_C: Final = 150
"""GPUs turn themselves off at about 110 degrees."""
MEMORY_BYTES: Final = 2**48
CLOCK_MHZ: Final = 20_000
PCIE_GENERATION: Final = 16
PCIE_WIDTH: Final = 64
COUNT: Final = 2**53
"""Largest value of a counter: integers up to it are exact as floating point numbers."""

# The counter is updated every 10 to 100 ms, so one step may hold the energy of a longer time.
_UPDATE_S: Final = 1.0

N = TypeVar("N", int, float)


def within(value: N | None, largest: float, smallest: float = 0) -> N | None:
    """Return the value if it is plausible, else `None`."""
    return value if value is not None and smallest <= value <= largest else None


def memory(total: int, used: int) -> tuple[int | None, int | None]:
    """Return total and used memory, each `None` if it is not plausible."""
    known_total = within(total, MEMORY_BYTES, 1)
    return known_total, None if known_total is None else within(used, known_total)


class EnergyCounter:
    """Check of the readings of one energy counter against the reading before.

    A counter neither decreases within a session nor grows by more than `POWER_MW`. After one such
    reading, the next one is compared with it, so that a counter that was reset counts again.
    """

    def __init__(self) -> None:
        self._at_s = 0.0
        self._last_mj: int | None = None

    def check(self, energy_mj: int | None, at_s: float) -> int | None:
        """Return the reading if it is plausible at this time, else `None`."""
        if within(energy_mj, COUNT) is None or energy_mj is None:
            return None
        last_mj, elapsed_s = self._last_mj, at_s - self._at_s
        self._last_mj, self._at_s = energy_mj, at_s
        if last_mj is None:
            return energy_mj
        return within(energy_mj, last_mj + POWER_MW * (elapsed_s + _UPDATE_S), last_mj)
