"""The streams that are open, so that their calls can be ended when the program ends."""

from __future__ import annotations

import os
from typing import Final
from weakref import WeakValueDictionary

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.streams.abandoned_calls import Finalizable

# Weak, because a stream that the application drops must be found by the garbage collector.
_open: Final[WeakValueDictionary[int, Finalizable]] = WeakValueDictionary()

if hasattr(os, "register_at_fork"):
    # The parent ends its own streams.
    os.register_at_fork(after_in_child=_open.clear)


def add(stream: Finalizable) -> None:
    """Add a stream that has started."""
    _open[id(stream)] = stream


def remove(stream: Finalizable) -> None:
    """Remove a stream that has ended."""
    _open.pop(id(stream), None)


def end_all() -> None:
    """End the call of each open stream with what has arrived, inner calls first."""
    # Other threads may add streams: `valuerefs` copies at once, while `values` iterates.
    for reference in reversed(_open.valuerefs()):
        stream = reference()
        try:
            if stream is not None:
                stream.finalize()
        except Exception as error:
            internal_errors.log_once("ending an open stream", error)
