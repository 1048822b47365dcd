"""`GpuReader` for NVIDIA GPUs, by NVML."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from llamatelemetry.gpu.nvml import plausibility
from llamatelemetry.gpu.nvml.plausibility import EnergyCounter, within
from llamatelemetry.gpu.nvml.session import NvmlSession
from llamatelemetry.gpu.reader import GpuDetails, GpuDevice, GpuLostError, GpuState
from llamatelemetry.semconv.gpu import THROTTLE_REASONS

_TEMPERATURE_OF_GPU: Final = 0
_CLOCKS: Final = {"sm": 1, "memory": 2}
_ERRORS: Final = {"corrected": 0, "uncorrected": 1}
_SINCE_DRIVER_LOAD: Final = 0
# NVML_FI_DEV_POWER_INSTANT of the scope GPU, not of the module; nvmlDeviceGetPowerUsage is an
# average over 1 s.
_POWER_NOW: Final = 186
_PCIE_SENT, _PCIE_RECEIVED = 197, 198
_ALL_LINKS: Final = 0xFFFFFFFF
_NVLINK_SENT, _NVLINK_RECEIVED = (138, _ALL_LINKS), (139, _ALL_LINKS)  # KiB
# Bits of nvmlClocksEventReasons that mean throttling. Idle and user-defined clocks are not among
# them.
_THROTTLE_BITS: Final = (0x4, 0x8, 0x20, 0x40, 0x80)
_LOST_AFTER_S: Final = 10.0
"""Seconds after which a device counts as lost if each of its queries fails."""


@dataclass(frozen=True, slots=True)
class _Handles:
    """NVML handles of a device: its own (that of the MIG instance), and that of its board."""

    own: Any
    board: Any
    energy: EnergyCounter = field(default_factory=EnergyCounter)


class NvmlReader:
    """Reader of NVIDIA GPUs. See `GpuReader`.

    Examples:
        >>> from llamatelemetry.gpu import GpuUnavailableError, NvmlReader
        >>> reader = NvmlReader()
        >>> try:
        ...     devices = reader.open()
        ... except GpuUnavailableError as error:
        ...     devices, reason = (), str(error)  # Such as: libnvidia-ml.so.1 not found
        >>> power_w = [reader.state(device).power_w for device in devices]
        >>> links = [reader.details(device).pcie_width for device in devices]
        >>> memory_bytes = [reader.processes(device) for device in devices]
        >>> reader.close()
    """

    def __init__(self) -> None:
        self._nvml = NvmlSession()
        self._handles: dict[str, _Handles] = {}
        # By UUID. A new session does not end a failure.
        self._failing_since_s: dict[str, float] = {}

    def open(self) -> tuple[GpuDevice, ...]:
        """Open a session and return the boards, each followed by its MIG instances."""
        self._nvml.open()
        try:
            self._handles.clear()
            return tuple(self._found())
        except BaseException:
            self._nvml.close()
            raise

    def close(self) -> None:
        """Close the session."""
        self._nvml.close()

    def state(self, device: GpuDevice) -> GpuState:
        """Return the current state. A MIG instance has only its memory.

        Raises:
            GpuLostError: The device is lost, or each query has failed for `_LOST_AFTER_S`.
        """
        failures = self._nvml.failures
        state = self._state(device)
        if state != GpuState() or self._nvml.failures == failures:
            self._failing_since_s.pop(device.uuid, None)
            return state
        now_s = time.monotonic()
        since_s = self._failing_since_s.setdefault(device.uuid, now_s)
        if now_s - since_s >= _LOST_AFTER_S:
            raise GpuLostError(f"every query of {device.uuid} fails")
        return state

    def _state(self, device: GpuDevice) -> GpuState:
        query, handles = self._nvml.query, self._handles_of(device)
        _, used = self._nvml.memory(handles.own)
        if device.parent_uuid is not None:
            # Utilization, power and temperature belong to the whole board.
            return GpuState(memory_used_bytes=used)
        load = query("nvmlDeviceGetUtilizationRates", handles.board)
        temperature = query("nvmlDeviceGetTemperature", handles.board, _TEMPERATURE_OF_GPU)
        power_w = self._power_w(handles.board)
        # Queried last, so that it matches the time at which this method returns.
        energy_mj = query("nvmlDeviceGetTotalEnergyConsumption", handles.board)
        return GpuState(
            utilization=_share(None if load is None else load.gpu),
            memory_used_bytes=used,
            power_w=power_w,
            energy_j=_scaled(handles.energy.check(energy_mj, time.monotonic()), 1e-3),
            temperature_c=_scaled(within(temperature, plausibility.TEMPERATURE_C), 1.0),
        )

    def details(self, device: GpuDevice) -> GpuDetails:
        """Return the details; empty for a MIG instance, because they belong to its board."""
        board = self._handles_of(device).board
        if device.parent_uuid is not None:
            return GpuDetails()
        query = self._nvml.query
        load = query("nvmlDeviceGetUtilizationRates", board)
        sent, received, link_sent, link_received = self._nvml.fields(
            board, (_PCIE_SENT, _PCIE_RECEIVED, _NVLINK_SENT, _NVLINK_RECEIVED)
        )
        return GpuDetails(
            memory_utilization=_share(None if load is None else load.memory),
            encoder_utilization=_first_share(query("nvmlDeviceGetEncoderUtilization", board)),
            decoder_utilization=_first_share(query("nvmlDeviceGetDecoderUtilization", board)),
            power_limit_w=_watts(query("nvmlDeviceGetEnforcedPowerLimit", board), 1),
            clocks_hz=_query_each(_CLOCKS, lambda kind: self._clock_hz(board, kind)),
            throttle_reasons=self._throttle_reasons(board),
            pcie_generation=_generation(query("nvmlDeviceGetCurrPcieLinkGeneration", board)),
            pcie_generation_max=_generation(query("nvmlDeviceGetMaxPcieLinkGeneration", board)),
            pcie_width=_width(query("nvmlDeviceGetCurrPcieLinkWidth", board)),
            pcie_width_max=_width(query("nvmlDeviceGetMaxPcieLinkWidth", board)),
            io_bytes=_known(receive=received, transmit=sent),
            nvlink_bytes=_known(receive=_kib(link_received), transmit=_kib(link_sent)),
            errors=_query_each(
                _ERRORS,
                lambda kind: query("nvmlDeviceGetTotalEccErrors", board, kind, _SINCE_DRIVER_LOAD),
            ),
        )

    def processes(self, device: GpuDevice) -> Mapping[int, int | None] | None:
        """Return the compute processes. In a container, these may be process IDs of the host."""
        found = self._nvml.query(
            "nvmlDeviceGetComputeRunningProcesses", self._handles_of(device).own
        )
        if found is None:
            return None
        return {
            int(each.pid): within(each.usedGpuMemory, plausibility.MEMORY_BYTES) for each in found
        }

    def _found(self) -> list[GpuDevice]:
        devices: list[GpuDevice] = []
        driver = self._nvml.query("nvmlSystemGetDriverVersion")
        cuda = _version(self._nvml.query("nvmlSystemGetCudaDriverVersion_v2"))
        for index in range(self._nvml.query("nvmlDeviceGetCount") or 0):
            try:
                board = self._board(index, driver, cuda)
                if board is not None:
                    devices += [board, *self._instances_of(board)]
            except GpuLostError:
                continue  # a broken device must not hide the others
        return devices

    def _board(self, index: int, driver: str | None, cuda: str | None) -> GpuDevice | None:
        query = self._nvml.query
        handle = query("nvmlDeviceGetHandleByIndex", index)
        uuid = None if handle is None else query("nvmlDeviceGetUUID", handle)
        if uuid is None:
            return None
        self._handles[uuid] = _Handles(handle, handle)
        total, _ = self._nvml.memory(handle)
        mig = query("nvmlDeviceGetMigMode", handle)
        return GpuDevice(
            index=index,
            uuid=uuid,
            name=query("nvmlDeviceGetName", handle),
            memory_total_bytes=total,
            compute_capability=_pair(query("nvmlDeviceGetCudaComputeCapability", handle)),
            driver_version=driver,
            cuda_version=cuda,
            pci_bus_id=self._nvml.bus_id(handle),
            serial_number=query("nvmlDeviceGetSerial", handle),
            firmware_version=query("nvmlDeviceGetVbiosVersion", handle),
            is_partitioned=mig is not None and mig[0] == 1,
        )

    def _instances_of(self, board: GpuDevice) -> list[GpuDevice]:
        if not board.is_partitioned:
            return []
        handle, found = self._handles[board.uuid].board, list[GpuDevice]()
        for number in range(self._nvml.query("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            own = self._nvml.query("nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
            uuid = None if own is None else self._nvml.query("nvmlDeviceGetUUID", own)
            if uuid is None:
                continue
            self._handles[uuid] = _Handles(own, handle)
            total, _ = self._nvml.memory(own)
            found.append(
                replace(
                    board,
                    uuid=uuid,
                    name=self._nvml.query("nvmlDeviceGetName", own) or board.name,
                    memory_total_bytes=total,
                    parent_uuid=board.uuid,
                    gpu_instance_id=self._nvml.query("nvmlDeviceGetGpuInstanceId", own),
                    compute_instance_id=self._nvml.query("nvmlDeviceGetComputeInstanceId", own),
                    is_partitioned=False,
                )
            )
        return found

    def _handles_of(self, device: GpuDevice) -> _Handles:
        handles = self._handles.get(device.uuid)
        if handles is None:
            raise GpuLostError(f"{device.uuid} is no longer present")
        return handles

    def _power_w(self, board: Any) -> float | None:
        (now_mw,) = self._nvml.fields(board, (_POWER_NOW,))
        if within(now_mw, plausibility.POWER_MW) is None:
            now_mw = self._nvml.query("nvmlDeviceGetPowerUsage", board)
        return _watts(now_mw)

    def _clock_hz(self, board: Any, kind: int) -> int | None:
        mhz = within(
            self._nvml.query("nvmlDeviceGetClockInfo", board, kind), plausibility.CLOCK_MHZ
        )
        return None if mhz is None else mhz * 1_000_000

    def _throttle_reasons(self, board: Any) -> tuple[str, ...] | None:
        # Renamed in driver 535.
        bits = self._nvml.query("nvmlDeviceGetCurrentClocksEventReasons", board)
        if bits is None:
            bits = self._nvml.query("nvmlDeviceGetCurrentClocksThrottleReasons", board)
        if bits is None:
            return None
        reasons = zip(_THROTTLE_BITS, THROTTLE_REASONS, strict=True)
        return tuple(name for bit, name in reasons if bits & bit)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _watts(value_mw: int | None, smallest: int = 0) -> float | None:
    return _scaled(within(value_mw, plausibility.POWER_MW, smallest), 1e-3)


def _share(percent: int | None) -> float | None:
    known = within(percent, plausibility.PERCENT)
    return None if known is None else known / 100


def _first_share(percent_and_period: list[int] | None) -> float | None:
    return _share(None if percent_and_period is None else percent_and_period[0])


def _generation(value: int | None) -> int | None:
    return within(value, plausibility.PCIE_GENERATION, 1)


def _width(value: int | None) -> int | None:
    return within(value, plausibility.PCIE_WIDTH, 1)


def _kib(value: int | None) -> int | None:
    return None if value is None else value * 1024


def _known(**counts: int | None) -> dict[str, int]:
    return {
        name: count
        for name, given in counts.items()
        if (count := within(given, plausibility.COUNT)) is not None
    }


def _query_each(kinds: Mapping[str, int], query: Callable[[int], int | None]) -> dict[str, int]:
    return _known(**{name: query(kind) for name, kind in kinds.items()})


def _pair(found: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if found is None or min(found) < 0 else (found[0], found[1])


def _version(number: int | None) -> str | None:
    """Convert the driver's number: 12080 is CUDA 12.8."""
    return None if number is None or number < 0 else f"{number // 1000}.{number % 1000 // 10}"
