"""Run a function in several processes, one per rank, and collect the results.

The processes are forked from a server that has imported torch, because the import takes seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "torch.distributed", "llamatelemetry.nccl"])


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def run_ranks(
    work: Callable[..., Any], *, ranks: int | list[int] = 2, wait_s: float = 60, **environment: str
) -> dict[int, Any]:
    """Return the result of `work(rank)` in each process, or the exception it raised, by rank.

    Args:
        work: Function of a module. A rank whose process exits early has no result.
        ranks: Number of ranks, or the ranks to start.
        wait_s: Time limit in seconds.
        environment: Environment variables of all processes.
    """
    results: Any = _context.Queue()
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    numbers = list(range(ranks)) if isinstance(ranks, int) else ranks
    processes = [
        _context.Process(
            target=_run, args=(work, rank, rendezvous | environment, results), daemon=True
        )
        for rank in numbers
    ]
    for process in processes:
        process.start()
    until_s = time.monotonic() + wait_s
    found: dict[int, Any] = {}
    while len(found) < len(processes):
        try:
            rank, result = results.get(timeout=0.1)
            found[rank] = result
        except queue.Empty:
            if not any(process.is_alive() for process in processes):
                break
        assert time.monotonic() < until_s, f"not finished in time; finished ranks: {found}"
    for process in processes:
        process.join(10)
        assert not process.is_alive(), "a rank did not exit"
    return found


def _run(work: Callable[..., Any], rank: int, environment: dict[str, str], results: Any) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        os.environ.pop(name, None)
    os.environ.update(environment)
    try:
        result = work(rank)
    except BaseException as error:
        # The failures of pytest are not subclasses of Exception.
        error.add_note(traceback.format_exc())
        error.__cause__ = error.__context__ = None
        result = error
    results.put((rank, result))
    results.close()
    results.join_thread()
