"""Which rank of how many this process is: from arguments, a group that is open, or torchrun."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process stands.

    Attributes:
        rank: from 0.
        world_size: how many there are.
        local_rank: among those of this machine; None when nothing tells.
        address: where rank 0 can be met, as ``host:port``; None when nothing tells.
    """

    rank: int
    world_size: int
    local_rank: int | None = None
    address: str | None = None


def launch_variables() -> dict[str, str]:
    """Those of torchrun's variables that are set."""
    return {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}


def open_group() -> Any | None:
    """``torch.distributed`` when the application has a process group open; never imports torch."""
    dist: Any = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return dist
    return None


def find_place(
    world_size: int | None, rank: int | None, variables: Mapping[str, str], dist: Any | None
) -> Place:
    """Say where this process stands; arguments win over an open group, that over variables.

    Raises:
        ValueError: something is missing or does not fit, which would end in a hang later.
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
        raise ValueError(f"world_size={world_size}: there is at least one rank")
    if rank is None and world_size > 1:
        raise ValueError(
            f"world_size={world_size}, but which rank is this process? Give each its own rank, "
            f"0 to {world_size - 1}, as an argument or in the variable RANK, or start the program "
            f"with `torchrun --nproc-per-node {world_size}`"
        )
    rank = rank or 0
    if not 0 <= rank < world_size:
        raise ValueError(
            f"rank={rank} is not one of 0 to {world_size - 1} (world_size={world_size})"
        )
    return Place(rank, world_size, _number(variables, "LOCAL_RANK"), _address(variables))


def _agreeing(name: str, given: int | None, actual: int) -> int:
    if given not in {None, actual}:
        raise ValueError(f"{name}={given}, but the process group that is open has {actual}")
    return actual


def _number(variables: Mapping[str, str], name: str) -> int | None:
    text = variables.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"the variable {name}={text!r} is not a number") from None


def _address(variables: Mapping[str, str]) -> str | None:
    host, port = variables.get("MASTER_ADDR"), _number(variables, "MASTER_PORT")
    return None if host is None or port is None else f"{host}:{port}"
