"""The thread that reads the GPUs.

Every second, and every 100 ms while a call is in flight on a GPU of this machine, it reads the
state of the devices into a `Snapshot` for the metrics, a `History` for the spans, and the
`EnergyLedger`. Slow queries run every five seconds, and only in the process that reports for the
host.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

from llamatelemetry.gpu.devices import cuda_visible_devices, visible
from llamatelemetry.gpu.energy import EnergyLedger
from llamatelemetry.gpu.monitor.background import BackgroundLoop
from llamatelemetry.gpu.monitor.engines import Engines
from llamatelemetry.gpu.monitor.history import History
from llamatelemetry.gpu.monitor.host_call_counts import HostCallCounts
from llamatelemetry.gpu.reader import (
    GpuDetails,
    GpuDevice,
    GpuLostError,
    GpuState,
    GpuUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from llamatelemetry.gpu.reader import GpuReader

_logger = logging.getLogger("llamatelemetry.gpu")

BUSY_INTERVAL_S: Final = 0.1
_DETAILS_EVERY_S: Final = 5.0
_STALE_AFTER_S: Final = 5.0
_STUCK_AFTER_S: Final = 10.0
_UNKNOWN: Final = GpuState()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Result of the last pass. Immutable; each pass creates a new one. Mappings are by UUID.

    Attributes:
        devices: All devices of this machine.
        visible: Devices that this process can use, in CUDA's order.
        details: Details; empty in a process that does not report for the host.
        processes: Memory in bytes by process ID, for visible devices, if it was needed.
        lost: Devices that stopped responding.
        engine_pids: Process IDs of the called servers on this machine.
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


class GpuMonitor:
    """Reader of the GPUs in a background thread. Other threads see its last results.

    Args:
        reader: GPU library; used by the thread only.
        interval_s: Seconds between two readings while no call is in flight on this machine.
        pids_of: Function that returns the process IDs of a server, given its origin.
        reports_host: Function that returns whether this process reports for the host.
        record_pass: Function that receives the duration of each pass, in seconds.
        reopen_every_s: Seconds between attempts to reopen a lost driver or device.
        shared_folder: Function that returns the directory for the call counts that the processes
            of this host share; `None` if there is none.
    """

    def __init__(
        self,
        reader: GpuReader,
        *,
        interval_s: float = 1.0,
        pids_of: Callable[[str], Collection[int]] = lambda _: (),
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
        self._host_calls = HostCallCounts(shared_folder)
        self.ledger = EnergyLedger()
        self.snapshot = Snapshot()
        self.history = History(_STALE_AFTER_S)
        self._is_open = False
        self._took_s = 0.0
        self._reopen_at_s = float("inf")
        self._details_at_s = self._processes_at_s = float("-inf")
        self._loop = BackgroundLoop(
            "llamatelemetry-gpu", self._pass, self._finish, self._after_fork
        )

    def start(self) -> None:
        """Start the thread. Without a driver it ends at once."""
        self._loop.start()

    def ensure_running(self) -> None:
        """Restart the thread in a forked child. Does nothing if it is running."""
        self._loop.ensure_running()

    def stop(self, timeout_s: float) -> bool:
        """Stop the thread. Return whether it ended within `timeout_s`."""
        return self._loop.stop(timeout_s)

    def current(self) -> Snapshot:
        """Return the last snapshot, or one of lost devices if the driver does not return any more."""
        last = self.snapshot
        # A slow driver is read half of the time.
        allowed_s = max(_STUCK_AFTER_S, 5 * self._interval_s, 5 * self._took_s)
        if time.monotonic() - last.at_s < allowed_s:
            return last
        return replace(
            last,
            states=dict.fromkeys(last.states, _UNKNOWN),
            details={},
            processes={},
            lost=frozenset(last.states),
        )

    def read_soon(self) -> None:
        """Read the GPUs now, because a call has started."""
        self._loop.wake()

    def _pass(self) -> float | None:
        began_s = time.monotonic()
        try:
            self._open(began_s)
            reports_host = self._reports_host()
            self._locate_engines(began_s, reports_host)
            self._read(reports_host)
        except GpuUnavailableError as error:
            _logger.info("Not reading GPUs: %s", error)
            self._close()
            return None if error.is_permanent else self._reopen_every_s
        self._took_s = took_s = time.monotonic() - began_s
        self._record_pass(took_s)
        if not self.snapshot.devices:
            return self._reopen_every_s
        pause_s = BUSY_INTERVAL_S if self.ledger.is_busy() else self._interval_s
        # At most half of the time is spent in a slow driver.
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
        # The driver no longer lists lost devices. They are still reported as lost.
        known = {device.uuid for device in found}
        dead = [d for d in before.devices if d.uuid in before.lost and d.uuid not in known]
        devices = tuple(sorted((*found, *dead), key=lambda device: device.index))
        usable = visible(devices, cuda_visible_devices())
        if usable != self.history.devices:
            self.history = History(max(_STALE_AFTER_S, 5 * self._interval_s), usable)
        self.snapshot = replace(before, devices=devices, visible=usable)

    def _locate_engines(self, now_s: float, reports_host: bool) -> None:
        in_flight = self.ledger.engines_in_flight()
        is_due = now_s - self._processes_at_s >= _DETAILS_EVERY_S
        is_needed = reports_host or self._engines.pids()
        if not (self._engines.need_lookup(in_flight, now_s) or (is_due and is_needed)):
            return
        self._processes_at_s = now_s
        found = {
            device.uuid: self._or_lost(device, self._reader.processes) or {}
            for device in self.snapshot.visible
        }
        self._engines.look_up(in_flight, found, now_s)
        self.ledger.place(self._engines.devices())
        self.snapshot = replace(
            self.snapshot, processes=found, engine_pids=self._engines.pids() - {os.getpid()}
        )

    def _read(self, reports_host: bool) -> None:
        before = self.snapshot
        states = dict[str, GpuState]()
        energy = dict[str, tuple[float, float | None]]()
        lost = set[str]()
        for device in before.devices if reports_host else before.visible:
            if self._loop.is_stopping:
                return
            state = self._or_lost(device, self._reader.state)
            states[device.uuid] = state or _UNKNOWN
            if state is None:
                lost.add(device.uuid)
            else:
                energy[device.uuid] = (time.monotonic(), state.energy_j)
        at_s = time.monotonic()
        idle = {uuid for uuid, state in states.items() if state.utilization == 0}
        self.ledger.settle(energy, idle, self._calls_of_other_processes(before.visible, at_s))
        if self.history.devices:
            self.history.append(at_s, [states[device.uuid] for device in self.history.devices])
        self._report_lost(before.lost, lost, at_s)
        self.snapshot = replace(
            before,
            states=states,
            details=self._details(before, at_s) if reports_host else {},
            lost=frozenset(lost),
            reports_host=reports_host,
            at_s=at_s,
        )

    def _calls_of_other_processes(
        self, devices: Collection[GpuDevice], now_s: float
    ) -> dict[str, int]:
        calls = self.ledger.calls_in_flight()
        here = {device.index: calls[device.uuid] for device in devices if device.uuid in calls}
        others = self._host_calls.exchange(now_s, here)
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

    def _report_lost(self, before: Collection[str], now: Collection[str], now_s: float) -> None:
        for uuid in now:
            if uuid not in before:
                _logger.warning(
                    "GPU %s stopped responding; it is excluded from metrics and spans", uuid
                )
        if now and self._reopen_at_s == float("inf"):
            self._reopen_at_s = now_s + self._reopen_every_s

    def _close(self) -> None:
        if self._is_open:
            self._reader.close()
        self._is_open = False
        self.snapshot = Snapshot()

    def _finish(self) -> None:
        self._close()
        self._host_calls.close()
        self.ledger.clear()

    def _after_fork(self) -> None:
        self._is_open = False  # NVML must be initialized again
        self._engines.clear()
        self._host_calls.after_fork()
        self.ledger.after_fork()
        self.snapshot = Snapshot()
        self.history = History(_STALE_AFTER_S)
