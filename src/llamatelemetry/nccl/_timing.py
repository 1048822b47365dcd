"""Timing of an all-reduce: by CUDA events on GPUs, where the host only enqueues; else by the clock."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Final, Protocol

from ._results import CollectiveError

_POLL_S: Final = 0.0005


class Runner(Protocol):
    """Interface that runs and times collectives on one kind of device."""

    @property
    def device(self) -> Any:
        """Device of the tensors."""
        ...

    def all_reduce(self, tensor: Any, operation: Any) -> None:
        """Run or enqueue one operation."""
        ...

    def mark(self) -> Any:
        """Record the time at which all earlier operations are finished."""
        ...

    def seconds(self, since: Any, until: Any) -> float:
        """Wait for the second mark and return the time between both marks.

        Raises:
            CollectiveError: The mark was not reached in time.
        """
        ...


class CpuRunner:
    """Runner for gloo, by the monotonic clock."""

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
    """Runner for NCCL, by CUDA events on the current stream.

    It polls the last event: NCCL's watchdog ends the whole process, and waiting for the device would never
    return.
    """

    def __init__(self, torch: Any, deadline_s: float) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._torch = torch
        self._deadline_s = deadline_s

    def all_reduce(self, tensor: Any, operation: Any) -> None:
        """Enqueue one operation."""
        self._torch.distributed.all_reduce(tensor, operation)

    def mark(self) -> Any:
        """Record an event after everything that was enqueued."""
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, since: Any, until: Any) -> float:
        """Wait for the event and return the time on the device."""
        while not until.query():
            if time.monotonic() > self._deadline_s:
                raise CollectiveError(
                    "the operation did not finish on the GPU. A rank has died, or does not call check()"
                )
            time.sleep(_POLL_S)
        return since.elapsed_time(until) / 1000


def timed_all_reduce(
    torch: Any, runner: Runner, size_bytes: int, iterations: int, warmup: int
) -> tuple[float, float]:
    """Return the time of one all-reduce in seconds, on the slowest and on the fastest rank.

    Raises:
        CollectiveError: The sum is wrong, or the time limit was reached.
    """
    device = runner.device
    sum_of, max_of = torch.distributed.ReduceOp.SUM, torch.distributed.ReduceOp.MAX
    tensor = torch.ones(size_bytes // 4, dtype=torch.float32, device=device)
    # The first operation opens the connections and verifies the sum.
    _finish(runner, tensor, sum_of)
    world_size = torch.distributed.get_world_size()
    if not bool((tensor == world_size).all()):
        raise CollectiveError(f"The sum over {world_size} ranks is wrong")
    tensor.zero_()  # repeated sums would overflow
    for _ in range(warmup):
        runner.all_reduce(tensor, sum_of)
    # Every rank starts its timer when the last rank is ready.
    _finish(runner, torch.zeros(1, device=device), sum_of)
    since = runner.mark()
    for _ in range(iterations):
        runner.all_reduce(tensor, sum_of)
    own_s = runner.seconds(since, runner.mark()) / iterations
    extremes = torch.tensor([own_s, -own_s], dtype=torch.float64, device=device)
    _finish(runner, extremes, max_of)
    slowest_s, fastest_s = extremes.tolist()
    return slowest_s, -fastest_s


def _finish(runner: Runner, tensor: Any, operation: Any) -> None:
    since = runner.mark()
    runner.all_reduce(tensor, operation)
    runner.seconds(since, runner.mark())
