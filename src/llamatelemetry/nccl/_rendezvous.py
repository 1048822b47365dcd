"""The start of a process group: the rank of this process, and one backend for all ranks.

The ranks agree on a backend through their store, before they open a group. If each rank decided
alone, a rank without a GPU would wait in a gloo group, and the others in an NCCL group.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.nccl._collectives import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

START_ADVICE: Final = (
    "Start every rank with the same WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and with its own RANK"
)
_PAUSE_S: Final = 0.05
# A store such as torchrun's outlives a group. The next group must not find its keys.
_group_numbers = itertools.count()
_VARIABLES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class RankAssignment:
    """Position of this process in the job.

    `local_rank` is the rank on this machine. `address` is that of rank 0, as `host:port`.
    """

    rank: int
    world_size: int
    local_rank: int | None = None
    address: str | None = None


def launch_variables() -> dict[str, str]:
    """Return the variables of torchrun that are set."""
    return {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}


def open_group() -> Any | None:
    """Return `torch.distributed` if the application has opened a process group. Never imports torch."""
    dist: Any = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return dist
    return None


def find_rank_assignment(
    world_size: int | None, rank: int | None, variables: Mapping[str, str], dist: Any | None
) -> RankAssignment:
    """Return the position of this process. Arguments override an open group, which overrides variables.

    Raises:
        ValueError: A value is missing or inconsistent, which would cause a hang later.
    """
    if dist is not None:
        world_size = _require_same("world_size", world_size, dist.get_world_size())
        rank = _require_same("rank", rank, dist.get_rank())
    if world_size is None:
        found = _int_variable(variables, "WORLD_SIZE")
        world_size = 1 if found is None else found
    if rank is None:
        rank = _int_variable(variables, "RANK")
    if world_size < 1:
        raise ValueError(f"world_size must be 1 or more, got {world_size}")
    if rank is None and world_size > 1:
        raise ValueError(
            f"rank must be set for world_size={world_size}. Pass each process its rank, "
            f"0 to {world_size - 1}, as an argument or in the variable RANK, or start the program "
            f"with `torchrun --nproc-per-node {world_size}`"
        )
    rank = rank or 0
    if not 0 <= rank < world_size:
        raise ValueError(
            f"rank must be 0 to {world_size - 1} (world_size={world_size}), got {rank}"
        )
    return RankAssignment(
        rank, world_size, _int_variable(variables, "LOCAL_RANK"), _master_address(variables)
    )


def _require_same(name: str, given: int | None, actual: int) -> int:
    if given not in {None, actual}:
        raise ValueError(f"{name} must be that of the open process group, {actual}, got {given}")
    return actual


def _int_variable(variables: Mapping[str, str], name: str) -> int | None:
    text = variables.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None


def _master_address(variables: Mapping[str, str]) -> str | None:
    host, port = variables.get("MASTER_ADDR"), _int_variable(variables, "MASTER_PORT")
    return None if host is None or port is None else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Offer:
    """Requested backend of one rank, and why the rank cannot use it, if so."""

    backend: str
    fallback: str | None
    problem: str | None
    host: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Backend of all ranks, and why it is not the requested one, if so."""

    backend: str
    fallback_reason: str | None = None


def rendezvous(
    dist: Any, assignment: RankAssignment, offer: Offer, timeout_s: float
) -> tuple[Any, list[Offer]]:
    """Join the other ranks. Return their store and their offers.

    A rank that has left an earlier group before rank 0 finds the store of that group, which rank 0
    then closes. It tries again until it finds the store of this one.

    Raises:
        CollectiveError: A rank did not join in time.
        ValueError: The address of rank 0 is unknown.
    """
    rank, world_size = assignment.rank, assignment.world_size
    until_s = time.monotonic() + timeout_s
    name = f"llamatelemetry/{next(_group_numbers)}"
    if world_size > 1 and assignment.address is not None:
        _await_host_name(assignment.address, timeout_s)
    while True:
        left_s = max(0.001, until_s - time.monotonic())
        try:
            store = dist.PrefixStore(name, _open_store(dist, assignment, left_s))
            return store, exchange_offers(store, rank, world_size, offer, left_s)
        except RuntimeError as error:
            kinds = {type(error).__name__, type(error.__cause__).__name__}
            is_late = time.monotonic() + _PAUSE_S > until_s
            if "DistNetworkError" not in kinds or rank == 0 or is_late:
                raise
            time.sleep(_PAUSE_S)


