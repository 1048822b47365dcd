"""What a check of a process group gives, or why it gives nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

_GIGA: Final = 1e9


class CollectiveError(RuntimeError):
    """The ranks did not come together, or one fell out. The message says which, as far as is known."""


@dataclass(frozen=True, slots=True)
class CollectiveResults:
    """One timed collective, by the formulas of nccl-tests. The same on every rank.

    Attributes:
        operation: ``all_reduce``.
        backend: what really carried it: ``nccl`` or ``gloo``.
        world_size: how many ranks took part.
        size_bytes: of what each rank put in.
        iterations: how many of them the times are the mean of.
        time_s: of one operation, on the slowest rank.
        min_time_s: of one operation, on the fastest rank.
        algbw: ``size / time`` of the slowest rank, in GB/s (10^9 bytes a second).
        busbw: ``algbw * 2 * (n - 1) / n``, which can be held against the speed of the hardware;
            None for one rank, where nothing goes over a bus.
        fallback_reason: why it was not the backend that was asked for; None when it was.
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
        """Give it as plain data, ready for JSON."""
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
    """Compute the bandwidths of an all-reduce.

    Args:
        backend: that carried it.
        world_size: how many ranks took part.
        size_bytes: of what each rank put in.
        iterations: how many were timed together.
        times_s: of one of them, on the slowest and on the fastest rank.
        fallback_reason: why it was not the backend that was asked for.
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
