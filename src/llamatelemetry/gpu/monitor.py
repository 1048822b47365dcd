"""The one thread that reads the GPUs, and what others may look at without reading them.

Every second, and every 100 ms while a call is in flight on a GPU of this machine, it reads the
state of the devices into a `Snapshot` for the metrics, a `History` for the spans, and the
`EnergyLedger`. What is slow to ask for it asks every five seconds, and only in the process that
reports for the host.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

from llamatelemetry.gpu.background import BackgroundLoop
from llamatelemetry.gpu.energy import EnergyLedger
from llamatelemetry.gpu.engines import Engines
from llamatelemetry.gpu.history import History
from llamatelemetry.gpu.neighbours import Neighbours
from llamatelemetry.gpu.reader import (
    GpuDetails,
    GpuDevice,
    GpuLostError,
    GpuState,
    GpuUnavailableError,
)
from llamatelemetry.gpu.visibility import cuda_visible_devices, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from llamatelemetry.gpu.reader import GpuReader

_logger = logging.getLogger("llamatelemetry.gpu")

BUSY_INTERVAL_S: Final = 0.1
_DETAILS_EVERY_S: Final = 5.0
_STALE_AFTER_S: Final = 5.0
_UNKNOWN: Final = GpuState()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the last passes have read. It never changes; a pass makes a new one.

    Attributes:
        devices: all of this machine.
        visible: those that this process can use, in the order in which CUDA numbers them.
        states: of the devices that were read, by UUID.
        details: likewise; empty in a process that does not report for the host.
        processes: of visible devices, the memory in bytes by process id, if that was of use.
        lost: UUIDs of the devices that do not answer any more.
        engine_pids: the processes behind the servers of this machine that were called.
        reports_host: whether this process is the one to report what belongs to the host.
        at_s: of the last pass, by `time.monotonic`.
    """

    devices: tuple[GpuDevice, ...] = ()
    visible: tuple[GpuDevice, ...] = ()
    states: Mapping[str, GpuState] = field(default_factory=dict[str, GpuState])
    details: Mapping[str, GpuDetails] = field(default_factory=dict[str, GpuDetails])
    processes: Mapping[str, Mapping[int, int | None]] = field(
        default_factory=dict[str, "Mapping[int, int | None]"]
    )
    lost: frozenset[str] = frozenset()
    engine_pids: frozenset[int] = frozenset()
    reports_host: bool = False
    at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Timeline:
    """The history of the devices that spans are about, in their order."""

    devices: tuple[GpuDevice, ...]
    history: History


def _nobody(origin: str) -> Collection[int]:  # noqa: ARG001 - as pids_of
    return ()


