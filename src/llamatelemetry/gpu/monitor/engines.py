"""The GPUs of this machine on which an inference engine runs, determined by its processes.

An engine is this process (`IN_PROCESS`) or a server, identified by its origin. It runs on a GPU if
the driver lists one of its processes there. Servers of other machines, and servers with an unknown
process, run on no GPU here: their calls get no energy.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry._limits import Limit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

IN_PROCESS: Final = "in process"
_HOLDS_S: Final = 5.0
_KEPT_S: Final = 600.0
_LIMIT: Final = Limit("gpu_engines", 256, "Inference engines with their GPUs")


@dataclass(frozen=True, slots=True)
class _Found:
    devices: frozenset[str]
    pids: frozenset[int]
    at_s: float


class Engines:
    """The GPUs of each engine. Used by the monitor's thread only."""

    def __init__(self, pids_of: Callable[[str], Collection[int]]) -> None:
        self._pids_of = pids_of
        self._found: dict[str, _Found] = {}

    def need_lookup(self, engines: Iterable[str], now_s: float) -> bool:
        """Return whether one of the engines is unknown or was looked up too long ago."""
        return any(
            (found := self._found.get(engine)) is None or now_s - found.at_s > _HOLDS_S
            for engine in engines
        )

    def look_up(
        self, engines: Iterable[str], processes: Mapping[str, Collection[int]], now_s: float
    ) -> None:
        """Determine the GPUs of the engines from the process IDs on each device."""
        for engine in engines:
            in_process = engine == IN_PROCESS
            pids = frozenset({os.getpid()} if in_process else self._pids_of(engine))
            devices = {uuid for uuid, there in processes.items() if not pids.isdisjoint(there)}
            if in_process and not devices:
                devices = _devices_of_torch() & processes.keys()
            self._found[engine] = _Found(frozenset(devices), pids, now_s)
        for engine in [e for e, found in self._found.items() if now_s - found.at_s > _KEPT_S]:
            del self._found[engine]
        _LIMIT.trim(self._found)

    def devices(self) -> dict[str, frozenset[str]]:
        """Return the UUIDs of the devices of each known engine."""
        return {engine: found.devices for engine, found in self._found.items()}

    def pids(self) -> frozenset[int]:
        """Return the process IDs of all known engines."""
        return frozenset(pid for found in self._found.values() for pid in found.pids)

    def clear(self) -> None:
        """Remove all engines. In a forked child, `IN_PROCESS` is another process."""
        self._found.clear()


def _devices_of_torch() -> set[str]:
    """Return the GPUs on which torch has allocated memory in this process.

    Used in containers, where the driver lists process IDs of the host. Does not import or
    initialize torch.
    """
    torch: Any = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_initialized():
            return set()
        return {
            f"GPU-{torch.cuda.get_device_properties(index).uuid}"
            for index in range(torch.cuda.device_count())
            if torch.cuda.memory_reserved(index)
        }
    except (AttributeError, RuntimeError):  # older versions of torch do not expose the UUID
        return set()
