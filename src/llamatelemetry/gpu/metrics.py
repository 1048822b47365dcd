"""Metrics of the GPUs, observed from the monitor's last snapshot.

Host-wide metrics come from the one process that reports for the host. The GPU memory of a process,
and the duration of readings, come from every process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry.metrics import Observation, get_meter

from llamatelemetry import __version__
from llamatelemetry.genai import internal_errors
from llamatelemetry.gpu.reader import GpuDetails, GpuDevice, GpuState
from llamatelemetry.otel.client_metrics import create_histogram
from llamatelemetry.semconv import gpu as names
from llamatelemetry.semconv.attributes import ERROR_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.gpu.monitor.monitor import GpuMonitor, Snapshot
    from llamatelemetry.semconv.gpu import ObservedSpec

    Attributes = Mapping[str, AttributeValue]
    Measurements = Iterator[tuple[float | None, Attributes]]
    """Values of one device, with the attributes that distinguish them."""
    _Reader = Callable[["_Reading"], Measurements]

SCOPE: Final = "llamatelemetry.gpu"
_IS_GPU: Final[Attributes] = {names.HW_TYPE: "gpu"}
_NONE: Final[Attributes] = {}


class GpuMetrics:
    """Instruments that observe the last snapshot of a monitor.

    Observable instruments cannot be removed from a meter. So this object is created once per meter
    provider, and `show` sets the monitor.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        self._monitor: GpuMonitor | None = None
        self._counters = _Monotonic()
        meter = get_meter(SCOPE, __version__, meter_provider, schema_url=names.SCHEMA_URL)
        for spec, read in _OF_DEVICE.items():
            self._create(meter, spec, partial(self._of_host, spec, read))
        self._create(meter, names.PROCESS_MEMORY, _process_memory)
        self._sampling = create_histogram(meter, names.SAMPLING_DURATION)

    def show(self, monitor: GpuMonitor | None) -> None:
        """Set the monitor to observe; `None` observes nothing."""
        self._monitor = monitor

    def record_pass(self, duration_s: float) -> None:
        """Record the duration of one reading, in seconds."""
        self._sampling.record(duration_s)

    def _create(
        self,
        meter: Meter,
        spec: ObservedSpec,
        observe: Callable[[Snapshot], Iterable[Observation]],
    ) -> None:
        create = {
            "gauge": meter.create_observable_gauge,
            "counter": meter.create_observable_counter,
            "up_down_counter": meter.create_observable_up_down_counter,
        }[spec.kind]

        def callback(_options: CallbackOptions) -> list[Observation]:
            monitor = self._monitor
            if monitor is None:
                return []
            monitor.ensure_running()
            try:
                return list(observe(monitor.current()))
            except Exception as error:
                internal_errors.log_once(f"observing {spec.name}", error)
                return []

        create(spec.name, [callback], spec.unit, spec.description)

    def _of_host(
        self, spec: ObservedSpec, read: Callable[[_Reading], Measurements], snapshot: Snapshot
    ) -> Iterator[Observation]:
        for device in snapshot.devices if snapshot.reports_host else ():
            state = snapshot.states.get(device.uuid)
            if state is None:
                continue
            is_lost = device.uuid in snapshot.lost
            # The details are read less often, so those of a lost device are from before the loss.
            details = None if is_lost else snapshot.details.get(device.uuid)
            reading = _Reading(device, state, details or GpuDetails(), is_lost)
            for value, attributes in read(reading):
                if value is None:
                    continue
                shown = {**_described(device), **attributes}
                if spec.kind == "counter":
                    key = (spec.name, device.uuid, *attributes.values())
                    yield Observation(self._counters.next(key, value), shown)
                else:
                    yield Observation(value, shown)


def _process_memory(snapshot: Snapshot) -> Iterator[Observation]:
    # Several processes may call one server. Only the process that reports for the host reports it.
    servers = snapshot.engine_pids if snapshot.reports_host else frozenset[int]()
    for device in snapshot.visible:
        for pid, used in snapshot.processes.get(device.uuid, {}).items():
            if used is not None and (pid == os.getpid() or pid in servers):
                yield Observation(used, {**_described(device), names.PROCESS_PID: pid})


