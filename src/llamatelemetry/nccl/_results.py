"""Results of the check of a process group."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

_GIGA: Final = 1e9


class CollectiveError(RuntimeError):
    """The ranks did not join, or one failed. The message names the rank if it is known."""


@dataclass(frozen=True, slots=True)
class CollectiveResults:
    """One timed collective, by the formulas of nccl-tests. The same on every rank.

    Attributes:
        operation: `all_reduce`.
        backend: Backend that was used: `nccl` or `gloo`.
        world_size: Number of ranks.
        size_bytes: Size of each rank's input.
        iterations: Number of operations that the times are the mean of.
        time_s: Time of one operation on the slowest rank, in seconds.
        min_time_s: Time of one operation on the fastest rank, in seconds.
        algbw: `size / time` of the slowest rank, in GB/s (10^9 bytes per second).
        busbw: `algbw * 2 * (n - 1) / n`, comparable to the speed of the hardware; `None` for one rank,
            which uses no bus.
        fallback_reason: Why it was not the requested backend; `None` if it was.
    """

    operation: str
    backend: str
    world_size: int
    size_bytes: int
    iterations: int
    time_s: float
    min_time_s: float
    algbw: float
    busbw: float | None
    fallback_reason: str | None = None

    def __str__(self) -> str:
        busbw = "" if self.busbw is None else f", busbw {self.busbw:.2f} GB/s"
        fallback = f"\nNot over nccl: {self.fallback_reason}" if self.fallback_reason else ""
        return (
            f"{self.operation} of {_size(self.size_bytes)}, {self.world_size} ranks, "
            f"{self.backend}: {self.time_s * 1e6:.1f} us, algbw {self.algbw:.2f} GB/s{busbw}"
            f"{fallback}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-compatible data."""
        return asdict(self)


def _size(size_bytes: int) -> str:
    mib = size_bytes / 2**20
    return f"{mib:g} MiB" if mib >= 1 else f"{size_bytes / 1024:g} KiB"


def all_reduce_results(
    backend: str,
    world_size: int,
    size_bytes: int,
    *,
    iterations: int,
    times_s: tuple[float, float],
    fallback_reason: str | None = None,
) -> CollectiveResults:
    """Return the bandwidths of an all-reduce.

    Args:
        backend: Backend that was used.
        world_size: Number of ranks.
        size_bytes: Size of each rank's input.
        iterations: Number of timed operations.
        times_s: Time of one operation, on the slowest and on the fastest rank, in seconds.
        fallback_reason: Why it was not the requested backend.
    """
    slowest_s, fastest_s = times_s
    algbw = size_bytes / slowest_s / _GIGA
    return CollectiveResults(
        operation="all_reduce",
        backend=backend,
        world_size=world_size,
        size_bytes=size_bytes,
        iterations=iterations,
        time_s=slowest_s,
        min_time_s=fastest_s,
        algbw=algbw,
        # https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
        busbw=algbw * 2 * (world_size - 1) / world_size if world_size > 1 else None,
        fallback_reason=fallback_reason,
    )
