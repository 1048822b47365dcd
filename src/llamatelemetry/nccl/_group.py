"""`NCCLGroup`: opens or joins a process group, and checks it."""

from __future__ import annotations

import importlib
import logging
import re
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Self, get_args

from llamatelemetry._optional import required_by
from llamatelemetry.nccl._collectives import (
    CollectiveError,
    CollectiveResults,
    CpuRunner,
    CudaRunner,
    all_reduce_results,
    time_all_reduce,
)
from llamatelemetry.nccl._recording import describe_on_resource, record_failure, record_results
from llamatelemetry.nccl._rendezvous import (
    START_ADVICE,
    Agreement,
    RankAssignment,
    decide_backend,
    find_rank_assignment,
    launch_variables,
    make_offer,
    open_group,
    rendezvous,
)

if TYPE_CHECKING:
    from collections.abc import Generator

_logger = logging.getLogger("llamatelemetry.nccl")

Backend = Literal["nccl", "gloo"]

_DEFAULT_SIZE_BYTES: Final = {"nccl": 64 * 2**20, "gloo": 4 * 2**20}
_CHECK_ADVICE: Final = (
    ". A rank has died, or does not call check(): see the output of the other ranks. This group "
    "cannot be used any more"
)
_NOISE: Final = re.compile(r"^\[[^]]*\] | This is typically caused by .*")
# NCCL's timeout ends the whole process, so it must come after the deadline of `check`.
_GRACE_S: Final = 30.0


