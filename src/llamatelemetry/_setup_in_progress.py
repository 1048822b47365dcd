"""Set-ups and imports in other threads: a fork waits until they are done.

A child that is forked in the middle of a set-up would have half of it. Its own `init()`, or even
its next import, would wait for locks of a thread that the child does not have.

Handlers for "before" a fork run in reverse order. Those of `logging` and `concurrent.futures.thread`
take locks that a set-up needs, so these modules are imported first, and the wait comes before them.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 # pyright: ignore[reportUnusedImport]
import logging  # noqa: F401 # pyright: ignore[reportUnusedImport]
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

# A set-up takes less time. A fork does not wait longer for one that hangs.
_FORK_WAITS_S: Final = 10.0
_POLL_S: Final = 0.001

_threads: Final[list[int]] = []
"""One entry for each set-up or import: the thread. Appending and removing are atomic."""


@contextmanager
def setup_in_progress() -> Generator[None]:
    """Let the forks of other threads wait for the end of the block."""
    thread = threading.get_ident()
    _threads.append(thread)
    try:
        yield
    finally:
        _threads.remove(thread)


def wait_for_setup() -> None:
    """Wait for the set-ups of other threads. For handlers that run before a fork and take locks."""
    own = threading.get_ident()
    deadline_s = time.monotonic() + _FORK_WAITS_S
    while any(thread != own for thread in tuple(_threads)) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)


def _forget_other_threads() -> None:
    own = threading.get_ident()
    _threads[:] = [thread for thread in _threads if thread == own]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=wait_for_setup, after_in_child=_forget_other_threads)