def _await_host_name(address: str, timeout_s: float) -> None:
    """Wait until the host of rank 0 has an address; in Kubernetes it gets one when its pod starts.

    torch's own time limit does not include the resolver, which can take many seconds per attempt.

    Raises:
        CollectiveError: The host name cannot be resolved in time.
    """
    host, _, port = address.rpartition(":")
    until_s = time.monotonic() + timeout_s
    problems = ["the resolver does not respond"]
    is_resolved = threading.Event()

    def resolve() -> None:
        while time.monotonic() < until_s:
            try:
                socket.getaddrinfo(host.strip("[]"), port)
            except (OSError, UnicodeError) as error:
                problems.append(str(error))
                time.sleep(_PAUSE_S)
            else:
                is_resolved.set()
                return

    # A lookup cannot be interrupted, so it runs in a thread that may outlive this call.
    threading.Thread(target=resolve, name="llamatelemetry-resolver", daemon=True).start()
    if not is_resolved.wait(timeout_s):
        raise CollectiveError(
            f"MASTER_ADDR must be a host name that can be resolved within {timeout_s:g} s, got "
            f"{host!r} ({problems[-1]}). Set it to the host of rank 0"
        )


def _open_store(dist: Any, assignment: RankAssignment, timeout_s: float) -> Any:
    if assignment.world_size == 1:
        return dist.HashStore()
    if assignment.address is None:
        raise ValueError(
            "The address of the rendezvous is unknown. Set MASTER_ADDR and MASTER_PORT to the host of "
            "rank 0 and a free port there, the same for all ranks, or start with torchrun"
        )
    timeout = timedelta(seconds=timeout_s)
    # Uses torchrun's store if there is one. Otherwise rank 0 starts a store.
    handshake = dist.rendezvous("env://", assignment.rank, assignment.world_size, timeout=timeout)
    store, _, _ = next(handshake)
    store.set_timeout(timeout)
    return store


def exchange_offers(
    store: Any, rank: int, world_size: int, offer: Offer, timeout_s: float
) -> list[Offer]:
    """Return the offers of all ranks, in their order.

    Raises:
        CollectiveError: A rank did not join in time.
    """
    timeout = timedelta(seconds=timeout_s)
    store.set(f"offer/{rank}", json.dumps(asdict(offer)))
    offers = list[Offer]()
    for each in range(world_size):
        _wait(store, f"offer/{each}", timeout, f"rank {each} of {world_size} did not join")
        offers.append(Offer(**json.loads(store.get(f"offer/{each}"))))
    store.set(f"read/{rank}", "")
    # The process of rank 0 may host the store, so it must not go on before all ranks have read it.
    if rank == 0:
        for each in range(world_size):
            _wait(store, f"read/{each}", timeout, f"rank {each} of {world_size} has exited")
    return offers


def _wait(store: Any, key: str, timeout: timedelta, what: str) -> None:
    try:
        store.wait([key], timeout)
    except RuntimeError as error:
        raise CollectiveError(
            f"{what} within {timeout.total_seconds():g} s. {START_ADVICE}"
        ) from error


def decide_backend(offers: Sequence[Offer]) -> Agreement:
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
            "PyTorch with CUDA. To use CPUs instead, pass fallback='gloo'"
        )
    return Agreement(fallback, reason)


def make_offer(torch: Any, backend: str, fallback: str | None, local_rank: int | None) -> Offer:
    """Return the offer of this rank."""
    problem = _nccl_problem(torch, local_rank) if backend == "nccl" else None
    return Offer(backend, fallback, problem, socket.gethostname())


def _nccl_problem(torch: Any, local_rank: int | None) -> str | None:
    if not torch.distributed.is_nccl_available():
        return f"torch {torch.__version__} is built without NCCL"
    if not torch.cuda.is_available():
        return "torch has no CUDA device"
    count = torch.cuda.device_count()
    if local_rank is not None and local_rank >= count:
        return f"LOCAL_RANK={local_rank}, but torch has {count} CUDA device(s)"
    return None
