"""Rank and world size of this process: from arguments, an open group, or torchrun."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class RankAssignment:
    """Position of this process in the job.

    Attributes:
        rank: Rank, from 0.
        world_size: Number of ranks.
        local_rank: Rank among the processes of this machine; `None` if unknown.
        address: Address of rank 0, `host:port`; `None` if unknown.
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
        world_size = _agreeing("world_size", world_size, dist.get_world_size())
        rank = _agreeing("rank", rank, dist.get_rank())
    if world_size is None:
        world_size = _number(variables, "WORLD_SIZE")
    if world_size is None:
        world_size = 1
    if rank is None:
        rank = _number(variables, "RANK")
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
    return RankAssignment(rank, world_size, _number(variables, "LOCAL_RANK"), _address(variables))


def _agreeing(name: str, given: int | None, actual: int) -> int:
    if given not in {None, actual}:
        raise ValueError(f"{name} must be that of the open process group, {actual}, got {given}")
    return actual


def _number(variables: Mapping[str, str], name: str) -> int | None:
    text = variables.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None


def _address(variables: Mapping[str, str]) -> str | None:
    host, port = variables.get("MASTER_ADDR"), _number(variables, "MASTER_PORT")
    return None if host is None or port is None else f"{host}:{port}"