class GpuMonitor:
    """Reads the GPUs in a thread of its own; everything else here only looks.

    Args:
        reader: used by that thread alone.
        interval_s: between two readings while no call is in flight here.
        pids_of: the processes behind a server's origin, none if they are not known.
        reports_host: whether this process is the one to report what belongs to the host.
        record_pass: told the seconds that each pass took, in that thread.
        reopen_every_s: how often a driver or a device that has gone is tried again.
        shared_folder: gives the folder by which the processes of this host know of each other's
            calls; ``None`` when there is none.
    """

    def __init__(
        self,
        reader: GpuReader,
        *,
        interval_s: float = 1.0,
        pids_of: Callable[[str], Collection[int]] = _nobody,
        reports_host: Callable[[], bool] = lambda: False,
        record_pass: Callable[[float], None] = lambda _: None,
        reopen_every_s: float = 30.0,
        shared_folder: Callable[[], Path | None] = lambda: None,
    ) -> None:
        self._reader = reader
        self._interval_s = interval_s
        self._reports_host = reports_host
        self._record_pass = record_pass
        self._reopen_every_s = reopen_every_s
        self._engines = Engines(pids_of)
        self._neighbours = Neighbours(shared_folder)
        self.ledger = EnergyLedger()
        self.snapshot = Snapshot()
        self.timeline = Timeline((), History(_STALE_AFTER_S))
        self._is_open = False
        self._reopen_at_s = float("inf")
        self._details_at_s = self._processes_at_s = float("-inf")
        self._loop = BackgroundLoop(
            "llamatelemetry-gpu", self._pass, self._finish, self._after_fork
        )

    def start(self) -> None:
        """Start reading. Where there is no driver that ends at once, and costs nothing more."""
        self._loop.start()

    def ensure_running(self) -> None:
        """Start reading again in a forked child; nothing elsewhere."""
        self._loop.ensure_running()

    def stop(self, timeout_s: float) -> bool:
        """Stop reading. False when a call into the driver has not come back by then."""
        return self._loop.stop(timeout_s)

    def read_soon(self) -> None:
        """Read now: a call has begun, and its energy counts from here."""
        self._loop.wake()

    # ---------------------------------------------------------------- one pass
    def _pass(self) -> float | None:
        began_s = time.monotonic()
        try:
            self._open(began_s)
            reports_host = self._reports_host()
            self._place_engines(began_s, reports_host)
            self._read(reports_host)
        except GpuUnavailableError as error:
            _logger.info("No GPU is read: %s", error)
            self._close()
            return None if error.for_good else self._reopen_every_s
        took_s = time.monotonic() - began_s
        self._record_pass(took_s)
        if not self.snapshot.devices:
            return self._reopen_every_s
        pause_s = BUSY_INTERVAL_S if self.ledger.is_busy() else self._interval_s
        # A driver that answers slowly is asked no more than half of the time.
        return max(min(pause_s, self._interval_s) - took_s, took_s)

    def _open(self, now_s: float) -> None:
        if self._is_open and now_s < self._reopen_at_s:
            return
        if self._is_open:
            self._reader.close()
        self._is_open = False
        found = self._reader.open()
        self._is_open = True
        self._reopen_at_s = float("inf") if found else now_s + self._reopen_every_s
        before = self.snapshot
        # The driver does not list what has died, which is to be reported all the same.
        known = {device.uuid for device in found}
        dead = [d for d in before.devices if d.uuid in before.lost and d.uuid not in known]
        devices = tuple(sorted((*found, *dead), key=lambda device: device.index))
        usable = visible(devices, cuda_visible_devices())
        if usable != self.timeline.devices:
            stale_after_s = max(_STALE_AFTER_S, 5 * self._interval_s)
            self.timeline = Timeline(usable, History(stale_after_s))
        self.snapshot = replace(before, devices=devices, visible=usable)

    def _place_engines(self, now_s: float, reports_host: bool) -> None:
        in_flight = self.ledger.engines_in_flight()
        is_due = now_s - self._processes_at_s >= _DETAILS_EVERY_S
        is_of_use = reports_host or self._engines.pids()
        if not (self._engines.need_lookup(in_flight, now_s) or (is_due and is_of_use)):
            return
        self._processes_at_s = now_s
        found = {
            device.uuid: self._or_lost(device, self._reader.processes) or {}
            for device in self.snapshot.visible
        }
        self._engines.look_up(in_flight, found, now_s)
        self.ledger.place(self._engines.placed())
        self.snapshot = replace(
            self.snapshot, processes=found, engine_pids=self._engines.pids() - {os.getpid()}
        )

    def _read(self, reports_host: bool) -> None:
        before = self.snapshot
        states = dict[str, GpuState]()
        energy = dict[str, tuple[float, float]]()
        lost = set[str]()
        for device in before.devices if reports_host else before.visible:
            if self._loop.is_stopping:
                return
            state = self._or_lost(device, self._reader.state)
            states[device.uuid] = state or _UNKNOWN
            if state is None:
                lost.add(device.uuid)
            elif state.energy_j is not None:
                energy[device.uuid] = (time.monotonic(), state.energy_j)
        at_s = time.monotonic()
        idle = {uuid for uuid, state in states.items() if state.utilization == 0}
        self.ledger.settle(energy, idle, self._elsewhere(before.visible, at_s))
        timeline = self.timeline
        if timeline.devices:
            timeline.history.append(at_s, [states[device.uuid] for device in timeline.devices])
        self._note_lost(before.lost, lost, at_s)
        self.snapshot = replace(
            before,
            states=states,
            details=self._details(before, at_s) if reports_host else {},
            lost=frozenset(lost),
            reports_host=reports_host,
            at_s=at_s,
        )

    def _elsewhere(self, devices: Collection[GpuDevice], now_s: float) -> dict[str, int]:
        calls = self.ledger.calls_in_flight()
        here = {device.index: calls[device.uuid] for device in devices if device.uuid in calls}
        others = self._neighbours.exchange(now_s, here)
        return {device.uuid: others[device.index] for device in devices if device.index in others}

    def _details(self, before: Snapshot, now_s: float) -> Mapping[str, GpuDetails]:
        if before.details and now_s - self._details_at_s < _DETAILS_EVERY_S:
            return before.details
        self._details_at_s = now_s
        found = {
            device.uuid: self._or_lost(device, self._reader.details) for device in before.devices
        }
        return {uuid: details for uuid, details in found.items() if details is not None}

    def _or_lost(self, device: GpuDevice, ask: Callable[[GpuDevice], T]) -> T | None:
        try:
            return ask(device)
        except GpuLostError:
            return None

    def _note_lost(self, before: Collection[str], now: Collection[str], now_s: float) -> None:
        for uuid in now:
            if uuid not in before:
                _logger.warning("GPU %s does not answer any more; it is left out", uuid)
        if now and self._reopen_at_s == float("inf"):
            self._reopen_at_s = now_s + self._reopen_every_s

    def _close(self) -> None:
        if self._is_open:
            self._reader.close()
        self._is_open = False
        self.snapshot = Snapshot()

    def _finish(self) -> None:
        self._close()
        self._neighbours.close()
        self.ledger.forget()

    def _after_fork(self) -> None:
        self._is_open = False  # NVML has to be initialised anew
        self._engines.forget()
        self._neighbours.after_fork()
        self.ledger.after_fork()
        self.snapshot = Snapshot()
        self.timeline = Timeline((), History(_STALE_AFTER_S))
