"""On which of this machine's GPUs an inference engine runs, found by its processes.

An engine is this process (`IN_PROCESS`) or a server, named by its origin. It runs on a GPU when
the driver lists one of its processes there. A server of another machine, and one whose process
cannot be told, runs nowhere: its calls get no joules of these GPUs.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

IN_PROCESS: Final = "in process"
_HOLDS_S: Final = 5.0
_KEPT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class _Found:
    devices: frozenset[str]
    pids: frozenset[int]
    at_s: float


class Engines:
    """Where engines run, as far as it was looked up. For the sampler's thread only.

    Args:
        pids_of: the processes behind an origin, none if they are not known.
    """

    def __init__(self, pids_of: Callable[[str], Collection[int]]) -> None:
        self._pids_of = pids_of
        self._found: dict[str, _Found] = {}

    def need_lookup(self, engines: Iterable[str], now_s: float) -> bool:
        """Whether one of these is unknown, or was looked up too long ago."""
        return any(
            (found := self._found.get(engine)) is None or now_s - found.at_s > _HOLDS_S
            for engine in engines
        )

    def look_up(
        self, engines: Iterable[str], processes: Mapping[str, Collection[int]], now_s: float
    ) -> None:
        """Find where these run.

        Args:
            engines: `IN_PROCESS`, or origins.
            processes: on each device, by its UUID.
            now_s: by `time.monotonic`.
        """
        for engine in engines:
            in_process = engine == IN_PROCESS
            pids = frozenset({os.getpid()} if in_process else self._pids_of(engine))
            devices = {uuid for uuid, there in processes.items() if not pids.isdisjoint(there)}
            if in_process and not devices:
                devices = _devices_of_torch() & processes.keys()
            self._found[engine] = _Found(frozenset(devices), pids, now_s)
        for engine in [e for e, found in self._found.items() if now_s - found.at_s > _KEPT_S]:
            del self._found[engine]

    def placed(self) -> dict[str, frozenset[str]]:
        """The UUIDs of the devices of each engine that was looked up."""
        return {engine: found.devices for engine, found in self._found.items()}

    def pids(self) -> frozenset[int]:
        """The processes of all of them."""
        return frozenset(pid for found in self._found.values() for pid in found.pids)

    def forget(self) -> None:
        """Forget all of it: in a forked child "this process" is another one."""
        self._found.clear()


def _devices_of_torch() -> set[str]:
    """The GPUs on which torch has memory in this process: where the driver's ids are the host's.

    Nothing is imported or initialised for it.
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
    except (AttributeError, RuntimeError):  # an older torch does not tell the UUID
        return set()
