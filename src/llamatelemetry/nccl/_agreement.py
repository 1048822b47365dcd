"""Before ranks open a group they agree on its backend, through the store where they meet.

Were each to decide for itself, a rank without a GPU would open a gloo group and wait for the
others, and those would wait for it in an NCCL group.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ._results import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Offer:
    """What one rank wants, and can.

    Attributes:
        backend: wanted.
        fallback: taken instead where a rank cannot.
        problem: why this rank cannot; None when it can.
        host: where it runs.
    """

    backend: str
    fallback: str | None
    problem: str | None
    host: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What all ranks do.

    Attributes:
        backend: for all of them.
        fallback_reason: why it is not the one that was wanted.
    """

    backend: str
    fallback_reason: str | None = None


def exchange(store: Any, rank: int, world_size: int, offer: Offer, timeout_s: float) -> list[Offer]:
    """Give the offers of all ranks, in their order.

    Raises:
        CollectiveError: a rank did not come in time.
    """
    timeout = timedelta(seconds=timeout_s)
    store.set(f"offer/{rank}", json.dumps(asdict(offer)))
    offers = list[Offer]()
    for each in range(world_size):
        _wait(store, f"offer/{each}", timeout, f"rank {each} of {world_size} did not come")
        offers.append(Offer(**json.loads(store.get(f"offer/{each}"))))
    store.set(f"read/{rank}", "")
    if rank == 0:  # in whose process the store may be, which must not end before all have read
        for each in range(world_size):
            _wait(store, f"read/{each}", timeout, f"rank {each} of {world_size} has gone")
    return offers


def _wait(store: Any, key: str, timeout: timedelta, what: str) -> None:
    try:
        store.wait([key], timeout)
    except RuntimeError as error:
        raise CollectiveError(
            f"{what} within {timeout.total_seconds():g} s. Every rank has to be started, with the "
            "same WORLD_SIZE, MASTER_ADDR and MASTER_PORT and a RANK of its own"
        ) from error


def agree(offers: Sequence[Offer]) -> Agreement:
    """Decide as every other rank does.

    Raises:
        CollectiveError: they do not want the same, or cannot and have no fallback.
    """
    if len({(offer.backend, offer.fallback) for offer in offers}) > 1:
        wanted = ", ".join(
            f"rank {rank} backend={offer.backend!r} fallback={offer.fallback!r}"
            for rank, offer in enumerate(offers)
        )
        raise CollectiveError(f"the ranks do not want the same: {wanted}")
    backend, fallback = offers[0].backend, offers[0].fallback
    problems = [
        f"rank {rank} on {offer.host}: {offer.problem}"
        for rank, offer in enumerate(offers)
        if offer.problem
    ]
    if not problems:
        return Agreement(backend)
    reason = "; ".join(problems)
    if fallback is None:
        raise CollectiveError(
            f"{backend} cannot be used ({reason}). It needs an NVIDIA GPU for each rank and a "
            "PyTorch with CUDA; NCCLGroup(fallback='gloo') goes over the CPUs instead and says so"
        )
    return Agreement(fallback, reason)


def offer_of(torch: Any, backend: str, fallback: str | None, local_rank: int | None) -> Offer:
    """Say what this rank wants and can."""
    problem = _why_no_nccl(torch, local_rank) if backend == "nccl" else None
    return Offer(backend, fallback, problem, socket.gethostname())


def _why_no_nccl(torch: Any, local_rank: int | None) -> str | None:
    if not torch.distributed.is_nccl_available():
        return f"torch {torch.__version__} is built without NCCL"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    count = torch.cuda.device_count()
    if local_rank is not None and local_rank >= count:
        return f"LOCAL_RANK={local_rank}, but torch sees {count} CUDA device(s)"
    return None