class _Monotonic:
    """Continues counters that restart from 0 when the driver is reloaded.

    A counter has restarted when two values in a row are lower than the one before. A single lower
    value is a reading error, and the value before is repeated.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[object, ...], float] = {}
        self._base: dict[tuple[object, ...], float] = {}
        self._decreased: set[tuple[object, ...]] = set()

    def next(self, key: tuple[object, ...], value: float) -> float:
        last = self._last.get(key, value)
        base = self._base.get(key, 0)
        if value >= last:
            self._decreased.discard(key)
        elif key not in self._decreased:
            self._decreased.add(key)
            return base + last
        else:
            self._decreased.discard(key)
            base += last
        self._last[key], self._base[key] = value, base
        return base + value


def _described(device: GpuDevice) -> dict[str, AttributeValue]:
    known = {
        names.HW_ID: device.uuid,
        names.HW_NAME: f"GPU {device.index}",
        names.HW_MODEL: device.name,
        names.HW_VENDOR: device.vendor,
        names.HW_PARENT: device.parent_uuid,
        names.HW_SERIAL_NUMBER: device.serial_number,
        names.HW_DRIVER_VERSION: device.driver_version,
        names.HW_FIRMWARE_VERSION: device.firmware_version,
    }
    return {name: value for name, value in known.items() if value is not None}


class _Reading(NamedTuple):
    device: GpuDevice
    state: GpuState
    details: GpuDetails
    is_lost: bool


def _one(value_of: Callable[[_Reading], float | None], attributes: Attributes = _NONE) -> _Reader:
    """Return a reader of one measurement per device."""

    def read(reading: _Reading) -> Measurements:
        yield value_of(reading), attributes

    return read


def _by(attribute: str, values_of: Callable[[_Reading], Mapping[str, float]]) -> _Reader:
    """Return a reader of one measurement per key, with the key as attribute."""

    def read(reading: _Reading) -> Measurements:
        for key, value in values_of(reading).items():
            yield value, {attribute: key}

    return read


def _utilization(reading: _Reading) -> Measurements:
    yield reading.state.utilization, {names.HW_GPU_TASK: "general"}
    yield reading.details.encoder_utilization, {names.HW_GPU_TASK: "encoder"}
    yield reading.details.decoder_utilization, {names.HW_GPU_TASK: "decoder"}


def _memory_utilization(reading: _Reading) -> float | None:
    used, total = reading.state.memory_used_bytes, reading.device.memory_total_bytes
    return used / total if used is not None and total else None


def _errors(reading: _Reading) -> Measurements:
    for kind, count in reading.details.errors.items():
        yield count, {**_IS_GPU, ERROR_TYPE: kind}


def _status(reading: _Reading) -> Measurements:
    state = "degraded" if reading.details.errors.get("uncorrected") else "ok"
    if reading.is_lost:
        state = "failed"
    for each in ("ok", "degraded", "failed"):
        yield int(each == state), {**_IS_GPU, names.HW_STATE: each}


def _throttled(reading: _Reading) -> Measurements:
    reasons = reading.details.throttle_reasons
    for reason in () if reasons is None else names.THROTTLE_REASONS:
        yield int(reason in (reasons or ())), {names.THROTTLE_REASON: reason}


_OF_DEVICE: Final[Mapping[ObservedSpec, _Reader]] = {
    names.HW_GPU_UTILIZATION: _utilization,
    names.HW_GPU_MEMORY_USAGE: _one(lambda r: r.state.memory_used_bytes),
    names.HW_GPU_MEMORY_LIMIT: _one(lambda r: r.device.memory_total_bytes),
    names.HW_GPU_MEMORY_UTILIZATION: _one(_memory_utilization),
    names.HW_GPU_IO: _by(names.NETWORK_IO_DIRECTION, lambda r: r.details.io_bytes),
    names.HW_POWER: _one(lambda r: r.state.power_w, _IS_GPU),
    names.HW_ENERGY: _one(lambda r: r.state.energy_j, _IS_GPU),
    names.HW_TEMPERATURE: _one(lambda r: r.state.temperature_c, {names.HW_SENSOR_LOCATION: "gpu"}),
    names.HW_ERRORS: _errors,
    names.HW_STATUS: _status,
    names.POWER_LIMIT: _one(lambda r: r.details.power_limit_w),
    names.CLOCK: _by(names.CLOCK_DOMAIN, lambda r: r.details.clocks_hz),
    names.THROTTLED: _throttled,
    names.MEMORY_ACTIVITY: _one(lambda r: r.details.memory_utilization),
    names.PCIE_GENERATION: _one(lambda r: r.details.pcie_generation),
    names.PCIE_GENERATION_MAX: _one(lambda r: r.details.pcie_generation_max),
    names.PCIE_WIDTH: _one(lambda r: r.details.pcie_width),
    names.PCIE_WIDTH_MAX: _one(lambda r: r.details.pcie_width_max),
    names.NVLINK_IO: _by(names.NETWORK_IO_DIRECTION, lambda r: r.details.nvlink_bytes),
}
