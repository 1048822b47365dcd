"""Agreement of all ranks on a backend, through their store, before they open a group.

If each rank decided alone, a rank without a GPU would wait in a gloo group, and the others in an NCCL
group.
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
    """Requested backend of one rank, and whether it can use it.

    Attributes:
        backend: Requested backend.
        fallback: Backend to use if a rank cannot use the requested one.
        problem: Why this rank cannot use it; `None` if it can.
        host: Host of the rank.
    """

    backend: str
    fallback: str | None
    problem: str | None
    host: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Decision of all ranks.

    Attributes:
        backend: Backend of all ranks.
        fallback_reason: Why it is not the requested one; `None` if it is.
    """

    backend: str
    fallback_reason: str | None = None


def exchange(store: Any, rank: int, world_size: int, offer: Offer, timeout_s: float) -> list[Offer]:
    """Return the offers of all ranks, in their order.

    Raises:
        CollectiveError: A rank did not join in time.
    """
    timeout = timedelta(seconds=timeout_s)
    store.set(f"offer/{rank}", json.dumps(asdict(offer)))
    offers = list[Offer]()
    for each in range(world_size):
        _wait(store, f"offer/{each}", timeout, f"rank {each} of {world_size} did not come")
        offers.append(Offer(**json.loads(store.get(f"offer/{each}"))))
    store.set(f"read/{rank}", "")
    if (
        rank == 0
    ):  # Its process may host the store, and must not exit before all ranks have read it.
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
    """Return the decision, which is the same on every rank.

    Raises:
        CollectiveError: The requests differ, or a rank cannot use the backend and there is no fallback.
    """
    if len({(offer.backend, offer.fallback) for offer in offers}) > 1:
        wanted = ", ".join(
            f"rank {rank} backend={offer.backend!r} fallback={offer.fallback!r}"
            for rank, offer in enumerate(offers)
        )
        raise CollectiveError(f"backend must be the same on all ranks, got {wanted}")
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
    """Return the offer of this rank."""
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