class NCCLGroup:
    """A group of processes with one GPU each, and a check of the speed between them.

    Under torchrun no argument is needed. Processes that you start yourself need `world_size`, a `rank`
    each, and the variables `MASTER_ADDR` and `MASTER_PORT`.

    Args:
        world_size: Number of processes; by default that of the open group, `WORLD_SIZE`, or 1.
        backend: `"nccl"`, or `"gloo"` on CPUs.
        rank: Rank of this process; by default that of the open group, or `RANK`.
        timeout_s: Time to wait for the other ranks, in `init_process_group` and in `check`.
        fallback: `"gloo"` to use it on all ranks if a rank has no NCCL or no GPU; `fallback_reason` then
            states why. With `None` that is an error.

    Raises:
        ValueError: An option is invalid, or there are several ranks and that of this process is unknown.

    Examples:
        >>> from llamatelemetry.nccl import NCCLGroup
        >>> with NCCLGroup(world_size=1, backend="gloo") as group:
        ...     results = group.check(size_bytes=1024, iterations=2)
        >>> results.operation, results.world_size, results.busbw
        ('all_reduce', 1, None)
        >>> results.to_dict()["size_bytes"]
        1024
        >>> group = NCCLGroup(world_size=1, backend="gloo").init_process_group()
        >>> group.close()
        >>> NCCLGroup(world_size=2)
        Traceback (most recent call last):
        ValueError: rank must be set for world_size=2. Pass each process its rank, ...
    """

    def __init__(
        self,
        world_size: int | None = None,
        backend: Backend = "nccl",
        *,
        rank: int | None = None,
        timeout_s: float = 60,
        fallback: Literal["gloo"] | None = None,
    ) -> None:
        if backend not in get_args(Backend):
            raise ValueError(f"backend must be 'nccl' or 'gloo', got {backend!r}")
        if fallback not in {None, "gloo"}:
            raise ValueError(f"fallback must be 'gloo' or None, got {fallback!r}")
        if timeout_s <= 0:
            raise ValueError(f"timeout_s must be greater than 0, got {timeout_s}")
        self._requested, self._fallback, self._timeout_s = backend, fallback, timeout_s
        self._explicit = world_size, rank
        self._assignment = find_rank_assignment(*self._explicit, launch_variables(), open_group())
        self._agreement = Agreement(backend)
        self._is_open = self._owns = self._failed = False

    def __enter__(self) -> Self:
        return self.init_process_group()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def rank(self) -> int:
        """Rank of this process, from 0."""
        return self._assignment.rank

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self._assignment.world_size

    @property
    def backend(self) -> str:
        """Backend of the collectives: the actual one once the group is open."""
        return self._agreement.backend

    @property
    def fallback_reason(self) -> str | None:
        """Why the backend is not the requested one; `None` if it is."""
        return self._agreement.fallback_reason

    @property
    def owns_group(self) -> bool:
        """Whether `close` ends the process group. A group that the application opened is not ended."""
        return self._owns

    def init_process_group(self) -> Self:
        """Open the group, or join the one that the application has opened. Further calls do nothing.

        On GPUs, the current CUDA device becomes that of `LOCAL_RANK`.

        Raises:
            CollectiveError: A rank did not join in time, or cannot use the backend.
            ImportError: torch is not installed.
            ValueError: The open group differs, or the address of the rendezvous is unknown.
        """
        if self._is_open:
            return self
        torch = _torch()
        if torch.distributed.is_initialized():
            self._join(torch)
        else:
            self._open(torch)
        self._is_open, self._failed = True, False
        if self.fallback_reason:
            text = "Using backend %s instead of %s: %s"
            _logger.warning(text, self.backend, self._requested, self.fallback_reason)
        describe_on_resource(self.rank, self.world_size, self.backend)
        return self

    def check(
        self, *, size_bytes: int | None = None, iterations: int = 20, warmup: int = 5
    ) -> CollectiveResults:
        """Time an all-reduce. Every rank must call this with the same arguments.

        Args:
            size_bytes: Size of each rank's input; 64 MiB on GPUs and 4 MiB on CPUs by default.
            iterations: Number of timed operations.
            warmup: Number of untimed operations before them.

        Raises:
            CollectiveError: A rank died or did not join in time. The group cannot be used any more.
            RuntimeError: The group is not open.
            ValueError: An argument is invalid.
        """
        if not self._is_open:
            raise RuntimeError("The group is not open. Call init_process_group(), or use `with`")
        size_bytes = _DEFAULT_SIZE_BYTES[self.backend] if size_bytes is None else size_bytes
        if size_bytes < 4 or size_bytes % 4:
            raise ValueError(
                f"size_bytes must be a multiple of 4, the size of a float, got {size_bytes}"
            )
        if iterations < 1 or warmup < 0:
            raise ValueError(
                f"iterations must be 1 or more and warmup 0 or more, got {iterations} and {warmup}"
            )
        torch, started_s = _torch(), time.monotonic()
        try:
            with self._as_collective_error("the all-reduce failed", _CHECK_ADVICE):
                times_s = self._time_all_reduce(torch, size_bytes, iterations, warmup)
        except CollectiveError as error:
            self._failed = True
            after_s = time.monotonic() - started_s
            cause = error.__cause__ or error
            record_failure(self.backend, self.world_size, size_bytes, after_s, cause)
            raise
        results = all_reduce_results(
            self.backend,
            self.world_size,
            size_bytes,
            iterations=iterations,
            times_s=times_s,
            fallback_reason=self.fallback_reason,
        )
        # The SDK may have been set up after the group was opened.
        describe_on_resource(self.rank, self.world_size, self.backend)
        if self.rank == 0:
            record_results(results)
        return results

    def close(self) -> None:
        """End the group if this object has opened it. Further calls do nothing. Never raises."""
        was_open, self._is_open = self._is_open, False
        if not (was_open and self._owns):
            return
        self._owns = False
        dist = open_group()
        if dist is None:
            return
        try:
            # With NCCL, an ordinary shutdown would wait for operations that never finish.
            abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
            if self._failed and self.backend == "nccl" and abort is not None:
                abort()
            else:
                dist.destroy_process_group()
        except Exception as error:
            _logger.warning("Cannot end the process group cleanly: %s", _first_sentence(error))

    def _join(self, torch: Any) -> None:
        dist = torch.distributed
        self._assignment = find_rank_assignment(*self._explicit, launch_variables(), dist)
        # Such as "cpu:gloo,cuda:nccl", which is also that of a group opened without a backend.
        # `get_backend` would return "undefined" for it.
        used = re.split("[:,]", dist.get_backend_config())
        chosen = next((each for each in (self._requested, self._fallback) if each in used), None)
        if chosen is None:
            raise ValueError(
                f"backend must be that of the open process group, {dist.get_backend_config()}, got "
                f"{self._requested}. For gloo, pass backend='gloo'"
            )
        instead = f"the open process group uses {chosen}" if chosen != self._requested else None
        self._agreement = Agreement(chosen, instead)

    def _open(self, torch: Any) -> None:
        dist, assignment = torch.distributed, self._assignment
        with self._as_collective_error("not all ranks joined", f". {START_ADVICE}"):
            offer = make_offer(torch, self._requested, self._fallback, assignment.local_rank)
            store, offers = rendezvous(dist, assignment, offer, self._timeout_s)
            self._agreement = decide_backend(offers)
            device, timeout_s = None, self._timeout_s
            if self.backend == "nccl":
                device, timeout_s = _device(torch, assignment), timeout_s + _GRACE_S
                torch.cuda.set_device(device)
            dist.init_process_group(
                self.backend,
                store=store,
                rank=assignment.rank,
                world_size=assignment.world_size,
                timeout=timedelta(seconds=timeout_s),
                device_id=device,
            )
        self._owns = True

    def _time_all_reduce(
        self, torch: Any, size_bytes: int, iterations: int, warmup: int
    ) -> tuple[float, float]:
        deadline_s = time.monotonic() + self._timeout_s
        runner_of = CudaRunner if self.backend == "nccl" else CpuRunner
        return time_all_reduce(torch, runner_of(torch, deadline_s), size_bytes, iterations, warmup)

    @contextmanager
    def _as_collective_error(self, what: str, advice: str) -> Generator[None]:
        """Convert an exception of torch to a `CollectiveError` with rank, cause and time."""
        started_s, own = time.monotonic(), self._assignment
        try:
            yield
        except RuntimeError as error:
            where = f" at {own.address}" if own.address and own.world_size > 1 else ""
            waited_s = time.monotonic() - started_s
            raise CollectiveError(
                f"rank {own.rank} of {own.world_size}{where}, after {waited_s:.1f} s "
                f"(timeout_s={self._timeout_s:g}): {what}: {_first_sentence(error)}"
                # A CollectiveError already states a remedy.
                f"{'' if isinstance(error, CollectiveError) else advice}"
            ) from error


def _torch() -> Any:
    with required_by("NCCLGroup", "torch"):
        torch: Any = importlib.import_module("torch")
        importlib.import_module("torch.distributed")
    if not torch.distributed.is_available():
        raise CollectiveError(f"torch {torch.__version__} is built without torch.distributed")
    return torch


def _device(torch: Any, assignment: RankAssignment) -> Any:
    local_rank = assignment.local_rank
    if local_rank is None:
        local_rank = assignment.rank % torch.cuda.device_count()
    return torch.device("cuda", local_rank)


def _first_sentence(error: BaseException) -> str:
    """Return the relevant sentence of a message of torch, without file names and C++ frames."""
    line = str(error).strip().partition("\n")[0]
    return _NOISE.sub("", line).rstrip(".! ") or type(error).__name__
