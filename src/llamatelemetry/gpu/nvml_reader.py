"""NVIDIA's GPUs, by NVML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llamatelemetry.gpu.nvml import NvmlSession
from llamatelemetry.gpu.reader import (
    GpuDetails,
    GpuDevice,
    GpuLostError,
    GpuState,
)
from llamatelemetry.semconv.gpu import THROTTLE_REASONS

_TEMPERATURE_OF_GPU: Final = 0
_CLOCKS: Final = {"sm": 1, "memory": 2}
_ERRORS: Final = {"corrected": 0, "uncorrected": 1}
_SINCE_DRIVER_LOAD: Final = 0
_POWER_NOW: Final = 186  # NVML_FI_DEV_POWER_INSTANT; the other query is an average of a second
_PCIE_SENT, _PCIE_RECEIVED = 197, 198
_ALL_LINKS: Final = 0xFFFFFFFF
_NVLINK_SENT, _NVLINK_RECEIVED = (138, _ALL_LINKS), (139, _ALL_LINKS)  # KiB
# Bits of nvmlClocksEventReasons that mean slower than it could be: not idling, not a user's own
# choice of clocks.
_THROTTLE_BITS: Final = (0x4, 0x8, 0x20, 0x40, 0x80)


@dataclass(frozen=True, slots=True)
class _Handles:
    own: Any
    """Of the instance, where the device is a MIG instance."""
    board: Any


class NvmlReader:
    """The `GpuReader` of NVIDIA's driver."""

    def __init__(self) -> None:
        self._nvml = NvmlSession()
        self._handles: dict[str, _Handles] = {}

    def open(self) -> tuple[GpuDevice, ...]:
        """Start a session, and give each board, followed by its MIG instances."""
        self._nvml.open()
        try:
            self._handles.clear()
            return tuple(self._found())
        except BaseException:
            self._nvml.close()
            raise

    def close(self) -> None:
        """End the session."""
        self._nvml.close()

    def state(self, device: GpuDevice) -> GpuState:
        """Ask for what changes fast. Of a MIG instance that is its memory."""
        ask, handles = self._nvml.ask, self._handles_of(device)
        memory = ask("nvmlDeviceGetMemoryInfo", handles.own)
        used = None if memory is None else int(memory.used)
        if device.parent_uuid is not None:
            # Load, power and temperature are of the whole board.
            return GpuState(memory_used_bytes=used)
        load = ask("nvmlDeviceGetUtilizationRates", handles.board)
        temperature = ask("nvmlDeviceGetTemperature", handles.board, _TEMPERATURE_OF_GPU)
        power_w = self._power_w(handles.board)
        # The last, so that it belongs to the moment at which this returns.
        energy_mj = ask("nvmlDeviceGetTotalEnergyConsumption", handles.board)
        return GpuState(
            utilization=None if load is None else load.gpu / 100,
            memory_used_bytes=used,
            power_w=power_w,
            energy_j=_scaled(energy_mj, 1e-3),
            temperature_c=_scaled(temperature, 1.0),
        )

    def details(self, device: GpuDevice) -> GpuDetails:
        """Ask for what changes slowly. Of a MIG instance nothing is told: it is the board's."""
        board = self._handles_of(device).board
        if device.parent_uuid is not None:
            return GpuDetails()
        ask = self._nvml.ask
        load = ask("nvmlDeviceGetUtilizationRates", board)
        sent, received, link_sent, link_received = self._nvml.fields(
            board, (_PCIE_SENT, _PCIE_RECEIVED, _NVLINK_SENT, _NVLINK_RECEIVED)
        )
        return GpuDetails(
            memory_utilization=None if load is None else load.memory / 100,
            encoder_utilization=_share(ask("nvmlDeviceGetEncoderUtilization", board)),
            decoder_utilization=_share(ask("nvmlDeviceGetDecoderUtilization", board)),
            power_limit_w=_scaled(ask("nvmlDeviceGetEnforcedPowerLimit", board), 1e-3),
            clocks_hz=_answered(_CLOCKS, lambda kind: self._clock_hz(board, kind)),
            throttle_reasons=self._throttle_reasons(board),
            pcie_generation=ask("nvmlDeviceGetCurrPcieLinkGeneration", board),
            pcie_generation_max=ask("nvmlDeviceGetMaxPcieLinkGeneration", board),
            pcie_width=ask("nvmlDeviceGetCurrPcieLinkWidth", board),
            pcie_width_max=ask("nvmlDeviceGetMaxPcieLinkWidth", board),
            io_bytes=_known(receive=received, transmit=sent),
            nvlink_bytes=_known(receive=_kib(link_received), transmit=_kib(link_sent)),
            errors=_answered(
                _ERRORS,
                lambda kind: ask("nvmlDeviceGetTotalEccErrors", board, kind, _SINCE_DRIVER_LOAD),
            ),
        )

    def processes(self, device: GpuDevice) -> Mapping[int, int | None] | None:
        """Ask for the processes that compute. In a container these may be ids of the host."""
        found = self._nvml.ask("nvmlDeviceGetComputeRunningProcesses", self._handles_of(device).own)
        if found is None:
            return None
        return {
            int(each.pid): None if each.usedGpuMemory is None else int(each.usedGpuMemory)
            for each in found
        }

    # ---------------------------------------------------------------- which devices there are
    def _found(self) -> list[GpuDevice]:
        devices: list[GpuDevice] = []
        driver = self._nvml.ask("nvmlSystemGetDriverVersion")
        cuda = _version(self._nvml.ask("nvmlSystemGetCudaDriverVersion_v2"))
        for index in range(self._nvml.ask("nvmlDeviceGetCount") or 0):
            try:
                board = self._board(index, driver, cuda)
                if board is not None:
                    devices += [board, *self._instances_of(board)]
            except GpuLostError:
                continue  # one that is broken from the start does not hide the others
        return devices

    def _board(self, index: int, driver: str | None, cuda: str | None) -> GpuDevice | None:
        ask = self._nvml.ask
        handle = ask("nvmlDeviceGetHandleByIndex", index)
        uuid = None if handle is None else ask("nvmlDeviceGetUUID", handle)
        if uuid is None:
            return None
        self._handles[uuid] = _Handles(handle, handle)
        memory = ask("nvmlDeviceGetMemoryInfo", handle)
        pci = ask("nvmlDeviceGetPciInfo", handle)
        mig = ask("nvmlDeviceGetMigMode", handle)
        return GpuDevice(
            index=index,
            uuid=uuid,
            name=ask("nvmlDeviceGetName", handle),
            memory_total_bytes=None if memory is None else int(memory.total),
            compute_capability=_pair(ask("nvmlDeviceGetCudaComputeCapability", handle)),
            driver_version=driver,
            cuda_version=cuda,
            pci_bus_id=None if pci is None else _text(pci.busId),
            serial_number=ask("nvmlDeviceGetSerial", handle),
            firmware_version=ask("nvmlDeviceGetVbiosVersion", handle),
            is_partitioned=mig is not None and mig[0] == 1,
        )

    def _instances_of(self, board: GpuDevice) -> list[GpuDevice]:
        if not board.is_partitioned:
            return []
        handle, found = self._handles[board.uuid].board, list[GpuDevice]()
        for number in range(self._nvml.ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            own = self._nvml.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
            uuid = None if own is None else self._nvml.ask("nvmlDeviceGetUUID", own)
            if uuid is None:
                continue
            self._handles[uuid] = _Handles(own, handle)
            memory = self._nvml.ask("nvmlDeviceGetMemoryInfo", own)
            found.append(
                GpuDevice(
                    index=board.index,
                    uuid=uuid,
                    name=self._nvml.ask("nvmlDeviceGetName", own) or board.name,
                    memory_total_bytes=None if memory is None else int(memory.total),
                    compute_capability=board.compute_capability,
                    driver_version=board.driver_version,
                    cuda_version=board.cuda_version,
                    pci_bus_id=board.pci_bus_id,
                    serial_number=board.serial_number,
                    firmware_version=board.firmware_version,
                    parent_uuid=board.uuid,
                )
            )
        return found

    # ---------------------------------------------------------------- single questions
    def _handles_of(self, device: GpuDevice) -> _Handles:
        handles = self._handles.get(device.uuid)
        if handles is None:
            raise GpuLostError(f"{device.uuid} is not there any more")
        return handles

    def _power_w(self, board: Any) -> float | None:
        (now_mw,) = self._nvml.fields(board, (_POWER_NOW,))
        if now_mw is None:
            now_mw = self._nvml.ask("nvmlDeviceGetPowerUsage", board)
        return _scaled(now_mw, 1e-3)

    def _clock_hz(self, board: Any, kind: int) -> int | None:
        mhz = self._nvml.ask("nvmlDeviceGetClockInfo", board, kind)
        return None if mhz is None else mhz * 1_000_000

    def _throttle_reasons(self, board: Any) -> tuple[str, ...] | None:
        # The first is the name from driver 535 on.
        bits = self._nvml.ask("nvmlDeviceGetCurrentClocksEventReasons", board)
        if bits is None:
            bits = self._nvml.ask("nvmlDeviceGetCurrentClocksThrottleReasons", board)
        if bits is None:
            return None
        reasons = zip(_THROTTLE_BITS, THROTTLE_REASONS, strict=True)
        return tuple(name for bit, name in reasons if bits & bit)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _share(percent_and_period: list[int] | None) -> float | None:
    return None if percent_and_period is None else percent_and_period[0] / 100


def _kib(value: int | None) -> int | None:
    return None if value is None else value * 1024


def _known(**values: int | None) -> dict[str, int]:
    return {name: value for name, value in values.items() if value is not None}


def _answered(kinds: Mapping[str, int], ask: Callable[[int], int | None]) -> dict[str, int]:
    return _known(**{name: ask(kind) for name, kind in kinds.items()})


def _pair(found: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if found is None else (found[0], found[1])


def _version(number: int | None) -> str | None:
    """12080 is CUDA 12.8."""
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
