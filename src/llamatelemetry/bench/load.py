"""When requests are sent: as soon as there is a free hand, or at times that were drawn before."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Arrival = Literal["poisson", "constant"]


@dataclass(frozen=True, slots=True)
class Ramp:
    """A rate that grows, or falls, evenly over a run: ``rate=Ramp(1, 8)``; requests per second."""

    start: float
    stop: float

    def __post_init__(self) -> None:
        if not (_is_positive(self.start) and _is_positive(self.stop)):
            raise ValueError(
                f"the rates of a ramp must be over 0, not {self.start!r} and {self.stop!r}"
            )


@dataclass(frozen=True, slots=True)
class Load:
    """How requests are sent.

    Attributes:
        concurrency: closed: how many are always under way. Open: the most that may be; 1, the
            default, is no limit there, as it would make the load a closed one again.
        rate: arrivals per second; ``None`` makes the load a closed one.
        arrival: how the arrivals are spaced.
    """

    concurrency: int = 1
    rate: float | Ramp | None = None
    arrival: Arrival = "poisson"

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {self.concurrency!r}")
        if (
            self.rate is not None
            and not isinstance(self.rate, Ramp)
            and not _is_positive(self.rate)
        ):
            raise ValueError(f"rate must be over 0 requests per second, not {self.rate!r}")
        if self.arrival not in {"poisson", "constant"}:
            raise ValueError(f"arrival must be 'poisson' or 'constant', not {self.arrival!r}")

    @property
    def is_open(self) -> bool:
        """Whether requests come at their own times, however long the answers take."""
        return self.rate is not None

    @property
    def most_in_flight(self) -> int | None:
        """How many may be under way at once; ``None`` is no limit."""
        return None if self.is_open and self.concurrency == 1 else self.concurrency

    def describe(self) -> dict[str, Any]:
        """Give the load as plain data."""
        rate: Any = self.rate
        if isinstance(rate, Ramp):
            rate = [rate.start, rate.stop]
        return {"concurrency": self.concurrency, "rate": rate, "arrival": self.arrival}

    def __str__(self) -> str:
        if self.rate is None:
            return f"{self.concurrency} at a time"
        rate = self.rate
        spelled = f"{rate.start:g} to {rate.stop:g}" if isinstance(rate, Ramp) else f"{rate:g}"
        limit = "" if self.most_in_flight is None else f", at most {self.most_in_flight} at a time"
        return f"{spelled} requests/s ({self.arrival}){limit}"


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def arrival_times(load: Load, count: int, seed: int) -> Sequence[float]:
    """Draw when each request is due, in seconds from the start.

    The times fill ``count / rate`` seconds exactly, whatever the seed: two runs of a rate differ in
    their bursts, not in their load. Poisson arrivals within a given time are just uniform draws.
    A ramp is drawn the same way and then stretched so that its rate grows evenly.
    """
    rate = load.rate
    if rate is None:
        return [0.0] * count
    shares = _shares(count, load.arrival, random.Random(seed))  # noqa: S311 - no secret
    if not isinstance(rate, Ramp):
        return [share * count / rate for share in shares]
    total_s = count / ((rate.start + rate.stop) / 2)
    return [total_s * _share_of_ramp(rate, share) for share in shares]


def _shares(count: int, arrival: Arrival, rng: random.Random) -> list[float]:
    if arrival == "constant":
        return [index / count for index in range(count)]
    return sorted(rng.random() for _ in range(count))


def _share_of_ramp(ramp: Ramp, share: float) -> float:
    """The time, as a share of the whole, by which a share of a ramp's arrivals has come."""
    if math.isclose(ramp.start, ramp.stop):
        return share
    slope = ramp.stop - ramp.start
    arrived = share * (ramp.start + ramp.stop) / 2
    return (math.sqrt(ramp.start**2 + 2 * slope * arrived) - ramp.start) / slope
