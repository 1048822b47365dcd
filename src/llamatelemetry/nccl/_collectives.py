"""One timed all-reduce: how it is timed, and its results.

On GPUs it is timed with CUDA events, because the host only enqueues; on CPUs with the clock.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

_GIGA: Final = 1e9
_POLL_S: Final = 0.0005


class CollectiveError(RuntimeError):
    """The ranks did not join, or one failed. The message names the rank if it is known."""


@dataclass(frozen=True, slots=True)
class CollectiveResults:
    """One timed collective. It is the same on every rank.

    The bandwidths follow the definitions of
    [nccl-tests](https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md).

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
            f"{self.operation} of {_format_size(self.size_bytes)}, {self.world_size} ranks, "
            f"{self.backend}: {self.time_s * 1e6:.1f} us, algbw {self.algbw:.2f} GB/s{busbw}"
            f"{fallback}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-compatible data."""
        return asdict(self)


def _format_size(size_bytes: int) -> str:
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
    """Return the bandwidths of an all-reduce, from its time on the slowest and the fastest rank."""
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


class CpuRunner:
    """Runs and times collectives with gloo, by the monotonic clock."""

    def __init__(self, torch: Any, deadline_s: float) -> None:
        self.device = torch.device("cpu")
        self._dist = torch.distributed
        self._deadline_s = deadline_s

    def all_reduce(self, tensor: Any, operation: Any) -> None:
        """Run one operation to its end."""
        remaining_s = max(self._deadline_s - time.monotonic(), 0.001)
        work = self._dist.all_reduce(tensor, operation, async_op=True)
        # A group of the application may have a timeout of half an hour.
        work.wait(timedelta(seconds=remaining_s))

    def mark(self) -> float:
        """Read the clock: all earlier operations are finished."""
        return time.perf_counter()

    def seconds(self, since: float, until: float) -> float:
        """Return the time between both marks."""
        return until - since


class CudaRunner:
    """Runs and times collectives with NCCL, by CUDA events on the current stream.

    It polls the last event, because waiting for the device would never return if a rank dies, and
    NCCL's own watchdog ends the whole process.
    """

    def __init__(self, torch: Any, deadline_s: float) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._torch = torch
        self._deadline_s = deadline_s

    def all_reduce(self, tensor: Any, operation: Any) -> None:
        """Start one operation without waiting for it."""
        self._torch.distributed.all_reduce(tensor, operation)

    def mark(self) -> Any:
        """Enqueue an event, which is reached when all earlier operations are finished."""
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, since: Any, until: Any) -> float:
        """Wait for the second event and return the time between both on the device.

        Raises:
            CollectiveError: The event was not reached in time.
        """
        while not until.query():
            if time.monotonic() > self._deadline_s:
                raise CollectiveError(
                    "the operation did not finish on the GPU. A rank has died, or does not call check()"
                )
            time.sleep(_POLL_S)
        return since.elapsed_time(until) / 1000


CollectiveRunner = CpuRunner | CudaRunner


def time_all_reduce(
    torch: Any, runner: CollectiveRunner, size_bytes: int, iterations: int, warmup: int
) -> tuple[float, float]:
    """Return the time of one all-reduce in seconds, on the slowest and on the fastest rank.

    Raises:
        CollectiveError: The sum is wrong, or the time limit was reached.
    """
    device = runner.device
    sum_of, max_of = torch.distributed.ReduceOp.SUM, torch.distributed.ReduceOp.MAX
    tensor = torch.ones(size_bytes // 4, dtype=torch.float32, device=device)
    # The first operation opens the connections and verifies the sum.
    _run_to_end(runner, tensor, sum_of)
    world_size = torch.distributed.get_world_size()
    if not bool((tensor == world_size).all()):
        raise CollectiveError(f"The sum over {world_size} ranks is wrong")
    # Repeated sums would overflow.
    tensor.zero_()
    for _ in range(warmup):
        runner.all_reduce(tensor, sum_of)
    # Every rank starts its timer when the last rank is ready.
    _run_to_end(runner, torch.zeros(1, device=device), sum_of)
    since = runner.mark()
    for _ in range(iterations):
        runner.all_reduce(tensor, sum_of)
    own_s = runner.seconds(since, runner.mark()) / iterations
    extremes = torch.tensor([own_s, -own_s], dtype=torch.float64, device=device)
    _run_to_end(runner, extremes, max_of)
    slowest_s, fastest_s = extremes.tolist()
    return slowest_s, -fastest_s


def _run_to_end(runner: CollectiveRunner, tensor: Any, operation: Any) -> None:
    since = runner.mark()
    runner.all_reduce(tensor, operation)
    runner.seconds(since, runner.mark())
