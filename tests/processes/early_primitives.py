"""Print the locks, queues, events and threads that llamatelemetry has after a set-up."""

from __future__ import annotations

import contextlib
import gc
import importlib
import queue
import sys
import threading
from collections.abc import Iterator


def early_primitives() -> list[str]:
    """Return the primitives of llamatelemetry's objects, classes and modules after a set-up."""
    import llamatelemetry

    llamatelemetry.init("shop", exporter="none", enable_trace_graphs=True, sampling="only_slow")
    importlib.import_module("openai")
    kinds = (
        *(type(threading.Lock()), type(threading.RLock()), threading.Event, threading.Condition),
        *(threading.Semaphore, threading.Thread, threading.local, queue.Queue, queue.SimpleQueue),
    )
    holders: dict[str, list[object]] = {}
    for item in gc.get_objects():
        kind = type(item)
        if str(kind.__module__).startswith("llamatelemetry"):
            holders.setdefault(kind.__name__, []).append(item)
    for name, module in list(sys.modules.items()):
        if name.startswith("llamatelemetry"):
            holders[name] = [module]
            for kind in vars(module).values():
                if isinstance(kind, type) and kind.__module__ == name:
                    holders.setdefault(kind.__name__, []).append(kind)
    return sorted(
        {
            f"{name}.{attribute}"
            for name, found in holders.items()
            for holder in found
            for attribute, value in members(holder)
            if isinstance(value, kinds)
        }
    )


def members(holder: object) -> Iterator[tuple[str, object]]:
    yield from list(getattr(holder, "__dict__", {}).items())
    for base in type(holder).__mro__:
        for name in getattr(base, "__slots__", ()):
            with contextlib.suppress(AttributeError):
                yield name, getattr(holder, name)


if __name__ == "__main__":
    sys.stdout.write("\n".join(early_primitives()))
