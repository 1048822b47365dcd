"""How many requests to send, and when: at a fixed concurrency or at scheduled arrival times."""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from numbers import Real
from typing import Any, Literal

Arrival = Literal["poisson", "constant"]


class BenchmarkProfile(Enum):
    """Number of warm-up requests and of measured requests. Prompts are used in rotation.

    | Profile    | Warm-up | Measured | Suitable for                                     |
    |------------|--------:|---------:|--------------------------------------------------|
    | `QUICK`    |       2 |       10 | a smoke test, medians                            |
    | `STANDARD` |      10 |       50 | medians and p90                                  |
    | `THOROUGH` |      20 |      200 | p95, and detecting a difference of about 10%     |

    Examples:
        >>> from llamatelemetry.bench import BenchmarkProfile
        >>> BenchmarkProfile.STANDARD.warmup, BenchmarkProfile["QUICK"].runs
        (10, 10)
    """

    QUICK = (2, 10)
    STANDARD = (10, 50)
    THOROUGH = (20, 200)

    @property
    def warmup(self) -> int:
        """Number of requests before the measured ones."""
        return self.value[0]

    @property
    def runs(self) -> int:
        """Number of measured requests."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Ramp:
    """Rate in requests per second that changes linearly over a run, as in `rate=Ramp(1, 8)`.

    Examples:
        >>> from llamatelemetry.bench import Ramp
        >>> Ramp(1, 8)
        Ramp(start=1, stop=8)
    """

    start: float
    stop: float

    def __post_init__(self) -> None:
        if not (_is_positive(self.start) and _is_positive(self.stop)):
            raise ValueError(
                f"the rates of a ramp must be greater than 0, got {self.start!r} and {self.stop!r}"
            )


@dataclass(frozen=True, slots=True)
class Load:
    """Load model of a run: closed (fixed concurrency) or open (scheduled arrivals).

    Attributes:
        concurrency: Closed load: number of requests in flight. Open load: maximum number in
            flight; the default of 1 means no limit, because a limit of 1 would close the load.
        rate: Arrivals per second. `None` selects a closed load.
        arrival: Distribution of the arrival times.
    """

    concurrency: int = 1
    rate: float | Ramp | None = None
    arrival: Arrival = "poisson"

    def __post_init__(self) -> None:
        concurrency = checked_integer("concurrency", self.concurrency, 1)
        object.__setattr__(self, "concurrency", concurrency)
        rate = self.rate
        if rate is not None and not isinstance(rate, Ramp):
            if not _is_positive(rate):
                raise ValueError(f"rate must be greater than 0 requests per second, got {rate!r}")
            object.__setattr__(self, "rate", float(rate))
        if self.arrival not in {"poisson", "constant"}:
            raise ValueError(f"arrival must be 'poisson' or 'constant', got {self.arrival!r}")

    @property
    def is_open(self) -> bool:
        """Whether requests are sent at scheduled times, independent of response times."""
        return self.rate is not None

    @property
    def max_in_flight(self) -> int | None:
        """Maximum number of concurrent requests, or `None` without a limit."""
        return None if self.is_open and self.concurrency == 1 else self.concurrency

    def describe(self) -> dict[str, Any]:
        """Return the load as plain data."""
        rate: Any = self.rate
        if isinstance(rate, Ramp):
            rate = [rate.start, rate.stop]
        return {"concurrency": self.concurrency, "rate": rate, "arrival": self.arrival}

    def __str__(self) -> str:
        if self.rate is None:
            return f"concurrency {self.concurrency}"
        rate = self.rate
        spelled = f"{rate.start:g} to {rate.stop:g}" if isinstance(rate, Ramp) else f"{rate:g}"
        limit = "" if self.max_in_flight is None else f", max concurrency {self.max_in_flight}"
        return f"{spelled} requests/s ({self.arrival}){limit}"


def checked_integer(name: str, value: Any, least: int) -> int:
    """Return an integer, also for one of numpy.

    Raises:
        ValueError: The value is not an integer, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number!r}")
    return number


def _is_positive(value: Any) -> bool:
    # `Real` includes the numbers of numpy.
    return isinstance(value, Real) and 0 < float(value) < math.inf


def arrival_times(load: Load, count: int, seed: int) -> Sequence[float]:
    """Return the scheduled time of each request, in seconds from the start of the run.

    The times always span `count / rate` seconds. Two runs with different seeds therefore have
    different bursts but the same mean load. Given their number, Poisson arrivals in an interval
    are independent uniform draws. A ramp stretches the same draws so that the rate changes
    linearly.
    """
    rate = load.rate
    if rate is None:
        return [0.0] * count
    fractions = _uniform_fractions(count, load.arrival, random.Random(seed))  # noqa: S311 - no secret
    if not isinstance(rate, Ramp):
        return [fraction * count / rate for fraction in fractions]
    total_s = count / ((rate.start + rate.stop) / 2)
    return [total_s * _ramp_time_fraction(rate, fraction) for fraction in fractions]


def _uniform_fractions(count: int, arrival: Arrival, rng: random.Random) -> list[float]:
    if arrival == "constant":
        return [index / count for index in range(count)]
    return sorted(rng.random() for _ in range(count))


def _ramp_time_fraction(ramp: Ramp, arrived_fraction: float) -> float:
    """Return the fraction of the run's time after which this fraction of requests arrived."""
    if math.isclose(ramp.start, ramp.stop):
        return arrived_fraction
    slope = ramp.stop - ramp.start
    arrived = arrived_fraction * (ramp.start + ramp.stop) / 2
    return (math.sqrt(ramp.start**2 + 2 * slope * arrived) - ramp.start) / slope
