"""Runs a function in several processes at once, each a rank, and gathers what each gives.

They are forked from a server that has imported torch once, which takes seconds.
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
    """What `work(rank)` returns in each process, or the exception that it raises, by rank.

    Args:
        work: a function of a module; a rank that ends without an answer gives nothing.
        ranks: how many, or which, if not all are to be there.
        wait_s: fails when they are not done by then.
        environment: variables of all of them.
    """
    answers: Any = _context.Queue()
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    numbers = list(range(ranks)) if isinstance(ranks, int) else ranks
    processes = [
        _context.Process(target=_run, args=(work, rank, where | environment, answers), daemon=True)
        for rank in numbers
    ]
    for process in processes:
        process.start()
    until_s = time.monotonic() + wait_s
    found: dict[int, Any] = {}
    while len(found) < len(processes):
        try:
            rank, answer = answers.get(timeout=0.1)
            found[rank] = answer
        except queue.Empty:
            if not any(process.is_alive() for process in processes):
                break
        assert time.monotonic() < until_s, f"it hangs; done: {found}"
    for process in processes:
        process.join(10)
        assert not process.is_alive(), "a rank does not end"
    return found


def _run(work: Callable[..., Any], rank: int, environment: dict[str, str], answers: Any) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        os.environ.pop(name, None)
    os.environ.update(environment)
    try:
        answer = work(rank)
    except BaseException as error:  # what pytest raises is none of Exception
        error.add_note(traceback.format_exc())
        error.__cause__ = error.__context__ = None
        answer = error
    answers.put((rank, answer))
    answers.close()
    answers.join_thread()
