"""`NCCLGroup`: opens a process group, or joins the one that is open, and checks it."""

from __future__ import annotations

import importlib
import itertools
import logging
import re
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Self, get_args

from llamatelemetry._optional import required_by

from ._agreement import Agreement, Offer, agree, exchange, offer_of
from ._launch import Place, find_place, launch_variables, open_group
from ._recording import describe_on_resource, record_failure, record_results
from ._results import CollectiveError, CollectiveResults, all_reduce_results
from ._timing import CpuRunner, CudaRunner, timed_all_reduce

if TYPE_CHECKING:
    from collections.abc import Generator

_logger = logging.getLogger("llamatelemetry.nccl")

Backend = Literal["nccl", "gloo"]

_DEFAULT_SIZE_BYTES: Final = {"nccl": 64 * 2**20, "gloo": 4 * 2**20}
_ABOUT_START: Final = (
    ". Every rank has to be started, with the same WORLD_SIZE, MASTER_ADDR and MASTER_PORT and a "
    "RANK of its own"
)
_ABOUT_CHECK: Final = (
    ". A rank has died, or does not call check(): look at what the others say. This group is of no "
    "more use"
)
_NOISE: Final = re.compile(r"^\[[^]]*\] | This is typically caused by .*")
# So that our own deadline comes first: NCCL's ends the whole process.
_GRACE_S: Final = 30.0
_PAUSE_S: Final = 0.05
# The keys of a store that outlives a group, as torchrun's does, must not be found by the next.
_numbers = itertools.count()


