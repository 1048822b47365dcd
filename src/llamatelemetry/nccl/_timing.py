"""Times an all-reduce: with CUDA events on GPUs, where the host only enqueues; else by the clock."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Final, Protocol

from ._results import CollectiveError

_POLL_S: Final = 0.0005


class Runner(Protocol):
    """Runs collectives on one kind of device, and tells how long they took."""

    @property
    def device(self) -> Any:
        """Where the tensors are."""
        ...

    def all_reduce(self, tensor: Any, operation: Any) -> None:
        """Run one, or enqueue it."""
        ...

    def mark(self) -> Any:
        """Note the moment at which all that came before is done."""
        ...

    def seconds(self, since: Any, until: Any) -> float:
        """Wait for the second mark, and give the time between both.

        Raises:
            CollectiveError: it did not come in time.
        """
        ...


class CpuRunner:
    """For gloo, by the monotonic clock."""

    def __init__(self, torch: Any, deadline_s: float) -> None:
        self.device = torch.device("cpu")
        self._dist = torch.distributed
        self._deadline_s = deadline_s

    def all_reduce(self, tensor: Any, operation: Any) -> None:
        """Run one to its end."""
        remaining_s = max(self._deadline_s - time.monotonic(), 0.001)
        work = self._dist.all_reduce(tensor, operation, async_op=True)
        # A group that the application has opened may have a timeout of half an hour.
        work.wait(timedelta(seconds=remaining_s))

    def mark(self) -> float:
        """Read the clock: all that came before is done."""
        return time.perf_counter()

    def seconds(self, since: float, until: float) -> float:
        """Give the difference."""
        return until - since


class CudaRunner:
    """For NCCL, by CUDA events on the current stream.

    It polls the last event: NCCL's own watchdog ends the whole process, and a wait for the
    device would never come back.
    """

    def __init__(self, torch: Any, deadline_s: float) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._torch = torch
        self._deadline_s = deadline_s

    def all_reduce(self, tensor: Any, operation: Any) -> None:
        """Enqueue one."""
        self._torch.distributed.all_reduce(tensor, operation)

    def mark(self) -> Any:
        """Record an event behind all that was enqueued."""
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, since: Any, until: Any) -> float:
        """Wait for the event, and give the time on the device."""
        while not until.query():
            if time.monotonic() > self._deadline_s:
                raise CollectiveError(
                    "it is not done on the GPU. A rank has died, or does not call check()"
                )
            time.sleep(_POLL_S)
        return since.elapsed_time(until) / 1000


def timed_all_reduce(
    torch: Any, runner: Runner, size_bytes: int, iterations: int, warmup: int
) -> tuple[float, float]:
    """Give the seconds of one all-reduce: of the slowest rank, and of the fastest.

    Raises:
        CollectiveError: the sum is wrong, or time ran out.
    """
    device = runner.device
    sum_of, max_of = torch.distributed.ReduceOp.SUM, torch.distributed.ReduceOp.MAX
    tensor = torch.ones(size_bytes // 4, dtype=torch.float32, device=device)
    # The first one opens the connections and shows that the sum is right.
    _finish(runner, tensor, sum_of)
    world_size = torch.distributed.get_world_size()
    if not bool((tensor == world_size).all()):
        raise CollectiveError(f"the sum over {world_size} ranks is wrong")
    tensor.zero_()  # a sum of sums would run over
    for _ in range(warmup):
        runner.all_reduce(tensor, sum_of)
    # Every rank starts to count when the last one is there.
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