class NCCLGroup:
    """A group of processes with a GPU each, and a check of how fast they reach each other.

    Under torchrun nothing needs to be given. Processes that you start yourself need
    ``world_size``, a ``rank`` each, and the variables ``MASTER_ADDR`` and ``MASTER_PORT``.

    It is a probe for what runs on ``torch.distributed``. llama.cpp does not: it copies between
    its GPUs by itself.

    Args:
        world_size: how many processes; else that of the open group, ``WORLD_SIZE``, or 1.
        backend: ``"nccl"``, or ``"gloo"`` over the CPUs.
        rank: which of them this is; else that of the open group, or ``RANK``.
        timeout_s: how long to wait for the other ranks, in `init_process_group` and in `check`.
        fallback: ``"gloo"`` for that where a rank has no NCCL or no GPU; all ranks then use it,
            and `fallback_reason` says why. None: that is an error.

    Raises:
        ValueError: an option does not fit, or there are several ranks and this one's is not known.
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
            raise ValueError(f"backend={backend!r}: give 'nccl' or 'gloo'")
        if fallback not in {None, "gloo"}:
            raise ValueError(f"fallback={fallback!r}: give 'gloo' or None")
        if timeout_s <= 0:
            raise ValueError(f"timeout_s={timeout_s}: give seconds above 0")
        self._wanted, self._fallback, self._timeout_s = backend, fallback, timeout_s
        self._given = world_size, rank
        self._place = find_place(*self._given, launch_variables(), open_group())
        self._agreed = Agreement(backend)
        self._is_open = self._owns = self._failed = False

    def __enter__(self) -> Self:
        return self.init_process_group()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def rank(self) -> int:
        """Which of the processes this is, from 0."""
        return self._place.rank

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return self._place.world_size

    @property
    def backend(self) -> str:
        """What carries the collectives: once the group is open, what really does."""
        return self._agreed.backend

    @property
    def fallback_reason(self) -> str | None:
        """Why it is not the backend that was asked for; None when it is."""
        return self._agreed.fallback_reason

    @property
    def owns_group(self) -> bool:
        """Whether `close` ends the process group: not one that the application has opened."""
        return self._owns

    def init_process_group(self) -> Self:
        """Open the group, or join the one that the application has opened. Again: nothing happens.

        On GPUs the current CUDA device becomes that of ``LOCAL_RANK``.

        Raises:
            CollectiveError: a rank did not come in time, or cannot use the backend.
            ImportError: torch is not installed.
            ValueError: the open group is another one, or nothing says where the ranks meet.
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
            _logger.warning(
                "%s instead of %s: %s", self.backend, self._wanted, self.fallback_reason
            )
        describe_on_resource(self.rank, self.world_size, self.backend)
        return self

    def check(
        self, *, size_bytes: int | None = None, iterations: int = 20, warmup: int = 5
    ) -> CollectiveResults:
        """Time an all-reduce. Every rank of the group has to call it, with the same arguments.

        Args:
            size_bytes: of what each rank puts in; 64 MiB on GPUs, 4 MiB on CPUs by default.
            iterations: how many are timed together.
            warmup: how many go before.

        Raises:
            CollectiveError: a rank died, or did not come in time; the group is of no more use.
            RuntimeError: the group is not open.
            ValueError: an argument does not fit.
        """
        if not self._is_open:
            raise RuntimeError("the group is not open: call init_process_group(), or use `with`")
        size_bytes = _DEFAULT_SIZE_BYTES[self.backend] if size_bytes is None else size_bytes
        if size_bytes < 4 or size_bytes % 4:
            raise ValueError(f"size_bytes={size_bytes}: give a multiple of 4, the size of a float")
        if iterations < 1 or warmup < 0:
            raise ValueError(f"iterations={iterations}, warmup={warmup}: give 1 or more, 0 or more")
        torch, began_s = _torch(), time.monotonic()
        try:
            with self._explained("the all-reduce failed", _ABOUT_CHECK):
                times_s = self._timed(torch, size_bytes, iterations, warmup)
        except CollectiveError as error:
            self._failed = True
            after_s = time.monotonic() - began_s
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
        describe_on_resource(self.rank, self.world_size, self.backend)  # of an SDK set up since
        if self.rank == 0:
            record_results(results)
        return results

    def close(self) -> None:
        """End the group if this object has opened it. Again: nothing happens. Never raises."""
        was_open, self._is_open = self._is_open, False
        if not (was_open and self._owns):
            return
        self._owns = False
        dist = open_group()
        if dist is None:
            return
        try:
            # With NCCL the ordinary way waits for what will never be done.
            abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
            if self._failed and self.backend == "nccl" and abort is not None:
                abort()
            else:
                dist.destroy_process_group()
        except Exception as error:
            _logger.warning("The process group did not end cleanly: %s", _brief(error))

    # ---------------------------------------------------------------- opening
    def _join(self, torch: Any) -> None:
        dist = torch.distributed
        self._place = find_place(*self._given, launch_variables(), dist)
        # "cpu:gloo,cuda:nccl", also where it was opened without a name: that is "undefined".
        used = re.split("[:,]", dist.get_backend_config())
        chosen = next((each for each in (self._wanted, self._fallback) if each in used), None)
        if chosen is None:
            raise ValueError(
                f"the process group that is open uses {dist.get_backend_config()}, not "
                f"{self._wanted}; for gloo, give backend='gloo'"
            )
        instead = f"the open process group uses {chosen}" if chosen != self._wanted else None
        self._agreed = Agreement(chosen, instead)

    def _open(self, torch: Any) -> None:
        dist, place = torch.distributed, self._place
        with self._explained("the ranks did not come together", _ABOUT_START):
            offer = offer_of(torch, self._wanted, self._fallback, place.local_rank)
            store, offers = self._meet(dist, offer)
            self._agreed = agree(offers)
            device, timeout_s = None, self._timeout_s
            if self.backend == "nccl":
                device, timeout_s = _device(torch, place), timeout_s + _GRACE_S
                torch.cuda.set_device(device)
            dist.init_process_group(
                self.backend,
                store=store,
                rank=place.rank,
                world_size=place.world_size,
                timeout=timedelta(seconds=timeout_s),
                device_id=device,
            )
        self._owns = True

    def _meet(self, dist: Any, offer: Offer) -> tuple[Any, list[Offer]]:
        """Give the store where the ranks have met, and what they offer.

        A rank that is through with an earlier group sooner than rank 0 still finds the store of that
        one there, which rank 0 then closes: it comes again, to the one that follows.
        """
        place, until_s = self._place, time.monotonic() + self._timeout_s
        name = f"llamatelemetry/{next(_numbers)}"
        while True:
            left_s = max(0.001, until_s - time.monotonic())
            try:
                store = dist.PrefixStore(name, self._store(dist, left_s))
                return store, exchange(store, place.rank, place.world_size, offer, left_s)
            except RuntimeError as error:
                kinds = {type(error).__name__, type(error.__cause__).__name__}
                if (
                    "DistNetworkError" not in kinds
                    or place.rank == 0
                    or time.monotonic() + _PAUSE_S > until_s
                ):
                    raise
                time.sleep(_PAUSE_S)

    def _store(self, dist: Any, timeout_s: float) -> Any:
        place = self._place
        if place.world_size == 1:
            return dist.HashStore()
        if place.address is None:
            raise ValueError(
                "where do the ranks meet? Set MASTER_ADDR and MASTER_PORT to the host of rank 0 and "
                "a free port there, the same for all, or start the program with torchrun"
            )
        timeout = timedelta(seconds=timeout_s)
        # It knows torchrun's own store, and who has to start one otherwise.
        rendezvous = dist.rendezvous("env://", place.rank, place.world_size, timeout=timeout)
        store, _, _ = next(rendezvous)
        store.set_timeout(timeout)
        return store

    # ---------------------------------------------------------------- checking
    def _timed(
        self, torch: Any, size_bytes: int, iterations: int, warmup: int
    ) -> tuple[float, float]:
        deadline_s = time.monotonic() + self._timeout_s
        runner_of = CudaRunner if self.backend == "nccl" else CpuRunner
        return timed_all_reduce(torch, runner_of(torch, deadline_s), size_bytes, iterations, warmup)

    @contextmanager
    def _explained(self, what: str, advice: str) -> Generator[None]:
        """Turn what torch raises into a `CollectiveError` that says who, what and how long."""
        began_s, place = time.monotonic(), self._place
        try:
            yield
        except RuntimeError as error:
            where = f" at {place.address}" if place.address and place.world_size > 1 else ""
            waited_s = time.monotonic() - began_s
            raise CollectiveError(
                f"rank {place.rank} of {place.world_size}{where}, after {waited_s:.1f} s "
                f"(timeout_s={self._timeout_s:g}): {what}: {_brief(error)}"
                # Ours say by themselves what to do.
                f"{'' if isinstance(error, CollectiveError) else advice}"
            ) from error


def _torch() -> Any:
    with required_by("NCCLGroup", "torch"):
        torch: Any = importlib.import_module("torch")
        importlib.import_module("torch.distributed")
    if not torch.distributed.is_available():
        raise CollectiveError(f"torch {torch.__version__} is built without torch.distributed")
    return torch


def _device(torch: Any, place: Place) -> Any:
    local_rank = place.local_rank
    if local_rank is None:
        local_rank = place.rank % torch.cuda.device_count()
    return torch.device("cuda", local_rank)


def _brief(error: BaseException) -> str:
    """The sentence that matters of one of torch's messages, without files and C++ frames."""
    line = str(error).strip().partition("\n")[0]
    return _NOISE.sub("", line).rstrip(".! ") or type(error).__name__
